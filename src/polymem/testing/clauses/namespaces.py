"""Namespaces, for every contract that keeps records: disjoint, listed, dropped (KV-4, G-10)."""

import asyncio

from polymem.testing.clause import Run, clause
from polymem.testing.clauses.names import HOSTILE
from polymem.testing.clauses.samples import SAMPLES, Sample
from polymem.testing.expect import listed
from polymem.testing.kit import Kit

_SEGMENTS = [name for name in HOSTILE if len(name) < 50]


def _siblings(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """However alike two names are, neither namespace sees the other's records."""
        rooms = [kit.store.namespace(segment) for segment in _SEGMENTS]
        await asyncio.gather(*(sample.write(room, f"{n}") for n, room in enumerate(rooms)))
        await asyncio.gather(*(sample.write(room, "same") for room in rooms))
        for number, room in enumerate(rooms):
            assert await sample.names(room) == sorted([f"{number}", "same"]), ascii(_SEGMENTS[number])
            assert await sample.count(room) == 2

    return run


def _nested(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """A parent does not see its children nor they it; nesting twice is naming two segments."""
        child = kit.store.namespace("a")
        grandchild, lookalike = child.namespace("b"), kit.store.namespace("a/b")
        for number, store in enumerate((kit.store, child, grandchild, lookalike)):
            await sample.write(store, f"{number}")
        for number, store in enumerate((kit.store, child, kit.store.namespace("a", "b"), lookalike)):
            assert await sample.names(store) == [f"{number}"]

    return run


def _removing(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """Deleting and clearing keep to their namespace."""
        rooms = [kit.store, kit.store.namespace("a"), kit.store.namespace("a", "b"), kit.store.namespace("ab")]
        for room in rooms:
            await sample.write(room, "x")
            await sample.write(room, "y")
        assert await sample.remove(rooms[1], "x")
        assert await sample.clear(rooms[1]) == 1
        assert [await sample.count(room) for room in rooms] == [2, 0, 2, 2]
        assert await sample.clear(kit.store) == 2
        assert [await sample.count(room) for room in rooms] == [0, 0, 2, 2]

    return run


def _dropping(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """drop_namespace removes a subtree, says how many records went, and leaves what is beside it alone."""
        inside = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "%")]
        beside = [("b",), ("aa",), ("a ",), ("A",), ("a/",), ("a/b",), ("a%2Fb",), ("b", "a"), ("a0",)]
        for segments in inside + beside:
            await sample.write(kit.store.namespace(*segments), "x")
        await sample.write(kit.store, "x")
        assert await kit.store.drop_namespace("a") == len(inside)
        assert [await sample.count(kit.store.namespace(*s)) for s in inside] == [0] * len(inside)
        assert [await sample.count(kit.store.namespace(*s)) for s in beside] == [1] * len(beside)
        assert await sample.names(kit.store) == ["x"]
        assert await kit.store.drop_namespace("a") == 0

    return run


def _listing(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """Namespaces lists those that hold something, relative and in order; prefix and depth narrow it."""
        names = [("a",), ("a", "b"), ("a", "b", "c"), ("a%", "/"), ("b", "a"), ("\U0001f600",)]
        for segments in names:
            await sample.write(kit.store.namespace(*segments), "x")
        store = kit.store
        assert sorted(await listed(store.namespaces())) == sorted(names)
        assert await listed(store.namespaces("a", "b")) == [("a", "b"), ("a", "b", "c")]
        assert await listed(store.namespace("a").namespaces()) == [("b",), ("b", "c")]
        tops = await listed(store.namespaces(depth=1))
        assert sorted(tops) == sorted({name[:1] for name in names})
        await sample.remove(store.namespace("b", "a"), "x")
        await sample.clear(store.namespace("b", "a"))
        assert ("b", "a") not in await listed(store.namespaces())
        await store.drop_namespace("a")
        assert sorted(await listed(store.namespaces())) == sorted([("a%", "/"), ("\U0001f600",)])

    return run


def _after_dropping(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """A handle on a dropped namespace reads nothing and can write anew."""
        room = kit.store.namespace("a")
        await sample.write(room, "old")
        await kit.store.drop_namespace("a")
        assert await sample.names(room) == []
        await sample.write(room, "new")
        assert await sample.names(room) == await sample.names(kit.store.namespace("a")) == ["new"]

    return run


def _reopening(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """What was written and what was removed is so after closing and opening, in each namespace."""
        for name in ("x", "y", "z"):
            await sample.write(kit.store, name)
            await sample.write(kit.store.namespace("a"), name)
        await sample.remove(kit.store.namespace("a"), "y")
        store = await kit.reopen()
        assert await sample.names(store) == ["x", "y", "z"]
        assert await sample.names(store.namespace("a")) == ["x", "z"]

    return run


def _second_instance(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """Another instance sees what this one wrote and removed, and the other way round."""
        other = await kit.second()
        await sample.write(kit.store, "a")
        assert await sample.names(other) == ["a"]
        await sample.write(other, "b")
        assert await sample.names(kit.store) == ["a", "b"]
        await sample.remove(other, "a")
        assert await sample.names(kit.store) == ["b"]
        assert await sample.count(other) == 1

    return run


def _hostile(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """Ids, keys and session ids may hold any characters: each is its own (G-4)."""
        await asyncio.gather(*(sample.write(kit.store, name) for name in HOSTILE))
        assert await sample.names(kit.store) == sorted(HOSTILE)
        for number, name in enumerate(HOSTILE[:40]):
            assert await sample.remove(kit.store, name)
            assert await sample.count(kit.store) == len(HOSTILE) - number - 1
        assert await sample.names(kit.store) == sorted(HOSTILE[40:])

    return run


def _pages(sample: Sample) -> Run:
    async def run(kit: Kit) -> None:
        """A listing of several pages has every record once, in order, and one that is there throughout always."""
        names = [f"{number:04}" for number in range(0, 2020, 2)]
        await asyncio.gather(*(sample.write(kit.store, name) for name in names))
        assert await sample.names(kit.store) == names
        changing = asyncio.create_task(_change(sample, kit))
        for _ in range(3):
            found = await sample.names(kit.store)
            assert set(found) >= set(names)
            assert len(found) == len(set(found))
            assert found == sorted(found)
        await changing

    return run


async def _change(sample: Sample, kit: Kit) -> None:
    for number in range(1, 200, 20):
        await sample.write(kit.store, f"{number:04}")
        await sample.remove(kit.store, f"{number:04}")


def _ordered(features: object) -> bool:
    return getattr(features, "ordered", True)


def _durable(features: object) -> bool:
    return getattr(features, "durable", True)


for _sample in SAMPLES.values():
    _name = _sample.contract
    clause(_name, id="namespaces-are-disjoint", needs=_ordered)(_siblings(_sample))
    clause(_name, id="namespaces-nest")(_nested(_sample))
    clause(_name, id="namespaces-are-cleared-alone")(_removing(_sample))
    clause(_name, id="namespaces-are-dropped-whole")(_dropping(_sample))
    clause(_name, id="namespaces-are-listed")(_listing(_sample))
    clause(_name, id="namespaces-live-again")(_after_dropping(_sample))
    clause(_name, id="reopening-keeps-everything", needs=_durable)(_reopening(_sample))
    clause(_name, id="two-instances-agree", uses=["shared"])(_second_instance(_sample))
    clause(_name, id="hostile-names", needs=_ordered)(_hostile(_sample))
    clause(_name, id="several-pages", needs=_ordered)(_pages(_sample))
