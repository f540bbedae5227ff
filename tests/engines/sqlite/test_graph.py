"""GRA-1 in the file: one statement expands any number of nodes, through the indexes."""

import asyncio
import itertools
from datetime import UTC, datetime

import pytest

from polymem.contracts.graph import Edge, GraphDriver, Node, NodeRef
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.graph import expand_statement
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError
from polymem.store import Store

pytestmark = pytest.mark.anyio
HOSTILE = ["a", "A", "a'b", 'q"', "%", "[1,2]", "1", "ü🙂", "\\", "{}", "null", " "]


def ref(id: str, label: str = "P") -> NodeRef:
    return NodeRef(label, id)


def edge(
    id: str, source: str, target: str, type: str = "T", since: int | None = None, until: int | None = None
) -> Edge:
    return Edge(id, ref(source), ref(target), type, {"id": id}, since, until)


@pytest.fixture
async def graph(store: Store) -> GraphDriver:
    driver = store.engine.drivers("").graph
    assert driver is not None
    return driver


async def fill(graph: GraphDriver) -> None:
    await graph.create_nodes("g", [Node("P", id, {"n": id}) for id in "abcd"])
    await graph.create_edges(
        "g",
        [edge("1", "a", "b"), edge("2", "a", "b", "U"), edge("3", "b", "c"), edge("4", "c", "a", "T", 10, 20),
         edge("5", "a", "a"), edge("6", "d", "c", "U", None, 20), edge("7", "c", "d", "T", 10, None)],
    )  # fmt: skip


async def test_expand_answers_like_the_memory_engine(graph: GraphDriver) -> None:
    """Every direction, set of nodes, types and instant."""
    memory = MemoryEngine()
    await memory.open()
    model = memory.drivers("").graph
    assert model is not None
    await fill(graph)
    await fill(model)
    sets = [list(map(ref, ids)) for ids in ("", "a", "ab", "abcd", "aab", "x", "ax")]
    for refs, direction, types, as_of in itertools.product(
        sets, ("out", "in", "both"), ([], ["T"], ["T", "U"], ["none"]), (None, 5, 10, 20)
    ):
        expected = await model.expand("g", refs, direction=direction, types=types, as_of=as_of)
        assert await graph.expand("g", refs, direction=direction, types=types, as_of=as_of) == expected
    await memory.close()


@pytest.mark.parametrize("direction", ["out", "in", "both"])
@pytest.mark.parametrize("typed", [False, True])
async def test_expand_searches_indexes_only(store: Store, direction: str, typed: bool) -> None:
    statement = expand_statement(direction, typed=typed)  # type: ignore[arg-type]
    where = {"namespace": "", "graph": "g", "refs": "[]", "types": "[]", "as_of": None}
    plan = [step for *_, step in await store.sql.query(f"explain query plan {statement}", where)]
    ways = {"out": {"source"}, "in": {"target"}, "both": {"source", "target"}}[direction]
    for way in ways:
        columns = f"namespace=? AND graph=? AND {way}_label=? AND {way}_id=?{' AND type=?' if typed else ''}"
        assert any(f"SEARCH e USING INDEX pm_edges_{way} ({columns})" in step for step in plan), plan
    assert sum("SEARCH n USING PRIMARY KEY (namespace=? AND graph=? AND label=? AND id=?)" in s for s in plan) == len(
        ways
    )
    assert not any(step.startswith(("SCAN e", "SCAN n")) for step in plan), plan


async def test_many_nodes_travel_as_one_parameter(graph: GraphDriver) -> None:
    """Far beyond the number of parameters a statement may have."""
    ids = [f"n{n}" for n in range(40_000)]
    await graph.create_nodes("g", [Node("P", id, {}) for id in ids])
    await graph.create_edges("g", [edge(f"e{n}", ids[n], ids[n + 1]) for n in range(0, 40_000, 2)])
    refs = [ref(id) for id in ids]
    assert len(await graph.get_nodes("g", refs)) == 40_000
    assert len(await graph.expand("g", refs, direction="both", types=[], as_of=None)) == 40_000


async def test_hostile_ids(store: Store) -> None:
    graph = store.graph()
    await graph.create_nodes([{"label": "P", "id": id, "properties": {"id": id}} for id in HOSTILE])
    for id, other in itertools.pairwise(HOSTILE):
        await graph.create_edge(("P", id), ("P", other), "T", id=id)
    assert [node.id for node in await graph.get_nodes([("P", id) for id in HOSTILE])] == HOSTILE
    assert [visit.node.id async for visit in graph.traverse(("P", "a"))] == HOSTILE
    assert [node.id async for node in graph.nodes()] == sorted(HOSTILE)


async def test_creating_is_all_or_nothing(store: Store) -> None:
    graph = store.graph()
    await graph.create_nodes([{"label": "P", "id": "a"}, {"label": "Q", "id": "a"}])
    with pytest.raises(StorageConflictError):
        await graph.create_nodes([{"label": "P", "id": "b"}, {"label": "P", "id": "a"}])
    with pytest.raises(StorageConflictError):
        await graph.create_nodes([{"label": "P", "id": "b"}, {"label": "P", "id": "b"}])
    good = {"source": ("P", "a"), "target": ("Q", "a"), "type": "T", "id": "1"}
    for field in ("source", "target"):
        with pytest.raises(StorageNotFoundError) as caught:
            await graph.create_edges([good, {**good, "id": "2", field: ("P", "absent")}])
        assert caught.value.field == field
    with pytest.raises(StorageConflictError):
        await graph.create_edges([good, good])
    assert tuple(await graph.count()) == (2, 0)


async def test_deleting_a_node_takes_its_edges(store: Store) -> None:
    graph = store.graph()
    await graph.create_nodes([{"label": "P", "id": id} for id in "abc"])
    for n, (source, target) in enumerate(("ab", "ba", "bb", "ac")):
        await graph.create_edge(("P", source), ("P", target), "T", id=str(n))
    assert await graph.delete_node(("P", "b")) is True
    assert await graph.delete_node(("P", "b")) is False
    assert tuple(await graph.count()) == (2, 1)
    assert await graph.get_edge("3") is not None


async def test_deleting_and_linking_at_once_leaves_no_edge_without_ends(store: Store) -> None:
    graph = store.graph()
    await graph.create_nodes([{"label": "P", "id": str(n)} for n in range(20)])
    await asyncio.gather(
        *(graph.create_edge(("P", str(n)), ("P", str((n + 1) % 20)), "T") for n in range(20)),
        *(graph.delete_node(("P", str(n))) for n in range(0, 20, 3)),
        return_exceptions=True,
    )
    orphans = await store.sql.query(
        "select count(*) from pm_edges e where not exists (select 1 from pm_nodes where id = e.source_id) "
        "or not exists (select 1 from pm_nodes where id = e.target_id)"
    )
    assert orphans == [(0,)]


async def test_updates(store: Store) -> None:
    graph = store.graph()
    await graph.create_nodes([{"label": "P", "id": id, "properties": {"old": 1}} for id in "ab"])
    made = await graph.create_edge(("P", "a"), ("P", "b"), "T", {"old": 1}, valid_to=datetime(2030, 1, 1, tzinfo=UTC))
    await graph.update_node(("P", "a"), {"new": [1, None]})
    changed = await graph.update_edge(made.id, properties={"new": 1}, valid_from=datetime(2020, 1, 1, tzinfo=UTC))
    assert (await graph.get_node(("P", "a"))).properties == {"new": [1, None]}  # type: ignore[union-attr]
    assert await graph.get_edge(made.id) == changed
    assert changed.valid_to == made.valid_to
    driver = store.engine.drivers("").graph
    assert await driver.update_node("default", Node("P", "absent", {})) is False
    assert await driver.update_edge("default", edge("absent", "a", "b")) is False
    assert await graph.delete_edge(made.id) is True
    assert await graph.delete_edge(made.id) is False


@pytest.mark.parametrize("label", [None, "P"])
async def test_pages(graph: GraphDriver, label: str | None) -> None:
    nodes = [Node(lab, f"{n:02}", {}) for lab in ("O", "P", "Q") for n in range(10)]
    await graph.create_nodes("g", nodes)
    found: list[Node] = []
    after: str | None = None
    while True:
        page = await graph.page("g", label, after, 7)
        found += page.items
        if (after := page.after) is None:
            break
    assert found == [node for node in nodes if label in (None, node.label)]
    with pytest.raises(StorageDataError) as caught:
        await graph.page("g", label, "not a position", 7)
    assert caught.value.field == "after"


async def test_graphs_and_namespaces_are_apart(store: Store) -> None:
    places = [store.graph("g"), store.graph("G"), store.namespace("n").graph("g")]
    for place in places:
        await place.create_node("a", "P")
        await place.create_edge(("P", "a"), ("P", "a"), "T", id="e")
    assert await places[0].clear() == 1
    assert [tuple(await place.count()) for place in places] == [(0, 0), (1, 1), (1, 1)]
