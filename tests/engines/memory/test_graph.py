"""GRA-1 on the driver."""

import pytest

from polymem.contracts.graph import Edge, GraphDriver, Node, NodeRef
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError

pytestmark = pytest.mark.anyio
A, B, C = NodeRef("P", "a"), NodeRef("P", "b"), NodeRef("Q", "a")


def edge(
    id_: str,
    source: NodeRef,
    target: NodeRef,
    type_: str = "KNOWS",
    start: int | None = None,
    end: int | None = None,
) -> Edge:
    return Edge(id_, source, target, type_, {}, start, end)


@pytest.fixture
async def graph(engine: MemoryEngine) -> GraphDriver:
    driver = engine.drivers("").graph
    assert driver is not None
    await driver.create_nodes("g", [Node(*ref, {"n": ref.id}) for ref in (B, C, A)])
    return driver


async def steps(
    graph: GraphDriver,
    refs: list[NodeRef],
    direction: str,
    types: tuple[str, ...] = (),
    as_of: int | None = None,
) -> list[tuple[str, NodeRef]]:
    found = await graph.expand("g", refs, direction=direction, types=types, as_of=as_of)  # type: ignore[arg-type]
    return [(e.id, n.ref) for e, n in found]


async def test_batches_are_all_or_nothing(graph: GraphDriver) -> None:
    with pytest.raises(StorageConflictError):
        await graph.create_nodes("g", [Node("P", "new", {}), Node(*A, {})])
    with pytest.raises(StorageConflictError):
        await graph.create_nodes("g", [Node("P", "new", {}), Node("P", "new", {})])
    await graph.create_edges("g", [edge("1", A, B)])
    with pytest.raises(StorageNotFoundError) as caught:
        await graph.create_edges("g", [edge("2", A, B), edge("3", A, NodeRef("P", "none"))])
    assert caught.value.field == "target"
    with pytest.raises(StorageConflictError):
        await graph.create_edges("g", [edge("2", A, B), edge("1", B, A)])
    assert await graph.count("g") == (3, 1)


async def test_expand(graph: GraphDriver) -> None:
    await graph.create_edges(
        "g", [edge("3", A, C, "LIKES"), edge("2", B, A, start=5, end=10), edge("1", A, B), edge("4", A, A)]
    )
    assert await steps(graph, [A], "out") == [("1", B), ("3", C), ("4", A)]
    assert await steps(graph, [A, A], "in") == [("2", B), ("4", A)]
    assert await steps(graph, [A], "both") == [("1", B), ("2", B), ("3", C), ("4", A)]
    assert await steps(graph, [A, B], "both", ("KNOWS",)) == [
        ("1", A),
        ("1", B),
        ("2", A),
        ("2", B),
        ("4", A),
    ]
    assert await steps(graph, [A], "in", as_of=4) == [("4", A)]
    assert await steps(graph, [A], "in", as_of=5) == [("2", B), ("4", A)]
    assert await steps(graph, [A], "in", as_of=10) == [("4", A)]
    assert await steps(graph, [NodeRef("P", "none")], "both") == []


async def test_deleting_a_node_takes_its_edges(graph: GraphDriver) -> None:
    await graph.create_edges("g", [edge("1", A, B), edge("2", B, C), edge("3", A, A)])
    assert await graph.delete_node("g", A)
    assert not await graph.delete_node("g", A)
    assert await graph.count("g") == (2, 1)
    assert await steps(graph, [B], "both") == [("2", C)]
    await graph.create_nodes("g", [Node(*A, {})])
    assert await steps(graph, [A], "both") == []
    assert await graph.delete_edge("g", "2")
    assert not await graph.delete_edge("g", "2")
    assert await graph.clear("g") == 3
    assert await graph.count("g") == (0, 0)


async def test_update_replaces_properties_and_validity_only(graph: GraphDriver) -> None:
    await graph.create_edges("g", [edge("1", A, B)])
    assert await graph.update_edge("g", Edge("1", B, C, "OTHER", {"x": 1}, 1, 2))
    assert await graph.get_edge("g", "1") == Edge("1", A, B, "KNOWS", {"x": 1}, 1, 2)
    assert not await graph.update_edge("g", edge("9", A, B))
    assert await graph.update_node("g", Node(*A, {"y": [2]}))
    assert not await graph.update_node("g", Node("P", "none", {}))
    assert await graph.get_nodes("g", [A, NodeRef("P", "none"), A]) == [Node(*A, {"y": [2]})]


async def test_properties_are_detached(graph: GraphDriver) -> None:
    """G-3: what the caller changes later, before or after storing, is not stored."""
    properties = {"list": [1]}
    await graph.update_node("g", Node(*A, properties))
    properties["list"].append(2)
    [read] = await graph.get_nodes("g", [A])
    read.properties["list"].append(3)
    assert (await graph.get_nodes("g", [A]))[0].properties == {"list": [1]}


async def test_pages(graph: GraphDriver) -> None:
    page = await graph.page("g", None, None, 2)
    assert [n.ref for n in page.items] == [A, B]
    assert page.after is not None
    rest = await graph.page("g", None, page.after, 2)
    assert ([n.ref for n in rest.items], rest.after) == ([C], None)
    assert [n.ref for n in (await graph.page("g", "Q", None, 2)).items] == [C]
    with pytest.raises(StorageDataError):
        await graph.page("g", None, "nonsense", 2)
