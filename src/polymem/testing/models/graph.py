"""Operations on graphs; what a search meets at one distance has no order."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from polymem.contracts.graph import Relationship
from polymem.store import Store
from polymem.testing.models.model import PAYLOAD, WHERE, Memo, Model

NODE = st.tuples(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"]))
EDGE, TYPE = st.sampled_from(["e", "f", "g", "E", "%", "h", "i"]), st.sampled_from(["T", "t"])
DIRECTION, TYPES = st.sampled_from(["out", "in", "both"]), st.sampled_from([(), ("T",), ("T", "t")])
DEPTH = st.none() | st.integers(0, 3)
DAYS = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(3)]
INSTANT = st.sampled_from([None, *DAYS])


async def _create_nodes(store: Store, _: Memo, nodes: list[Any], properties: Any) -> None:
    await store.graph().create_nodes([{"label": a, "id": b, "properties": properties} for a, b in nodes])


async def _update_node(store: Store, _: Memo, node: Any, properties: Any) -> None:
    await store.graph().update_node(node, properties or {})


async def _delete_node(store: Store, _: Memo, node: Any) -> bool:
    return await store.graph().delete_node(node)


async def _create_edges(store: Store, _: Memo, edges: list[Any], properties: Any, since: Any, until: Any) -> None:
    given = {"properties": properties, "valid_from": since, "valid_to": until}
    await store.graph().create_edges([
        {"id": id, "source": a, "target": b, "type": type, **given} for id, a, b, type in edges
    ])  # fmt: skip


async def _update_edge(store: Store, _: Memo, id: str, properties: Any, until: Any) -> Relationship:
    return await store.graph().update_edge(id, properties=properties, valid_to=until)


async def _delete_edge(store: Store, _: Memo, id: str) -> bool:
    return await store.graph().delete_edge(id)


async def _neighbours(store: Store, _: Memo, node: Any, direction: Any, types: Any, as_of: Any) -> Any:
    return await store.graph().neighbours(node, direction=direction, types=types, as_of=as_of)


async def _traverse(store: Store, _: Memo, node: Any, direction: Any, types: Any, depth: Any, where: Any) -> Any:  # noqa: PLR0917 - drawn arguments
    visits = store.graph().traverse(node, direction=direction, types=types, depth=depth, where=where)
    return sorted([(visit.depth, visit.node.ref) async for visit in visits])


async def _path(store: Store, _: Memo, source: Any, target: Any, direction: Any, depth: Any) -> Any:
    path = await store.graph().shortest_path(source, target, direction=direction, depth=depth)
    return None if path is None else len(path.edges)


async def _subgraph(store: Store, _: Memo, node: Any, direction: Any, as_of: Any) -> Any:
    found = await store.graph().subgraph(node, direction=direction, depth=2, as_of=as_of)
    return sorted(node.ref for node in found.nodes), sorted(edge.id for edge in found.edges)


async def _clear(store: Store, _: Memo) -> int:
    return await store.graph().clear()


async def _state(store: Store) -> Any:
    nodes = [node async for node in store.graph().nodes()]
    edges = [await store.graph().get_edge(id) for id in ("e", "f", "g", "E", "%", "h", "i")]
    reached = [await store.graph().neighbours(node, as_of=day) for node in nodes for day in DAYS]
    return nodes, edges, reached, await store.graph().count()


GRAPH = Model(
    "graph",
    {
        "create_nodes": (_create_nodes, (st.lists(NODE, max_size=4, unique=True), PAYLOAD)),
        "update_node": (_update_node, (NODE, PAYLOAD)),
        "delete_node": (_delete_node, (NODE,)),
        "create_edges": (
            _create_edges,
            (st.lists(st.tuples(EDGE, NODE, NODE, TYPE), max_size=2), PAYLOAD, INSTANT, INSTANT),
        ),
        "update_edge": (_update_edge, (EDGE, PAYLOAD, INSTANT)),
        "delete_edge": (_delete_edge, (EDGE,)),
        "neighbours": (_neighbours, (NODE, DIRECTION, TYPES, INSTANT)),
        "traverse": (_traverse, (NODE, DIRECTION, TYPES, DEPTH, WHERE)),
        "path": (_path, (NODE, NODE, DIRECTION, DEPTH)),
        "subgraph": (_subgraph, (NODE, DIRECTION, INSTANT)),
        "clear": (_clear, ()),
    },
    ("create_nodes", "create_edges", "neighbours"),
    _state,
)
