"""A property graph: nodes, edges, and for each node the ids of the edges at it (GRA-1)."""

import json
from collections.abc import Iterable, Iterator, Sequence

from polymem.contracts.graph import Direction, Edge, GraphFeatures, Node, NodeRef
from polymem.core.page import Page
from polymem.engines._tables.state import detached, page_of
from polymem.engines._tables.views import View
from polymem.engines.memory._graph_tables import EdgeTable, LinkTable, NodeTable
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError


class MemoryGraph:
    """The graphs of one namespace."""

    __slots__ = ("_namespace", "_view")

    def __init__(self, view: View, namespace: str) -> None:
        self._view = view
        self._namespace = namespace

    @property
    def features(self) -> GraphFeatures:
        return GraphFeatures(durable=False)

    async def create_nodes(self, graph: str, nodes: Sequence[Node], /) -> None:
        await self._view.writable()
        created = {node.ref: _copy_node(node) for node in nodes}
        if len(created) < len(nodes) or any(ref in self._nodes(graph) for ref in created):
            raise StorageConflictError("a node with this label and id exists", field="id")
        for ref, node in created.items():
            self._view.table(NodeTable, self._namespace, graph).put(ref, node)

    async def get_nodes(self, graph: str, refs: Sequence[NodeRef], /) -> list[Node]:
        nodes = self._nodes(graph)
        return [_copy_node(nodes[ref]) for ref in dict.fromkeys(refs) if ref in nodes]

    async def update_node(self, graph: str, node: Node, /) -> bool:
        await self._view.writable()
        if node.ref not in self._nodes(graph):
            return False
        self._view.table(NodeTable, self._namespace, graph).put(node.ref, _copy_node(node))
        return True

    async def delete_node(self, graph: str, ref: NodeRef, /) -> bool:
        await self._view.writable()
        if ref not in self._nodes(graph):
            return False
        links = self._view.table(LinkTable, self._namespace, graph)
        for edge_id in links.rows.get(ref, frozenset()):
            self._remove_edge(graph, edge_id)
        links.pop(ref)
        self._view.table(NodeTable, self._namespace, graph).pop(ref)
        return True

    async def create_edges(self, graph: str, edges: Sequence[Edge], /) -> None:
        await self._view.writable()
        nodes, stored = self._nodes(graph), self._edges(graph)
        created = {edge.id: _copy_edge(edge) for edge in edges}
        if len(created) < len(edges) or any(edge_id in stored for edge_id in created):
            raise StorageConflictError("an edge with this id exists", field="id")
        _check_ends(edges, nodes)
        for edge in created.values():
            self._view.table(EdgeTable, self._namespace, graph).put(edge.id, edge)
            self._view.table(LinkTable, self._namespace, graph).link(edge)

    async def get_edge(self, graph: str, edge_id: str, /) -> Edge | None:
        edge = self._edges(graph).get(edge_id)
        return None if edge is None else _copy_edge(edge)

    async def update_edge(self, graph: str, edge: Edge, /) -> bool:
        await self._view.writable()
        stored = self._edges(graph).get(edge.id)
        if stored is None:
            return False
        changed = _copy_edge(edge)._replace(source=stored.source, target=stored.target, type=stored.type)
        self._view.table(EdgeTable, self._namespace, graph).put(edge.id, changed)
        return True

    async def delete_edge(self, graph: str, edge_id: str, /) -> bool:
        await self._view.writable()
        if edge_id not in self._edges(graph):
            return False
        self._remove_edge(graph, edge_id)
        return True

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
        nodes = self._nodes(graph)
        steps = sorted(self._steps(graph, dict.fromkeys(refs), direction), key=lambda step: (step[0].id, step[1]))
        fitting = (step for step in steps if _fits(step[0], types, as_of))
        return [(_copy_edge(edge), _copy_node(nodes[far])) for edge, far in fitting]

    async def page(self, graph: str, label: str | None, after: str | None, limit: int, /) -> Page[Node]:
        table = self._view.find(NodeTable, self._namespace, graph)
        position = None if after is None else _position(after)
        refs = [] if table is None else table.keys_after(position)
        wanted = (ref for ref in refs if label is None or ref.label == label)
        nodes = self._nodes(graph)
        return page_of((_copy_node(nodes[ref]) for ref in wanted), limit, lambda node: json.dumps(node.ref))

    async def count(self, graph: str, /) -> tuple[int, int]:
        return len(self._nodes(graph)), len(self._edges(graph))

    async def clear(self, graph: str, /) -> int:
        await self._view.writable()
        count = len(self._nodes(graph))
        for kind in (NodeTable, EdgeTable, LinkTable):
            self._view.drop(kind, self._namespace, graph)
        return count

    def _nodes(self, graph: str) -> dict[NodeRef, Node]:
        table = self._view.find(NodeTable, self._namespace, graph)
        return {} if table is None else table.rows

    def _edges(self, graph: str) -> dict[str, Edge]:
        table = self._view.find(EdgeTable, self._namespace, graph)
        return {} if table is None else table.rows

    def _remove_edge(self, graph: str, edge_id: str) -> None:
        edge = self._view.table(EdgeTable, self._namespace, graph).pop(edge_id)
        if edge is not None:
            self._view.table(LinkTable, self._namespace, graph).unlink(edge)

    def _steps(self, graph: str, refs: Iterable[NodeRef], direction: Direction) -> Iterator[tuple[Edge, NodeRef]]:
        """Each edge at one of `refs` in that direction, with the node at its other end."""
        table, edges = self._view.find(LinkTable, self._namespace, graph), self._edges(graph)
        links = {} if table is None else table.rows
        for ref in refs:
            for edge in (edges[edge_id] for edge_id in links.get(ref, ())):
                if direction != "in" and edge.source == ref:
                    yield edge, edge.target
                elif direction != "out" and edge.target == ref:
                    yield edge, edge.source


def _fits(edge: Edge, types: Sequence[str], as_of: int | None) -> bool:
    if types and edge.type not in types:
        return False
    if as_of is None:
        return True
    begun = edge.valid_from is None or edge.valid_from <= as_of
    return begun and (edge.valid_to is None or as_of < edge.valid_to)


def _check_ends(edges: Sequence[Edge], nodes: dict[NodeRef, Node]) -> None:
    for edge in edges:
        for ref, field in ((edge.source, "source"), (edge.target, "target")):
            if ref not in nodes:
                raise StorageNotFoundError("there is no node at this end of the edge", field=field)


def _position(after: str) -> NodeRef:
    try:
        label, node_id = json.loads(after)
    except ValueError:
        raise StorageDataError("expected a position from the previous page", field="after") from None
    return NodeRef(label, node_id)


def _copy_node(node: Node) -> Node:
    return node._replace(properties=detached(node.properties))


def _copy_edge(edge: Edge) -> Edge:
    return edge._replace(properties=detached(edge.properties))
