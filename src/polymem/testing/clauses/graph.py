"""Graphs: nodes and edges (GRA-1)."""

import asyncio
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

from polymem.contracts.graph import GraphSize, NodeRef
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import HOSTILE, NOT_TEXT, TOO_LONG, VALUES
from polymem.testing.expect import listed, refused, same
from polymem.testing.kit import Kit

DAY = datetime(2024, 1, 1, tzinfo=UTC)


@clause("graph")
async def nodes(kit: Kit) -> None:
    """A node is its label and id: each pair is its own, with its own properties."""
    graph = kit.store.graph()
    for label, id in (("A", "1"), ("B", "1"), ("A", "2"), ("a", "1")):
        await graph.create_node(id, label, {"is": f"{label}{id}"})
    for label, id in (("A", "1"), ("B", "1"), ("A", "2"), ("a", "1")):
        node = await graph.get_node((label, id))
        assert node is not None
        assert node.ref == NodeRef(label, id)
        assert node.properties == {"is": f"{label}{id}"}
    assert await graph.get_node(("B", "2")) is None
    assert await graph.count() == (4, 0)
    made = await graph.create_node(None, "A")
    assert made.id
    assert await graph.get_node(made) == made
    found = await graph.get_nodes([("B", "1"), ("A", "9"), ("A", "1"), ("B", "1")])
    assert [node.ref for node in found] == [("B", "1"), ("A", "1")]


@clause("graph")
async def nodes_exist_once(kit: Kit) -> None:
    """Creating what exists is a conflict, and nothing of the batch is written."""
    graph = kit.store.graph()
    await graph.create_node("1", "A", {"n": 1})
    with refused(StorageConflictError):
        await graph.create_node("1", "A", {"n": 2})
    with refused(StorageConflictError):
        await graph.create_nodes([{"id": "2", "label": "A"}, {"id": "1", "label": "A"}])
    with refused(StorageConflictError):
        await graph.create_nodes([{"id": "3", "label": "A"}, {"id": "3", "label": "A"}])
    node = await graph.get_node(("A", "1"))
    assert node is not None
    assert node.properties == {"n": 1}
    assert await graph.count() == (1, 0)


@clause("graph")
async def updating_nodes(kit: Kit) -> None:
    """Update replaces all properties of a node that is there, and keeps its edges."""
    graph = kit.store.graph()
    await graph.create_nodes([{"id": "1", "label": "A", "properties": {"x": 1, "y": 2}}, {"id": "2", "label": "A"}])
    await graph.create_edge(("A", "1"), ("A", "2"), "KNOWS")
    await graph.update_node(("A", "1"), {"x": 3})
    node = await graph.get_node(("A", "1"))
    assert node is not None
    assert node.properties == {"x": 3}
    assert await graph.count() == (2, 1)
    with refused(StorageNotFoundError):
        await graph.update_node(("A", "9"), {})
    assert await graph.get_node(("A", "9")) is None


@clause("graph")
async def edges(kit: Kit) -> None:
    """An edge comes back as it was made; several between the same nodes, and one from a node to itself, are fine."""
    graph = kit.store.graph()
    await graph.create_nodes([{"id": "1", "label": "A"}, {"id": "1", "label": "B"}])
    a, b = ("A", "1"), ("B", "1")
    until = DAY + timedelta(days=3, microseconds=1)
    made = await graph.create_edge(a, b, "KNOWS", {"w": 0.5}, valid_from=DAY, valid_to=until, id="e")
    assert (made.source, made.target, made.type, made.properties) == (a, b, "KNOWS", {"w": 0.5})
    assert (made.valid_from, made.valid_to) == (DAY, until)
    assert await graph.get_edge("e") == made
    for pair in ((a, b), (a, b), (b, a), (a, a)):
        other = await graph.create_edge(*pair, "KNOWS")
        assert await graph.get_edge(other.id) == other
        assert other.valid_from is other.valid_to is None
    assert await graph.count() == GraphSize(2, 5)
    assert await graph.get_edge("none") is None


@clause("graph")
async def edges_need_their_ends(kit: Kit) -> None:
    """A missing end is not found, a taken id a conflict, and nothing of the batch is written."""
    graph = kit.store.graph()
    await graph.create_node("1", "A")
    a = ("A", "1")
    for source, target in ((a, ("A", "2")), (("B", "1"), a), (a, ("a", "1"))):
        with refused(StorageNotFoundError):
            await graph.create_edges([
                {"source": a, "target": a, "type": "T"}, {"source": source, "target": target, "type": "T"},
            ])  # fmt: skip
    await graph.create_edge(a, a, "T", id="e")
    for ids in (["x", "e"], ["y", "y"]):
        with refused(StorageConflictError):
            await graph.create_edges([{"source": a, "target": a, "type": "T", "id": id} for id in ids])
    assert await graph.count() == (1, 1)


@clause("graph")
async def updating_edges(kit: Kit) -> None:
    """update_edge replaces what is given and keeps the rest; None opens a bound."""
    graph = kit.store.graph()
    await graph.create_node("1", "A")
    made = await graph.create_edge(("A", "1"), ("A", "1"), "T", {"a": 1}, valid_from=DAY, id="e")
    await graph.update_edge("e", valid_to=DAY + timedelta(days=1))
    await graph.update_edge("e", properties={"b": 2})
    found = await graph.get_edge("e")
    assert found is not None
    assert (found.source, found.type) == (made.source, "T")
    assert (found.properties, found.valid_from, found.valid_to) == ({"b": 2}, DAY, DAY + timedelta(days=1))
    await graph.update_edge("e", valid_from=None, valid_to=None)
    found = await graph.get_edge("e")
    assert found is not None
    assert found.valid_from is None
    assert found.valid_to is None
    assert found.properties == {"b": 2}
    with refused(StorageNotFoundError):
        await graph.update_edge("none", properties={})


@clause("graph")
async def deleting(kit: Kit) -> None:
    """A node goes with all its edges, an edge alone; the answers say what was there."""
    graph = kit.store.graph()
    await graph.create_nodes([{"id": f"{n}", "label": "A"} for n in range(4)])
    refs = [("A", f"{n}") for n in range(4)]
    for source, target, id in ((0, 1, "a"), (1, 2, "b"), (2, 0, "c"), (1, 1, "d")):
        await graph.create_edge(refs[source], refs[target], "T", id=id)
    assert await graph.delete_edge("a")
    assert not await graph.delete_edge("a")
    assert await graph.delete_node(refs[1])
    assert not await graph.delete_node(refs[1])
    assert await graph.get_edge("b") is None
    assert await graph.get_edge("d") is None
    assert await graph.count() == (3, 1)
    assert await graph.neighbours(refs[1]) == []
    await graph.create_node("1", "A")
    assert await graph.neighbours(refs[1]) == []
    assert await graph.clear() == 4
    assert await graph.count() == (0, 0)
    assert await graph.clear() == 0
    await graph.create_nodes([{"id": f"{n}", "label": "A"} for n in range(2)])
    await graph.create_edge(refs[0], refs[1], "T", id="c")


@clause("graph")
async def absent(kit: Kit) -> None:
    """An unknown graph reads as empty."""
    graph = kit.store.graph("unknown")
    assert await graph.get_node(("A", "1")) is None
    assert await graph.get_edge("e") is None
    assert not await graph.delete_node(("A", "1"))
    assert not await graph.delete_edge("e")
    assert await graph.neighbours(("A", "1")) == []
    assert await graph.get_nodes([("A", "1")]) == []
    assert await listed(graph.nodes()) == []
    assert await listed(graph.traverse(("A", "1"))) == []
    assert await graph.shortest_path(("A", "1"), ("A", "2")) is None
    assert await graph.count() == (0, 0)
    assert await graph.clear() == 0
    assert await graph.create_nodes([]) == []
    assert await graph.create_edges([]) == []


@clause("graph")
async def nodes_in_order(kit: Kit) -> None:
    """Nodes lists by (label, id), one label or all, over several pages."""
    graph = kit.store.graph()
    wanted = [(label, f"{n:x}") for label in ("A", "AB", "B", "a") for n in range(300)]
    wanted += [("A", "\uffff"), ("A", "\U0001f600"), ("A", "\u00e9")]
    await graph.create_nodes([{"id": id, "label": label} for label, id in wanted])
    assert [node.ref async for node in graph.nodes()] == sorted(wanted)
    assert [node.ref async for node in graph.nodes(label="A")] == sorted(ref for ref in wanted if ref[0] == "A")
    assert await listed(graph.nodes(label="C")) == []


@clause("graph")
async def graphs_are_apart(kit: Kit) -> None:
    """Graphs of other names and namespaces share neither nodes nor edge ids."""
    graphs = [kit.store.graph(), kit.store.graph("other"), kit.store.graph("Default"), kit.store.namespace("n").graph()]
    for number, graph in enumerate(graphs):
        await graph.create_node("1", "A", {"n": number})
        await graph.create_edge(("A", "1"), ("A", "1"), "T", {"n": number}, id="e")
    await graphs[1].delete_edge("e")
    await graphs[2].clear()
    assert [await graph.count() for graph in graphs] == [(1, 1), (1, 0), (0, 0), (1, 1)]
    for number in (0, 3):
        edge = await graphs[number].get_edge("e")
        assert edge is not None
        assert edge.properties == {"n": number}
        assert len(await graphs[number].neighbours(("A", "1"))) == 1


@clause("graph")
async def hostile_ids(kit: Kit) -> None:
    """Ids of nodes and edges may hold any characters; each is its own (G-4)."""
    graph = kit.store.graph()
    await graph.create_nodes([{"id": id, "label": "A"} for id in HOSTILE])
    pairs = list(pairwise(HOSTILE))
    await graph.create_edges([{"source": ("A", a), "target": ("A", b), "type": "T", "id": a} for a, b in pairs])
    assert await graph.count() == (len(HOSTILE), len(pairs))
    for a, b in pairs:
        edge = await graph.get_edge(a)
        assert edge is not None
        assert (edge.source.id, edge.target.id) == (a, b)
        assert [found.node.id for found in await graph.neighbours(("A", a), direction="out")] == [b]
    path = await graph.shortest_path(("A", HOSTILE[0]), ("A", HOSTILE[-1]))
    assert path is not None
    assert [node.id for node in path.nodes] == list(HOSTILE)


@clause("graph")
async def properties_are_lossless(kit: Kit) -> None:
    """Any JSON in properties comes back as it is, and instants keep their microseconds, whatever their zone (G-5)."""
    graph, properties = kit.store.graph(), {f"{n}": value for n, value in enumerate(VALUES)}
    at = datetime(1812, 6, 24, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    await graph.create_node("1", "A", properties)
    await graph.create_edge(("A", "1"), ("A", "1"), "T", properties, valid_from=at, id="e")
    node, edge = await graph.get_node(("A", "1")), await graph.get_edge("e")
    assert node is not None
    assert same(node.properties, properties)
    assert edge is not None
    assert same(edge.properties, properties)
    assert edge.valid_from == at
    assert edge.valid_from is not None
    assert edge.valid_from.utcoffset() == timedelta(0)


@clause("graph")
async def concurrent_creates(kit: Kit) -> None:
    """Of many who create one node one succeeds; an edge is never left without its ends."""
    graph = kit.store.graph()
    results = await asyncio.gather(*(graph.create_node("1", "A") for _ in range(16)), return_exceptions=True)
    assert sum(isinstance(result, StorageConflictError) for result in results) == 15
    await graph.create_node("2", "A")

    async def work(number: int) -> None:
        try:
            if number % 4 == 0:
                await graph.delete_node(("A", "2"))
            else:
                await graph.create_edge(("A", "1"), ("A", "2"), "T")
        except StorageNotFoundError:
            pass

    await kit.together(work)
    assert await graph.get_node(("A", "2")) is None
    assert await graph.count() == (1, 0)


@clause("graph")
async def input_is_not_mutated(kit: Kit) -> None:
    """Properties come back untouched; later changes to them, or to what was read, change nothing (G-3)."""
    graph, properties = kit.store.graph(), {"a": [1]}
    before = deepcopy(properties)
    batch: list[dict[str, Any]] = [{"id": "1", "label": "A", "properties": properties}]
    made = await graph.create_nodes(batch)
    await graph.create_edge(("A", "1"), ("A", "1"), "T", properties, id="e")
    assert properties == before
    assert batch == [{"id": "1", "label": "A", "properties": properties}]
    properties["a"].append(2)
    made[0].properties["a"].append(3)
    for _ in range(2):
        node, edge = await graph.get_node(("A", "1")), await graph.get_edge("e")
        assert node is not None
        assert edge is not None
        assert node.properties == edge.properties == before
        node.properties["a"].append(4)
        edge.properties["a"].append(4)


@clause("graph")
async def bad_nodes(kit: Kit) -> None:
    """Labels, ids, properties and members are refused by their names; one bad node stops the batch (G-2)."""
    graph: Any = kit.store.graph()
    for label in ("", "a b", "1a", "a`", "a'", None, 1, "x" * 64, "\u00e9"):
        with refused(StorageDataError, field="label"):
            await graph.create_nodes([{"label": "A"}, {"label": label}])
        with refused(StorageDataError, field="nodes.label"):
            await graph.get_node((label, "1"))
    for id in (*NOT_TEXT, *TOO_LONG):
        if id is not None:
            with refused(StorageDataError, field="id"):
                await graph.create_node(id, "A")
        with refused(StorageDataError, field="node.id"):
            await graph.delete_node(("A", id))
    for properties in ("a", [1], {"a": float("nan")}, {1: 2}, {"a": "\x00"}):
        with refused(StorageDataError, field="properties"):
            await graph.create_nodes([{"label": "A"}, {"label": "A", "properties": properties}])
        with refused(StorageDataError, field="properties"):
            await graph.update_node(("A", "1"), properties)
    batches: tuple[Any, ...] = ("ab", None, 1, {"label": "A"}, ["a"], [{}], [{"id": "1"}], [{"label": "A", "extra": 1}])
    for batch in batches:
        with refused(StorageDataError, field="nodes"):
            await graph.create_nodes(batch)
    for node in ("A", None, 1, ("A",), ("A", "1", "x", "y")):
        with refused(StorageDataError, field="node"):
            await graph.delete_node(node)
    with refused(StorageDataError, field="name"):
        kit.store.graph("a b")
    assert await graph.count() == (0, 0)


@clause("graph")
async def bad_edges(kit: Kit) -> None:
    """Ends, type, properties, validity and members are refused by their names (G-2)."""
    graph: Any = kit.store.graph()
    await graph.create_node("1", "A")
    a = ("A", "1")
    good: dict[str, Any] = {"source": a, "target": a, "type": "T"}
    bad: dict[str, tuple[Any, ...]] = {
        "source": ("A", None, ("A",), ("a b", "1"), ("A", "")),
        "target": (1, ("A", 1), ("1A", "1"), ("A", "x" * 513)),
        "type": ("", "a b", "1", None, "T`"),
        "properties": ("a", {"a": float("inf")}, {1: 2}),
        "id": ("", 1, "\x00", "x" * 513),
        "valid_from": ("2024-01-01", 1, datetime(2024, 1, 1)),  # noqa: DTZ001 - that is what is refused
        "valid_to": ("x", datetime(2024, 1, 1)),  # noqa: DTZ001
    }
    for field, values in bad.items():
        for value in values:
            with refused(StorageDataError, field=field):
                await graph.create_edges([good, {**good, field: value}])
    with refused(StorageDataError, field="valid_to"):
        await graph.create_edge(a, a, "T", valid_from=DAY, valid_to=DAY - timedelta(microseconds=1))
    for batch in ("ab", None, 1, good, ["a"], [{"source": a, "target": a}], [{**good, "weight": 1}]):
        with refused(StorageDataError, field="edges"):
            await graph.create_edges(batch)
    assert await graph.count() == (1, 0)


@clause("graph", needs=lambda f: f.durable)
async def survives_reopening(kit: Kit) -> None:
    """Nodes, edges, properties and validity are the same after closing and opening."""
    graph = kit.store.graph()
    await graph.create_nodes([{"id": f"{n}", "label": "A", "properties": {"n": n}} for n in range(3)])
    await graph.create_edge(("A", "0"), ("A", "1"), "T", {"w": 1}, valid_from=DAY, id="e")
    await graph.delete_node(("A", "2"))
    before = await listed(graph.nodes()), await graph.get_edge("e")
    graph = (await kit.reopen()).graph()
    assert (await listed(graph.nodes()), await graph.get_edge("e")) == before
    assert await graph.count() == (2, 1)
