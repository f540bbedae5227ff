"""Graphs: following edges (GRA-1)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from polymem.contracts.graph import Graph
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit

DAY = datetime(2024, 1, 1, tzinfo=UTC)


async def _made(kit: Kit, edges: str, *, name: str = "default") -> Graph:
    """A graph from "a>b c>d": an edge named "a>b" of type T from node a to node b, and so on."""
    graph, pairs = kit.store.graph(name), [edge.split(">") for edge in edges.split()]
    ids = sorted({id for pair in pairs for id in pair})
    await graph.create_nodes([{"id": id, "label": "N", "properties": {"id": id}} for id in ids])
    await graph.create_edges([
        {"source": ("N", a), "target": ("N", b), "type": "T", "id": f"{a}>{b}"} for a, b in pairs
    ])  # fmt: skip
    return graph


async def _reached(graph: Graph, start: str, **options: Any) -> list[tuple[str, int]]:
    return [(visit.node.id, visit.depth) async for visit in graph.traverse(("N", start), **options)]


@clause("graph")
async def neighbours_by_direction(kit: Kit) -> None:
    """Each edge of a node once, in order of its id, with the other end; an edge to itself once too."""
    graph = await _made(kit, "a>b c>a a>a b>c")
    for direction, expected in (
        ("out", [("a>a", "a"), ("a>b", "b")]),
        ("in", [("a>a", "a"), ("c>a", "c")]),
        ("both", [("a>a", "a"), ("a>b", "b"), ("c>a", "c")]),
    ):
        found = await graph.neighbours(("N", "a"), direction=direction)  # type: ignore[arg-type]
        assert [(one.edge.id, one.node.id) for one in found] == expected
        assert all(one.node.properties == {"id": one.node.id} for one in found)


@clause("graph")
async def types_are_followed(kit: Kit) -> None:
    """Only edges of the types named are followed."""
    graph = await _made(kit, "a>b")
    await graph.create_nodes([{"id": id, "label": "N"} for id in ("x", "y")])
    await graph.create_edge(("N", "a"), ("N", "x"), "U")
    await graph.create_edge(("N", "a"), ("N", "y"), "t")
    for types, expected in (
        (["T"], {"b"}),
        (["U"], {"x"}),
        (["T", "U", "T"], {"b", "x"}),
        (["V"], set()),
        ([], {"b", "x", "y"}),
    ):
        assert {one.node.id for one in await graph.neighbours(("N", "a"), types=types)} == expected
        assert {id for id, _ in await _reached(graph, "a", types=types)} == expected | {"a"}


@clause("graph")
async def traversal_is_breadth_first(kit: Kit) -> None:
    """Nearest first, each node once at its least depth, cycles and all; the depth bounds it."""
    graph = await _made(kit, "a>b a>c b>d c>d d>e e>a d>d a>a e>f")
    everything = await _reached(graph, "a")
    assert dict(everything) == {"a": 0, "b": 1, "c": 1, "d": 2, "e": 3, "f": 4}
    assert len(everything) == 6
    assert [depth for _, depth in everything] == sorted(depth for _, depth in everything)
    assert await _reached(graph, "a", depth=0) == [("a", 0)]
    assert dict(await _reached(graph, "a", depth=2)) == {"a": 0, "b": 1, "c": 1, "d": 2}
    assert dict(await _reached(graph, "a", direction="in")) == {"a": 0, "e": 1, "d": 2, "b": 3, "c": 3}
    assert dict(await _reached(graph, "f", direction="both")) == {"f": 0, "e": 1, "a": 2, "d": 2, "b": 3, "c": 3}
    assert await _reached(graph, "f") == [("f", 0)]


@clause("graph")
async def traversal_says_how(kit: Kit) -> None:
    """Each visit names the edge that led to it, the start none."""
    graph = await _made(kit, "a>b b>c")
    visits = await listed(graph.traverse(("N", "a")))
    assert [None if visit.edge is None else visit.edge.id for visit in visits] == [None, "a>b", "b>c"]


@clause("graph")
async def where_chooses_what_is_given(kit: Kit) -> None:
    """Nodes that do not satisfy `where` are passed through, not given."""
    graph = await _made(kit, "a>b b>c c>d")
    assert await _reached(graph, "a", where={"id": {"in": ["c", "d"]}}) == [("c", 2), ("d", 3)]
    assert await _reached(graph, "a", where={"id": "b"}, depth=1) == [("b", 1)]
    assert await _reached(graph, "a", where={"id": "z"}) == []


@clause("graph")
async def validity(kit: Kit) -> None:
    """An edge is followed from valid_from up to, not at, valid_to; open bounds and no as_of always."""
    graph = await _made(kit, "a>b a>c a>d a>e")
    end, tick = DAY + timedelta(days=10), timedelta(microseconds=1)
    await graph.update_edge("a>b", valid_from=DAY, valid_to=end)
    await graph.update_edge("a>c", valid_from=DAY)
    await graph.update_edge("a>d", valid_to=end)
    for at, expected in (
        (DAY - tick, "de"), (DAY, "bcde"), (end - tick, "bcde"), (end, "ce"), (None, "bcde"),
    ):  # fmt: skip
        found = await graph.neighbours(("N", "a"), as_of=at)
        assert "".join(one.node.id for one in found) == expected
        assert {id for id, _ in await _reached(graph, "a", as_of=at)} == {"a", *expected}
        path = await graph.shortest_path(("N", "a"), ("N", "b"), as_of=at)
        assert (path is not None) is ("b" in expected)


@clause("graph")
async def shortest_paths(kit: Kit) -> None:
    """The fewest edges, nodes and edges in the order of the path; none beyond the depth."""
    graph = await _made(kit, "a>b b>c c>d a>x x>d d>e y>a")
    path = await graph.shortest_path(("N", "a"), ("N", "e"))
    assert path is not None
    assert [node.id for node in path.nodes] == ["a", "x", "d", "e"]
    assert [edge.id for edge in path.edges] == ["a>x", "x>d", "d>e"]
    here = await graph.shortest_path(("N", "a"), ("N", "a"))
    assert here is not None
    assert [node.id for node in here.nodes] == ["a"]
    assert here.edges == []
    assert await graph.shortest_path(("N", "a"), ("N", "e"), depth=2) is None
    assert await graph.shortest_path(("N", "e"), ("N", "a")) is None
    assert await graph.shortest_path(("N", "a"), ("N", "nowhere")) is None
    back = await graph.shortest_path(("N", "e"), ("N", "y"), direction="both")
    assert back is not None
    assert [node.id for node in back.nodes] == ["e", "d", "x", "a", "y"]
    turned = await graph.shortest_path(("N", "e"), ("N", "y"), direction="in")
    assert turned is not None
    assert len(turned.edges) == 4


@clause("graph")
async def subgraphs(kit: Kit) -> None:
    """The nodes within reach, nearest first, and every edge between any of them, once."""
    graph = await _made(kit, "a>b b>c c>a c>d d>e a>a b>a")
    found = await graph.subgraph(("N", "a"), depth=1)
    assert found.nodes[0].id == "a"
    assert {node.id for node in found.nodes} == {"a", "b", "c"}
    assert sorted(edge.id for edge in found.edges) == ["a>a", "a>b", "b>a", "b>c", "c>a"]
    alone = await graph.subgraph(("N", "e"), depth=0)
    assert [node.id for node in alone.nodes] == ["e"]
    assert alone.edges == []
    outward = await graph.subgraph(("N", "d"), depth=5, direction="out")
    assert [node.id for node in outward.nodes] == ["d", "e"]
    assert [edge.id for edge in outward.edges] == ["d>e"]
    assert await graph.subgraph(("N", "nowhere")) == ([], [])


@clause("graph")
async def wide_graphs(kit: Kit) -> None:
    """A level of more than a page of nodes is followed whole."""
    names = [f"{number:04}" for number in range(1100)]
    graph = await _made(kit, " ".join(f"hub>{name} {name}>end" for name in names))
    reached = await _reached(graph, "hub")
    assert len(reached) == 1102
    assert reached[-1] == ("end", 2)
    assert len(await graph.neighbours(("N", "end"))) == 1100
    found = await graph.subgraph(("N", "hub"), depth=2)
    assert (len(found.nodes), len(found.edges)) == (1102, 2200)


@clause("graph")
async def bad_searches(kit: Kit) -> None:
    """direction, types, depth, where and as_of are refused by their names, before anything is read (G-2)."""
    graph: Any = await _made(kit, "a>b")
    bad: dict[str, tuple[Any, ...]] = {
        "direction": ("up", None, 1),
        "types": ("T", None, 1, [1], ["a b"], [""]),
        "depth": (-1, 1.5, "1", True),
        "where": ("a", 1, {"a": {"like": 1}}),
        "as_of": ("2024", 1, datetime(2024, 1, 1)),  # noqa: DTZ001 - that is what is refused
    }
    for field, values in bad.items():
        for value in values:
            with refused(StorageDataError, field=field):
                await listed(graph.traverse(("N", "a"), **{field: value}))
            if field not in ("depth", "where"):
                with refused(StorageDataError, field=field):
                    await graph.neighbours(("N", "a"), **{field: value})
            if field != "where":
                with refused(StorageDataError, field=field):
                    await graph.shortest_path(("N", "a"), ("N", "b"), **{field: value})
    for start in ("a", None, ("N",), ("a b", "1")):
        with refused(StorageDataError, field="start"):
            await listed(graph.traverse(start))
