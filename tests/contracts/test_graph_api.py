"""GRA-1, G-2, G-3, G-5: what `Graph` checks and converts, and how it walks."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymem.contracts import graph as graph_contract
from polymem.contracts.filter import F
from polymem.contracts.graph import Edge, Graph, GraphFeatures, Node, NodeRef, Relationship
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError

T = TypeVar("T")
JAN, FEB, MAR = (datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3))
LETTERS = "abcdef"


def on_graph(work: Callable[[Graph], Awaitable[T]]) -> T:
    """Run with an empty graph of the memory engine, the executable specification."""

    async def run() -> T:
        engine = MemoryEngine()
        await engine.open()
        driver = engine.drivers("").graph
        assert driver is not None
        return await work(Graph(driver, "g"))

    return asyncio.run(run())


def n(letter: str) -> tuple[str, str]:
    return "N", letter


async def build(graph: Graph, *edges: str, **validity: tuple[datetime | None, datetime | None]) -> None:
    """Nodes a to f, and an edge for each "ab" or "ab:type"; its id is that text."""
    await graph.create_nodes([Node("N", letter, {"letter": letter}) for letter in LETTERS])
    for edge in edges:
        ends, _, kind = edge.partition(":")
        since, until = validity.get(ends, (None, None))
        await graph.create_edge(
            n(ends[0]), n(ends[1]), kind or "knows", {"of": ends}, valid_from=since, valid_to=until, id=edge
        )


async def walk(graph: Graph, start: str, **options: Any) -> list[str]:
    """Ids with their depths: a0 b1 ..."""
    return [f"{visit.node.id}{visit.depth}" async for visit in graph.traverse(n(start), **options)]


def test_nodes_come_and_go() -> None:
    async def work(graph: Graph) -> None:
        properties = {"name": ["Ada"]}
        ada = await graph.create_node("ada/1 🎉", "person", properties)
        properties["name"].append("x")
        assert ada == Node("person", "ada/1 🎉", {"name": ["Ada"]})
        assert await graph.get_node(ada) == await graph.get_node(ada.ref) == ada
        assert await graph.get_node(("robot", "ada/1 🎉")) is None
        made_up = await graph.create_node(None, "person")
        assert len(made_up.id) == 36
        assert await graph.get_nodes([made_up, ada.ref, ada, ("person", "nobody")]) == [made_up, ada]
        with pytest.raises(StorageConflictError):
            await graph.create_nodes([{"label": "person"}, ada])
        assert await graph.count() == (2, 0)
        assert (await graph.update_node(ada, {"age": 36})).properties == {"age": 36}
        assert await graph.get_node(ada) == Node("person", "ada/1 🎉", {"age": 36})
        assert await graph.delete_node(ada) is True
        assert await graph.delete_node(ada) is False
        with pytest.raises(StorageNotFoundError):
            await graph.update_node(ada, {})
        assert [node async for node in graph.nodes(label="person")] == [made_up]
        assert [node async for node in graph.nodes(label="robot")] == []
        assert [node async for node in graph.nodes()] == [made_up]
        assert await graph.clear() == 1

    on_graph(work)


def test_edges_come_and_go() -> None:
    async def work(graph: Graph) -> None:
        await build(graph)
        edge = await graph.create_edge(n("a"), n("b"), "knows", {"x": 1}, valid_from=JAN, id="e")
        assert edge == Relationship("e", NodeRef(*n("a")), NodeRef(*n("b")), "knows", {"x": 1}, JAN, None)
        assert await graph.get_edge("e") == edge
        assert await graph.get_edge("f") is None
        copies = await graph.create_edges([{"source": n("a"), "target": n("b"), "type": "knows"}])
        assert len(copies[0].id) == 36
        with pytest.raises(StorageConflictError):
            await graph.create_edges([edge])
        with pytest.raises(StorageNotFoundError):
            await graph.create_edge(n("a"), n("z"), "knows")
        assert await graph.count() == (6, 2)
        assert await graph.delete_edge("e") is True
        assert await graph.delete_edge("e") is False
        assert await graph.delete_node(n("b")) is True
        assert await graph.count() == (5, 0)
        assert await graph.create_nodes([]) == []
        assert await graph.create_edges([]) == []

    on_graph(work)


def test_update_edge_replaces_what_is_given_and_keeps_the_rest() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab")
        assert (await graph.update_edge("ab", valid_from=JAN)).properties == {"of": "ab"}
        changed = await graph.update_edge("ab", valid_to=MAR, properties={"new": 1})
        assert (changed.valid_from, changed.valid_to, changed.properties) == (JAN, MAR, {"new": 1})
        assert await graph.get_edge("ab") == changed
        assert (await graph.update_edge("ab", valid_from=None)).valid_from is None
        assert (await graph.update_edge("ab", properties={})).properties == {}
        with pytest.raises(StorageDataError) as refused:
            await graph.update_edge("ab", valid_from=MAR + timedelta(microseconds=1))
        assert refused.value.field == "valid_to"
        with pytest.raises(StorageNotFoundError):
            await graph.update_edge("zz", properties={})

    on_graph(work)


def test_update_of_an_edge_deleted_meanwhile_is_not_found(recorder: Any) -> None:
    edge = Edge("e", NodeRef("N", "a"), NodeRef("N", "b"), "knows", {}, None, None)
    driver = recorder(GraphFeatures(), get_edge=edge, update_edge=False)
    with pytest.raises(StorageNotFoundError):
        asyncio.run(Graph(driver).update_edge("e", properties={}))


def test_neighbours() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab", "ca:likes", "aa", "ad", ad=(JAN, FEB))

        async def near(**options: Any) -> list[str]:
            return [f"{edge.id}-{node.id}" for edge, node in await graph.neighbours(n("a"), **options)]

        assert await near() == ["aa-a", "ab-b", "ad-d", "ca:likes-c"]
        assert await near(direction="out") == ["aa-a", "ab-b", "ad-d"]
        assert await near(direction="in") == ["aa-a", "ca:likes-c"]
        assert await near(types=["likes"]) == ["ca:likes-c"]
        assert await near(as_of=FEB) == ["aa-a", "ab-b", "ca:likes-c"]
        assert await near(as_of=JAN, direction="out") == ["aa-a", "ab-b", "ad-d"]
        assert await graph.neighbours(n("z")) == []

    on_graph(work)


def test_traverse_is_breadth_first_and_meets_each_node_once() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab", "ac", "bd", "cd", "da", "de:likes")
        assert await walk(graph, "a") == ["a0", "b1", "c1", "d2", "e3"]
        assert await walk(graph, "a", depth=1) == ["a0", "b1", "c1"]
        assert await walk(graph, "a", depth=0) == ["a0"]
        assert await walk(graph, "a", types=["knows"]) == ["a0", "b1", "c1", "d2"]
        assert await walk(graph, "a", direction="in") == ["a0", "d1", "b2", "c2"]
        assert await walk(graph, "e", direction="both", depth=2) == ["e0", "d1", "b2", "c2", "a2"]
        assert await walk(graph, "z") == []
        edges = [visit.edge.id if visit.edge else None async for visit in graph.traverse(n("a"), depth=2)]
        assert edges == [None, "ab", "ac", "bd"]

    on_graph(work)


def test_where_chooses_what_is_given_not_what_is_passed_through() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab", "bc")
        assert await walk(graph, "a", where=F("letter") == "c") == ["c2"]
        assert await walk(graph, "a", where={"letter": {"in": ["a", "c"]}}) == ["a0", "c2"]

    on_graph(work)


def test_as_of_follows_only_edges_valid_then() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab", "bc", ab=(JAN, FEB), bc=(FEB, None))
        assert await walk(graph, "a") == ["a0", "b1", "c2"]
        assert await walk(graph, "a", as_of=JAN) == ["a0", "b1"]
        assert await walk(graph, "a", as_of=FEB) == ["a0"]
        assert await graph.shortest_path(n("b"), n("c"), as_of=JAN) is None

    on_graph(work)


def test_shortest_path() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab", "bc", "cd", "ae:likes", "ed", "da")
        path = await graph.shortest_path(n("a"), n("d"))
        assert path is not None
        assert [node.id for node in path.nodes] == ["a", "e", "d"]
        assert [edge.id for edge in path.edges] == ["ae:likes", "ed"]
        longer = await graph.shortest_path(n("a"), n("d"), types=["knows"])
        assert longer is not None
        assert [edge.id for edge in longer.edges] == ["ab", "bc", "cd"]
        back = await graph.shortest_path(n("d"), n("b"), direction="both")
        assert back is not None
        assert [edge.id for edge in back.edges] == ["da", "ab"]
        backwards = await graph.shortest_path(n("c"), n("a"), direction="in")
        assert backwards is not None
        assert [node.id for node in backwards.nodes] == ["c", "b", "a"]
        same = await graph.shortest_path(n("a"), n("a"))
        assert same is not None
        assert ([node.id for node in same.nodes], same.edges) == (["a"], [])
        assert await graph.shortest_path(n("a"), n("d"), depth=1) is None
        assert await graph.shortest_path(n("a"), n("f")) is None
        assert await graph.shortest_path(n("z"), n("z")) is None

    on_graph(work)


def test_subgraph_holds_every_edge_between_its_nodes() -> None:
    async def work(graph: Graph) -> None:
        await build(graph, "ab", "ca", "bc", "cb:likes", "cd", "aa", "ef")
        near = await graph.subgraph(n("a"))
        assert [node.id for node in near.nodes] == ["a", "b", "c"]
        assert sorted(edge.id for edge in near.edges) == ["aa", "ab", "bc", "ca", "cb:likes"]
        narrow = await graph.subgraph(n("a"), depth=2, direction="out", types=["knows"])
        assert [node.id for node in narrow.nodes] == ["a", "b", "c"]
        assert sorted(edge.id for edge in narrow.edges) == ["aa", "ab", "bc", "ca"]
        assert await graph.subgraph(n("z")) == ([], [])

    on_graph(work)


pairs = st.tuples(st.sampled_from(LETTERS), st.sampled_from(LETTERS)).map("".join)


@settings(deadline=None)
@given(st.sets(pairs, max_size=12), st.integers(1, 3))
def test_walks_agree_with_a_plain_search(edges: set[str], page: int) -> None:
    """Whatever the graph and however few nodes go into one call of the driver."""

    async def work(graph: Graph) -> dict[str, int]:
        await build(graph, *sorted(edges))
        return {visit.node.id: visit.depth async for visit in graph.traverse(n("a"))}

    distances, frontier = {"a": 0}, ["a"]
    while frontier:
        near = {e[1] for e in edges if e[0] in frontier} - distances.keys()
        frontier = sorted(near)
        distances.update(dict.fromkeys(near, max(distances.values()) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_contract, "PAGE", page)
        assert on_graph(work) == distances


def test_expands_a_bounded_number_of_nodes_a_call(recorder: Any) -> None:
    many = [Node("N", f"{number:04}", {}) for number in range(1200)]
    hub, edge = (
        Node("N", "hub", {}),
        Edge("e", NodeRef("N", "hub"), NodeRef("N", "x"), "knows", {}, None, None),
    )

    def expand(_: str, refs: list[NodeRef], **__: Any) -> list[tuple[Edge, Node]]:
        return [(edge, node) for node in many] if refs == [hub.ref] else []

    driver = recorder(GraphFeatures(), get_nodes=[hub], expand=expand)

    async def visited() -> int:
        return sum([1 async for _ in Graph(driver).traverse(hub)])

    assert asyncio.run(visited()) == 1201
    assert [len(args[1]) for name, args, _ in driver.calls if name == "expand"] == [1, 500, 500, 200]


NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001
BAD: list[tuple[str, Callable[[Graph], Any]]] = [
    ("label", lambda g: g.create_node("a", "no label")),
    ("label", lambda g: g.create_node("a", "")),
    ("id", lambda g: g.create_node("", "N")),
    ("id", lambda g: g.create_node("x" * 513, "N")),
    ("properties", lambda g: g.create_node("a", "N", [])),  # type: ignore[arg-type]
    ("properties.x", lambda g: g.create_node("a", "N", {"x": float("inf")})),
    ("nodes", lambda g: g.create_nodes("a")),  # type: ignore[arg-type]
    ("nodes.label", lambda g: g.create_nodes([{"id": "a"}])),
    ("nodes.name", lambda g: g.create_nodes([{"label": "N", "name": "a"}])),
    ("node", lambda g: g.update_node("a", {})),  # type: ignore[arg-type]
    ("node.label", lambda g: g.delete_node(("", "a"))),
    ("node.id", lambda g: g.neighbours(("N", "a\0"))),
    ("nodes", lambda g: g.get_node(("N", "a", "b"))),  # type: ignore[arg-type]
    ("source", lambda g: g.create_edge("a", n("b"), "t")),  # type: ignore[arg-type]
    ("target.id", lambda g: g.create_edge(n("a"), ("N", ""), "t")),
    ("type", lambda g: g.create_edge(n("a"), n("b"), "is in")),
    ("properties", lambda g: g.create_edge(n("a"), n("b"), "t", "x")),  # type: ignore[arg-type]
    ("id", lambda g: g.create_edge(n("a"), n("b"), "t", id="")),
    ("valid_from", lambda g: g.create_edge(n("a"), n("b"), "t", valid_from=NAIVE)),
    ("valid_to", lambda g: g.create_edge(n("a"), n("b"), "t", valid_to=3)),  # type: ignore[arg-type]
    ("valid_to", lambda g: g.create_edge(n("a"), n("b"), "t", valid_from=FEB, valid_to=JAN)),
    ("edges.type", lambda g: g.create_edges([{"source": n("a"), "target": n("b")}])),
    ("id", lambda g: g.get_edge("")),
    ("direction", lambda g: g.neighbours(n("a"), direction="up")),  # type: ignore[arg-type]
    ("types", lambda g: g.neighbours(n("a"), types="knows")),
    ("types", lambda g: g.neighbours(n("a"), types=["is in"])),
    ("as_of", lambda g: g.neighbours(n("a"), as_of=NAIVE)),
    ("depth", lambda g: g.shortest_path(n("a"), n("b"), depth=-1)),
    ("target", lambda g: g.shortest_path(n("a"), "b")),  # type: ignore[arg-type]
    ("depth", lambda g: g.subgraph(n("a"), depth=1.5)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_writes_nothing(recorder: Any, field: str, call: Callable[[Graph], Any]) -> None:
    driver = recorder(GraphFeatures(), get_nodes=[])
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(call(Graph(driver)))
    assert refused.value.field == field
    assert driver.calls == []


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("depth", {"depth": -1}),
        ("direction", {"direction": "up"}),
        ("where", {"where": 3}),
        ("as_of", {"as_of": NAIVE}),
    ],
)
def test_traverse_refuses_at_once(recorder: Any, field: str, options: Any) -> None:
    with pytest.raises(StorageDataError) as refused:
        Graph(recorder(GraphFeatures())).traverse(n("a"), **options)
    assert refused.value.field == field


def test_name_and_label_are_checked_at_once(recorder: Any) -> None:
    with pytest.raises(StorageDataError) as refused:
        Graph(recorder(GraphFeatures()), "a b")
    assert refused.value.field == "name"
    graph = Graph(recorder(GraphFeatures()))
    with pytest.raises(StorageDataError) as refused:
        graph.nodes(label="a b")
    assert refused.value.field == "label"
    assert graph.features == GraphFeatures()
