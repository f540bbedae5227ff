"""A property graph with validity intervals on its edges (GRA-1)."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import EllipsisType
from typing import Any, Protocol, final, get_args

from polymem.contracts._graph_types import (
    EDGE_MEMBERS,
    Direction,
    Edge,
    GraphSize,
    Neighbour,
    Node,
    NodeLike,
    NodeRef,
    Relationship,
    Subgraph,
    Visit,
    as_relationship,
    new_edge,
    new_node,
    node_ref,
)
from polymem.contracts._input import PAGE, Where, all_checked, json_object, several, stream
from polymem.contracts.filter import matches, parse
from polymem.core.clock import to_instant
from polymem.core.page import Page
from polymem.core.text import check_key, check_limit, check_name
from polymem.errors import StorageDataError, StorageNotFoundError

__all__ = [
    "Direction",
    "Edge",
    "Graph",
    "GraphDriver",
    "GraphFeatures",
    "GraphSize",
    "Neighbour",
    "Node",
    "NodeLike",
    "NodeRef",
    "Relationship",
    "Subgraph",
    "Visit",
]


@dataclass(frozen=True, slots=True)
class GraphFeatures:
    """What a graph cell can do."""

    durable: bool = True


class GraphDriver(Protocol):
    """The graphs of one namespace, each under its name."""

    @property
    def features(self) -> GraphFeatures: ...

    async def create_nodes(self, graph: str, nodes: Sequence[Node], /) -> None:
        """All or nothing; an existing identity is a `StorageConflictError`."""
        ...

    async def get_nodes(self, graph: str, refs: Sequence[NodeRef], /) -> list[Node]:
        """Those that exist."""
        ...

    async def update_node(self, graph: str, node: Node, /) -> bool:
        """Replace the properties; False where there is no such node."""
        ...

    async def delete_node(self, graph: str, ref: NodeRef, /) -> bool:
        """Remove a node with all its edges."""
        ...

    async def create_edges(self, graph: str, edges: Sequence[Edge], /) -> None:
        """All or nothing; a missing end is `StorageNotFoundError`, an existing id `StorageConflictError`."""
        ...

    async def get_edge(self, graph: str, edge_id: str, /) -> Edge | None: ...

    async def update_edge(self, graph: str, edge: Edge, /) -> bool:
        """Replace properties and validity (ends and type stay); False where there is no such edge."""
        ...

    async def delete_edge(self, graph: str, edge_id: str, /) -> bool: ...

    async def expand(
        self,
        graph: str,
        refs: Sequence[NodeRef],
        /,
        *,
        direction: Direction,
        types: Sequence[str],
        as_of: int | None,
    ) -> list[tuple[Edge, Node]]:
        """Every edge at one of `refs` that fits (no types: all; `as_of` None: whatever its validity) with the
        node at its other end, ordered by edge id. With "both", an edge whose two ends are in `refs` comes
        once for each.
        """
        ...

    async def page(self, graph: str, label: str | None, after: str | None, limit: int, /) -> Page[Node]:
        """Nodes in order of (label, id); `after` is an opaque position from the previous page."""
        ...

    async def count(self, graph: str, /) -> tuple[int, int]:
        """How many nodes and edges there are."""
        ...

    async def clear(self, graph: str, /) -> int:
        """Remove the graph; how many nodes it had."""
        ...


@final
class Graph:
    """What users hold: `store.graph(name)`, one property graph.

    A node is identified by its label and id, an edge by its id; labels and types are plain names, ids any
    text. Wherever edges are followed, `direction` is "out" (source to target), "in" or "both", `types` are
    the edge types to follow (none: all) and `as_of` keeps to the edges valid at that instant (None: whatever
    their validity). Bad input is a `StorageDataError` that names the field.
    """

    def __init__(self, driver: GraphDriver, name: str = "default") -> None:
        self._driver, self._name = driver, check_name(name, field="name")

    @property
    def features(self) -> GraphFeatures:
        return self._driver.features

    async def create_node(self, id: str | None, label: str, properties: Mapping[str, Any] | None = None) -> Node:
        """Add a node, with a made-up id where it is None; one that exists is a `StorageConflictError`."""
        return (await self.create_nodes([{"id": id, "label": label, "properties": properties}]))[0]

    async def create_nodes(self, nodes: Iterable[Node | Mapping[str, Any]]) -> list[Node]:
        """Add nodes, all or nothing; each a `Node` or a mapping with label, id, properties."""
        checked = await all_checked(nodes, new_node, field="nodes")
        if checked:
            await self._driver.create_nodes(self._name, checked)
        return checked

    async def get_node(self, node: NodeLike) -> Node | None:
        """The node, None where there is none."""
        return next(iter(await self.get_nodes([node])), None)

    async def get_nodes(self, nodes: Iterable[NodeLike]) -> list[Node]:
        """Those that exist, each once, in the order given."""
        refs = list(dict.fromkeys(node_ref(node, "nodes") for node in several(nodes, field="nodes")))
        found = {node.ref: node for node in await self._driver.get_nodes(self._name, refs)}
        return [found[ref] for ref in refs if ref in found]

    async def update_node(self, node: NodeLike, properties: Mapping[str, Any]) -> Node:
        """Replace all properties of a node; an absent one is a `StorageNotFoundError`.

        To change some of them, read and write within a transaction.
        """
        changed = Node(*node_ref(node, "node"), json_object(properties, field="properties"))
        if not await self._driver.update_node(self._name, changed):
            raise StorageNotFoundError("no such node", field="node")
        return changed

    async def delete_node(self, node: NodeLike) -> bool:
        """Remove a node with all its edges; whether it was there."""
        return await self._driver.delete_node(self._name, node_ref(node, "node"))

    async def create_edge(
        self,
        source: NodeLike,
        target: NodeLike,
        type: str,
        properties: Mapping[str, Any] | None = None,
        *,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        id: str | None = None,
    ) -> Relationship:
        """Add an edge; several between the same nodes are fine.

        A missing end is a `StorageNotFoundError`, an id that exists a `StorageConflictError`.
        """
        edge = dict(zip(EDGE_MEMBERS, (source, target, type, properties, valid_from, valid_to, id), strict=True))
        return (await self.create_edges([edge]))[0]

    async def create_edges(self, edges: Iterable[Relationship | Mapping[str, Any]]) -> list[Relationship]:
        """Add edges, all or nothing; each a `Relationship` or a mapping of the arguments of `create_edge`."""
        checked = await all_checked(edges, new_edge, field="edges")
        if checked:
            await self._driver.create_edges(self._name, checked)
        return [as_relationship(edge) for edge in checked]

    async def get_edge(self, id: str) -> Relationship | None:
        """The edge, None where there is none."""
        edge = await self._driver.get_edge(self._name, check_key(id, field="id"))
        return None if edge is None else as_relationship(edge)

    async def update_edge(
        self,
        id: str,
        *,
        properties: Mapping[str, Any] | None = None,
        valid_from: datetime | EllipsisType | None = ...,
        valid_to: datetime | EllipsisType | None = ...,
    ) -> Relationship:
        """Replace what is given and keep the rest; ends and type of an edge never change.

        An absent edge is a `StorageNotFoundError`. Of two updates at once the later one wins.
        """
        old = await self.get_edge(id)
        if old is None:
            raise StorageNotFoundError("no such edge", field="id")
        new = new_edge(
            replace(
                old,
                properties=old.properties if properties is None else json_object(properties, field="properties"),
                valid_from=old.valid_from if isinstance(valid_from, EllipsisType) else valid_from,
                valid_to=old.valid_to if isinstance(valid_to, EllipsisType) else valid_to,
            )
        )
        if not await self._driver.update_edge(self._name, new):
            raise StorageNotFoundError("no such edge", field="id")
        return as_relationship(new)

    async def delete_edge(self, id: str) -> bool:
        """Remove an edge; whether it was there."""
        return await self._driver.delete_edge(self._name, check_key(id, field="id"))

    async def neighbours(
        self,
        node: NodeLike,
        *,
        direction: Direction = "both",
        types: Iterable[str] = (),
        as_of: datetime | None = None,
    ) -> list[Neighbour]:
        """Each edge of a node once, by edge id, with the node at its other end."""
        reach = self._reach(direction, types, as_of)
        found = {edge.id: (edge, other) async for edge, other in reach.beyond([node_ref(node, "node")])}
        return [Neighbour(as_relationship(edge), other) for edge, other in found.values()]

    def traverse(
        self,
        start: NodeLike,
        *,
        types: Iterable[str] = (),
        direction: Direction = "out",
        depth: int | None = None,
        where: Where | None = None,
        as_of: datetime | None = None,
    ) -> AsyncIterator[Visit]:
        """Every node that can be reached over at most `depth` edges (None: any number), nearest first, each
        once.

        The start comes first, at depth 0; an absent one leads nowhere. `where` decides by their properties
        which nodes are given, not which are passed through.
        """
        walk = self._walk(node_ref(start, "start"), self._reach(direction, types, as_of), _check_depth(depth))
        condition = parse(where)

        async def visits() -> AsyncIterator[Visit]:
            async for node, level, edge in walk:
                if matches(condition, node.properties):
                    yield Visit(node, level, None if edge is None else as_relationship(edge))

        return visits()

    async def shortest_path(
        self,
        source: NodeLike,
        target: NodeLike,
        *,
        types: Iterable[str] = (),
        direction: Direction = "out",
        depth: int | None = None,
        as_of: datetime | None = None,
    ) -> Subgraph | None:
        """A path of the fewest edges, None where there is none of at most `depth` edges."""
        goal, reach = node_ref(target, "target"), self._reach(direction, types, as_of)
        arrivals: dict[NodeRef, tuple[Node, Edge | None]] = {}
        async for node, _, edge in self._walk(node_ref(source, "source"), reach, _check_depth(depth)):
            arrivals[node.ref] = (node, edge)
            if node.ref == goal:
                return _path(arrivals, goal)
        return None

    async def subgraph(
        self,
        start: NodeLike,
        *,
        depth: int = 1,
        types: Iterable[str] = (),
        direction: Direction = "both",
        as_of: datetime | None = None,
    ) -> Subgraph:
        """The nodes within `depth` edges of a node, nearest first, and every fitting edge between them."""
        reach = self._reach(direction, types, as_of)
        walk = self._walk(node_ref(start, "start"), reach, _check_depth(depth))
        nodes = {node.ref: node async for node, _, _ in walk}
        edges = replace(reach, direction="out").beyond(list(nodes))
        inside = [as_relationship(edge) async for edge, node in edges if node.ref in nodes]
        return Subgraph(list(nodes.values()), inside)

    def nodes(self, *, label: str | None = None) -> AsyncIterator[Node]:
        """The nodes, of one label or all, in order of (label, id); no snapshot."""
        if label is not None:
            check_name(label, field="label")
        return stream(lambda after: self._driver.page(self._name, label, after, PAGE))

    async def count(self) -> GraphSize:
        return GraphSize(*await self._driver.count(self._name))

    async def clear(self) -> int:
        """Remove the whole graph; how many nodes it had."""
        return await self._driver.clear(self._name)

    def _reach(self, direction: Direction, types: Iterable[str], as_of: datetime | None) -> "_Reach":
        if direction not in get_args(Direction):
            raise StorageDataError("expected out, in or both", field="direction")
        names = tuple(dict.fromkeys(check_name(name, field="types") for name in several(types, field="types")))
        instant = None if as_of is None else to_instant(as_of, field="as_of")
        return _Reach(self._driver, self._name, direction, names, instant)

    async def _walk(
        self, start: NodeRef, reach: "_Reach", depth: int | None
    ) -> AsyncIterator[tuple[Node, int, Edge | None]]:
        """Breadth first, one level of nodes at a time; cycles end because each node is met once."""
        frontier = await self._driver.get_nodes(self._name, [start])
        for node in frontier:
            yield node, 0, None
        seen, level = {start}, 0
        while frontier and (depth is None or level < depth):
            level, last, frontier = level + 1, frontier, []
            async for edge, node in reach.beyond([node.ref for node in last]):
                if node.ref not in seen:
                    seen.add(node.ref)
                    frontier.append(node)
                    yield node, level, edge


@dataclass(frozen=True, slots=True)
class _Reach:
    """Which edges are followed."""

    driver: GraphDriver
    graph: str
    direction: Direction
    types: tuple[str, ...]
    as_of: int | None

    async def beyond(self, refs: Sequence[NodeRef]) -> AsyncIterator[tuple[Edge, Node]]:
        """The edges at some nodes with the nodes at their other ends, a bounded number of nodes a call."""
        for start in range(0, len(refs), PAGE):
            chunk = refs[start : start + PAGE]
            for found in await self.driver.expand(
                self.graph, chunk, direction=self.direction, types=self.types, as_of=self.as_of
            ):
                yield found


def _path(arrivals: dict[NodeRef, tuple[Node, Edge | None]], goal: NodeRef) -> Subgraph:
    node, edge = arrivals[goal]
    nodes, edges = [node], []
    while edge is not None:
        edges.append(as_relationship(edge))
        node, edge = arrivals[edge.source if edge.target == node.ref else edge.target]
        nodes.append(node)
    return Subgraph(nodes[::-1], edges[::-1])


def _check_depth(depth: int | None) -> int | None:
    return None if depth is None else check_limit(depth, field="depth")
