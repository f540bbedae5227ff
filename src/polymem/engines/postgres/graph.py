"""A property graph in `pm_nodes` and `pm_edges` (GRA-1)."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from polymem.contracts.graph import Direction, Edge, GraphFeatures, Node, NodeRef
from polymem.core.page import Page
from polymem.engines._graph_rows import EDGE, edge_of, edge_row, json_array, json_text, node_of, position
from polymem.engines.postgres._runner import Runner
from polymem.errors import StorageNotFoundError

_GRAPH: Final = "namespace = $1 and graph = $2"
_NODE: Final = "n.label, n.id, n.properties"
_REFS: Final = "(select distinct * from unnest($3::text[], $4::text[]) as r(label, id)) as r"
_ADD_NODES: Final = (
    "insert into pm_nodes(namespace, graph, label, id, properties) "
    "select $1, $2, * from unnest($3::text[], $4::text[], $5::text[])"
)
_ADD_EDGES: Final = (
    f"insert into pm_edges(namespace, graph, {EDGE.replace('e.', '')}) select $1, $2, * from unnest("
    "$3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[])"
)
_GET_NODES: Final = f"select {_NODE} from {_REFS} join pm_nodes as n using(label, id) where {_GRAPH}"
# a node is locked until its edge is written, so that nobody removes it meanwhile
_HOLD_NODES: Final = (
    f"select label, id from pm_nodes where {_GRAPH} and (label, id) in (select * from unnest($3::text[], $4::text[])) "
    "order by label, id for key share"
)
_DELETE_NODE: Final = f"delete from pm_nodes where {_GRAPH} and label = $3 and id = $4 returning 1"
_DELETE_EDGES: Final = (
    f"delete from pm_edges where {_GRAPH} "
    "and ((source_label = $3 and source_id = $4) or (target_label = $3 and target_id = $4))"
)
_VALID: Final = "($5::bigint is null or (coalesce(e.valid_from, $5) <= $5 and (e.valid_to is null or $5 < e.valid_to)))"


class PostgresGraph:
    """The graphs of one namespace."""

    features = GraphFeatures()

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner, self._namespace = runner, namespace

    async def create_nodes(self, graph: str, nodes: Sequence[Node], /) -> None:
        ordered = sorted((node.label, node.id, json_text(node.properties)) for node in nodes)
        if ordered:
            async with self._runner.attempt() as fetch:
                await fetch(_ADD_NODES, self._namespace, graph, *_columns(ordered))

    async def get_nodes(self, graph: str, refs: Sequence[NodeRef], /) -> list[Node]:
        return [node_of(row) for row in await self._fetch(_GET_NODES, graph, *_refs(refs))]

    async def update_node(self, graph: str, node: Node, /) -> bool:
        statement = f"update pm_nodes set properties = $5 where {_GRAPH} and label = $3 and id = $4 returning 1"
        return bool(await self._fetch(statement, graph, *node.ref, json_text(node.properties)))

    async def delete_node(self, graph: str, ref: NodeRef, /) -> bool:
        async with self._runner.unit() as link:
            removed = await link.fetch(_DELETE_NODE, self._namespace, graph, *ref)
            await link.fetch(_DELETE_EDGES, self._namespace, graph, *ref)
            return bool(removed)

    async def create_edges(self, graph: str, edges: Sequence[Edge], /) -> None:
        ordered = sorted((edge_row(edge) for edge in edges), key=lambda row: row[0])
        if not ordered:
            return
        ends = [ref for edge in edges for ref in (edge.source, edge.target)]
        async with self._runner.unit() as link:
            held = {NodeRef(*row) for row in await link.fetch(_HOLD_NODES, self._namespace, graph, *_refs(ends))}
            await link.fetch(_ADD_EDGES, self._namespace, graph, *_columns(ordered))
            for field in ("source", "target"):
                if not held.issuperset(getattr(edge, field) for edge in edges):
                    raise StorageNotFoundError("there is no node at this end of the edge", field=field)

    async def get_edge(self, graph: str, edge_id: str, /) -> Edge | None:
        rows = await self._fetch(f"select {EDGE} from pm_edges as e where {_GRAPH} and id = $3", graph, edge_id)
        return edge_of(rows[0]) if rows else None

    async def update_edge(self, graph: str, edge: Edge, /) -> bool:
        statement = f"update pm_edges set properties = $4, valid_from = $5, valid_to = $6 where {_GRAPH} and id = $3 returning 1"
        row = (edge.id, json_text(edge.properties), edge.valid_from, edge.valid_to)
        return bool(await self._fetch(statement, graph, *row))

    async def delete_edge(self, graph: str, edge_id: str, /) -> bool:
        return bool(await self._fetch(f"delete from pm_edges where {_GRAPH} and id = $3 returning 1", graph, edge_id))

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
        typing = [list(types)] if types else []
        rows = await self._fetch(expand_statement(direction, typed=bool(types)), graph, *_refs(refs), as_of, *typing)
        return [(edge_of(row[:9]), node_of(row[9:])) for row in rows]

    async def page(self, graph: str, label: str | None, after: str | None, limit: int, /) -> Page[Node]:
        values: list[Any] = [limit]
        condition = _GRAPH
        if label is not None:
            values.append(label)
            condition += f" and n.label = ${2 + len(values)}"
        if after is not None:
            values += position(after)
            condition += f" and (n.label, n.id) > (${1 + len(values)}, ${2 + len(values)})"
        statement = f"select {_NODE} from pm_nodes as n where {condition} order by n.label, n.id limit $3"
        nodes = [node_of(row) for row in await self._fetch(statement, graph, *values)]
        return Page(nodes, json_array(nodes[-1].ref) if nodes and len(nodes) == limit else None)

    async def count(self, graph: str, /) -> tuple[int, int]:
        counts = (f"(select count(*) from {table} where {_GRAPH})" for table in ("pm_nodes", "pm_edges"))
        nodes, edges = (await self._fetch(f"select {', '.join(counts)}", graph))[0]
        return nodes, edges

    async def clear(self, graph: str, /) -> int:
        async with self._runner.unit() as link:
            removed = await link.fetch(
                f"with gone as (delete from pm_nodes where {_GRAPH} returning 1) select count(*) from gone",
                self._namespace, graph,
            )  # fmt: skip
            await link.fetch(f"delete from pm_edges where {_GRAPH}", self._namespace, graph)
            return int(removed[0][0])

    async def _fetch(self, statement: str, graph: str, *values: Any) -> list[Any]:
        return await self._runner.fetch(statement, self._namespace, graph, *values)


@cache
def expand_statement(direction: Direction, *, typed: bool) -> str:
    """The edges at some nodes, each with the node at its other end."""
    ways = {"out": [("source", "target", "")], "in": [("target", "source", "")]}
    # A loop would come twice where both ways are followed.
    loop = "and not (e.source_label = e.target_label and e.source_id = e.target_id) "
    both = [*ways["out"], ("target", "source", loop)]
    typing = "and e.type = any($6::text[]) " if typed else ""
    parts = (
        f"select {EDGE}, {_NODE.replace('n.label, n.id', 'n.label as other_label, n.id as other_id')} from {_REFS} "
        f"join pm_edges as e on e.namespace = $1 and e.graph = $2 "
        f"and e.{near}_label = r.label and e.{near}_id = r.id {typing}{extra}and {_VALID} "
        f"join pm_nodes as n on n.namespace = $1 and n.graph = $2 and n.label = e.{far}_label and n.id = e.{far}_id"
        for near, far, extra in ways.get(direction, both)
    )
    return f"{' union all '.join(parts)} order by id, other_label, other_id"


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _refs(refs: Iterable[NodeRef]) -> tuple[list[str], list[str]]:
    refs = list(refs)
    return [ref.label for ref in refs], [ref.id for ref in refs]
