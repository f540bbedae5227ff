"""A property graph in `pm_nodes` and `pm_edges` (GRA-1)."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import apsw
import msgspec

from polymem.contracts.graph import Direction, Edge, GraphFeatures, Node, NodeRef
from polymem.core.page import Page
from polymem.engines._graph_rows import EDGE, edge_of, edge_row, json_array, json_text, node_of, position
from polymem.engines.sqlite._database import Runner
from polymem.errors import StorageNotFoundError

_GRAPH: Final = "namespace = :namespace and graph = :graph"
_NODE: Final = "label, id, properties"
_ADD_NODE: Final = f"insert into pm_nodes(namespace, graph, {_NODE}) values(?, ?, ?, ?, ?)"
_ADD_EDGE: Final = f"insert into pm_edges(namespace, graph, {EDGE.replace('e.', '')}) values(?,?,?,?,?,?,?,?,?,?,?)"
# Any number of nodes travels as one parameter; `cross join` keeps SQLite from scanning the table instead.
_REFS: Final = "(select distinct value ->> 0 as label, value ->> 1 as id from json_each(:refs)) as r"
_AT_REF: Final = "n.namespace = :namespace and n.graph = :graph and n.label = r.label and n.id = r.id"
_GET_NODES: Final = f"select n.label, n.id, n.properties from {_REFS} cross join pm_nodes as n where {_AT_REF}"
_MISSING: Final = (
    f"select exists (select 1 from {_REFS} where not exists (select 1 from pm_nodes as n where {_AT_REF}))"
)
_VALID: Final = (
    "(:as_of is null or (ifnull(e.valid_from, :as_of) <= :as_of and (e.valid_to is null or :as_of < e.valid_to)))"
)


class SqliteGraph:
    """The graphs of one namespace."""

    features = GraphFeatures()

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner, self._namespace = runner, namespace

    async def create_nodes(self, graph: str, nodes: Sequence[Node], /) -> None:
        rows = [(self._namespace, graph, node.label, node.id, json_text(node.properties)) for node in nodes]
        await self._runner.write(lambda c: c.executemany(_ADD_NODE, rows) and None, savepoint=len(rows) > 1)

    async def get_nodes(self, graph: str, refs: Sequence[NodeRef], /) -> list[Node]:
        where = self._where(graph, refs=_refs(refs))
        return await self._runner.read(lambda c: [node_of(row) for row in c.execute(_GET_NODES, where)])

    async def update_node(self, graph: str, node: Node, /) -> bool:
        row = self._where(graph, label=node.label, id=node.id, properties=json_text(node.properties))
        return await self._changed(
            f"update pm_nodes set properties = :properties where {_GRAPH} and label = :label and id = :id", row
        )

    async def delete_node(self, graph: str, ref: NodeRef, /) -> bool:
        row = self._where(graph, label=ref.label, id=ref.id)

        def delete(connection: apsw.Connection) -> bool:
            for end in ("source", "target"):
                connection.execute(
                    f"delete from pm_edges where {_GRAPH} and {end}_label = :label and {end}_id = :id", row
                )
            connection.execute(f"delete from pm_nodes where {_GRAPH} and label = :label and id = :id", row)
            return connection.changes() > 0

        return await self._runner.write(delete)

    async def create_edges(self, graph: str, edges: Sequence[Edge], /) -> None:
        rows = [(self._namespace, graph, *edge_row(edge)) for edge in edges]
        ends = {"source": [edge.source for edge in edges], "target": [edge.target for edge in edges]}
        checks = {field: self._where(graph, refs=_refs(refs)) for field, refs in ends.items()}

        def create(connection: apsw.Connection) -> None:
            connection.executemany(_ADD_EDGE, rows)
            for field, where in checks.items():
                if connection.execute(_MISSING, where).get:
                    raise StorageNotFoundError("there is no node at this end of the edge", field=field)

        await self._runner.write(create)

    async def get_edge(self, graph: str, edge_id: str, /) -> Edge | None:
        row = await self._runner.point(
            f"select {EDGE} from pm_edges as e where namespace = ? and graph = ? and id = ?",
            (self._namespace, graph, edge_id),
        )
        return None if row is None else edge_of(row)

    async def update_edge(self, graph: str, edge: Edge, /) -> bool:
        row = self._where(
            graph, id=edge.id, properties=json_text(edge.properties), valid_from=edge.valid_from, valid_to=edge.valid_to
        )
        changes = "properties = :properties, valid_from = :valid_from, valid_to = :valid_to"
        return await self._changed(f"update pm_edges set {changes} where {_GRAPH} and id = :id", row)

    async def delete_edge(self, graph: str, edge_id: str, /) -> bool:
        return await self._changed(f"delete from pm_edges where {_GRAPH} and id = :id", self._where(graph, id=edge_id))

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
        statement = expand_statement(direction, typed=bool(types))
        where = self._where(graph, refs=_refs(refs), types=json_array(types), as_of=as_of)
        return await self._runner.read(
            lambda c: [(edge_of(r[:9]), node_of(r[9:])) for r in c.execute(statement, where)]
        )

    async def page(self, graph: str, label: str | None, after: str | None, limit: int, /) -> Page[Node]:
        where = self._where(graph, label=label, limit=limit)
        conditions = [_GRAPH] if label is None else [_GRAPH, "label = :label"]
        if after is not None:
            where["after_label"], where["after_id"] = position(after)
            conditions.append("(label, id) > (:after_label, :after_id)")
        statement = (
            f"select {_NODE} from pm_nodes where {' and '.join(conditions)} "
            f"order by {'label, id' if label is None else 'id'} limit :limit"
        )
        nodes = await self._runner.read(lambda c: [node_of(row) for row in c.execute(statement, where)])
        return Page(nodes, json_array(nodes[-1].ref) if nodes and len(nodes) == limit else None)

    async def count(self, graph: str, /) -> tuple[int, int]:
        where = self._where(graph)

        def count(connection: apsw.Connection) -> tuple[int, int]:
            nodes, edges = (
                int(connection.execute(f"select count(*) from {table} where {_GRAPH}", where).get)
                for table in ("pm_nodes", "pm_edges")
            )
            return nodes, edges

        return await self._runner.read(count)

    async def clear(self, graph: str, /) -> int:
        where = self._where(graph)

        def clear(connection: apsw.Connection) -> int:
            connection.execute(f"delete from pm_edges where {_GRAPH}", where)
            connection.execute(f"delete from pm_nodes where {_GRAPH}", where)
            return connection.changes()

        return await self._runner.write(clear)

    def _where(self, graph: str, **more: Any) -> dict[str, Any]:
        return {"namespace": self._namespace, "graph": graph, **more}

    async def _changed(self, statement: str, row: dict[str, Any]) -> bool:
        def run(connection: apsw.Connection) -> bool:
            connection.execute(statement, row)
            return connection.changes() > 0

        return await self._runner.write(run, savepoint=False)


@cache
def expand_statement(direction: Direction, *, typed: bool) -> str:
    """The edges at some nodes, each with the node at its other end; one search of an index per node and edge."""
    ways = {"out": [("source", "target", "")], "in": [("target", "source", "")]}
    # A loop would come twice where both ways are followed.
    loop = "and not (e.source_label = e.target_label and e.source_id = e.target_id) "
    both = [*ways["out"], ("target", "source", loop)]
    typing = "and e.type in (select value from json_each(:types)) " if typed else ""
    parts = (
        f"select {EDGE}, n.label, n.id, n.properties from {_REFS} "
        f"cross join pm_edges as e indexed by pm_edges_{near} cross join pm_nodes as n "
        f"where e.namespace = :namespace and e.graph = :graph "
        f"and e.{near}_label = r.label and e.{near}_id = r.id {typing}{extra}and {_VALID} "
        f"and n.namespace = :namespace and n.graph = :graph and n.label = e.{far}_label and n.id = e.{far}_id"
        for near, far, extra in ways.get(direction, both)
    )
    return f"{' union all '.join(parts)} order by 1, 10, 11"


def _refs(refs: Iterable[NodeRef]) -> str:
    return msgspec.json.encode([[label, id] for label, id in refs]).decode()
