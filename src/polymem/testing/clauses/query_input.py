"""What makes no sense is refused before anything is asked, naming the argument (G-2, QRY)."""

from typing import Any, Final

from polymem.contracts.kv import KeyValue
from polymem.contracts.query import Position
from polymem.core.clock import Clock
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.testing.clause import clause
from polymem.testing.expect import refused
from polymem.testing.kit import Kit

_QUERIES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("where", {"where": {"a": {"like": 1}}}), ("where", {"where": {"a": {"lt": None}}}), ("where", {"where": "a"}),
    ("where", {"where": {"a..b": 1}}), ("where", {"where": {"a": 2**64}}), ("where", {"where": {"and": []}}),
    ("where", {"where": {"and": [{"a": 1}, {"or": [{"b.c": {"like": 1}}]}]}}), ("where", {"where": {"not": {"a": {"gt": [1]}}}}),
    ("where", {"where": {"or": [{"a": 1}, None]}}), ("where", {"where": {"not": [{"a": 1}]}}), ("where", {"where": {"a": {}}}),
    ("where", {"where": {"a": {"gt": 1, "like": 2}}}), ("where", {"where": {"or": [{"a": n} for n in range(257)]}}),
    ("order_by", {"order_by": "a"}), ("order_by", {"order_by": ["a"]}), ("order_by", {"order_by": [("a", "up")]}),
    ("order_by", {"order_by": [("", "asc")]}), ("order_by", {"order_by": [(f"a{n}", "asc") for n in range(9)]}),
    ("prefix", {"prefix": 1}), ("prefix", {"prefix": "\x00"}),
)  # fmt: skip
_PAGES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("select", {"select": [["a", -1]]}), ("select", {"select": [f"a{n}" for n in range(65)]}), ("select", {"select": {"a": 1}}),
    ("select", {"select": "a"}), ("select", {"select": [""]}), ("select", {"select": [1]}),
    ("limit", {"limit": -1}), ("limit", {"limit": True}), ("limit", {"limit": 1.5}), ("offset", {"offset": -1}),
    ("offset", {"offset": "1"}), ("cursor", {"cursor": "x"}), ("cursor", {"cursor": ""}), ("cursor", {"cursor": 1}),
)  # fmt: skip
_AGGREGATES: Final[tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...]] = (
    ("results", ({},), {}), ("results", ("count",), {}), ("results", ({"a b": "count"},), {}), ("results", ({"n": "sum"},), {}),
    ("results", ({"n": ("median", "a")},), {}), ("results", ({"n": ("sum", "")},), {}), ("results", ({"n": ("sum",)},), {}),
    ("results", ({1: "count"},), {}), ("results", ({f"n{n}": "count" for n in range(33)},), {}),
    ("group_by", ({"n": "count"},), {"group_by": "a"}), ("group_by", ({"n": "count"},), {"group_by": [f"a{n}" for n in range(9)]}),
    ("group_by", ({"n": "count"},), {"group_by": ["a..b"]}), ("group_by", ({"n": "count"},), {"group_by": [["a", -1]]}),
    ("having", ({"n": "count"},), {"having": {"not": {"n": {"lt": True}}}}),
    ("having", ({"n": "count"},), {"having": {"and": [{"or": [{"n": {"in": 1}}]}]}}),
    ("having", ({"n": "count"},), {"having": {"m": 1}}), ("having", ({"n": "count"},), {"having": {"n": {"like": 1}}}),
    ("where", ({"n": "count"},), {"where": {"n": {"like": 1}}}),
    ("limit", ({"n": "count"},), {"limit": -1}),
)  # fmt: skip


@clause("query")
async def senseless_queries(kit: Kit) -> None:
    """Filters, orders, paths, limits and cursors of the wrong kind."""
    kv = kit.store.kv
    await kv.put("a", {"a": 1})
    for field, options in (*_QUERIES, *_PAGES):
        with refused(StorageDataError, field=field):
            await kv.find_many(**options)
        with refused(StorageDataError, field=field):
            await anext(kv.query(**options))
    for field, options in _QUERIES:
        with refused(StorageDataError, field=field):
            await kv.find_one(**options)
        with refused(StorageDataError, field=field):
            await kv.explain(**options)
    with refused(StorageDataError, field="limit"):
        await kv.find_many(limit=0)
    for field, options in _QUERIES:
        if field == "where":
            with refused(StorageDataError, field=field):
                await kv.count(**options)
    assert [(entry.key, entry.value) async for entry in kv.query()] == [("a", {"a": 1})]


@clause("query")
async def senseless_aggregates(kit: Kit) -> None:
    """Results, groups and having of the wrong kind."""
    aggregate: Any = kit.store.kv.aggregate
    for field, given, options in _AGGREGATES:
        with refused(StorageDataError, field=field):
            await aggregate(*given, **options)


@clause("query")
async def forged_cursors(kit: Kit) -> None:
    """A cursor whose inside was changed is refused, or at worst gives another page: never another error."""
    from polymem.contracts._query_input import Listing, checked_query  # noqa: PLC0415 - only to forge

    kv = kit.store.kv
    await kv.put_many({f"k{number}": {"n": number} for number in range(5)})
    listing = Listing(kv._scope, checked_query("", None, [("n", "asc")]))  # noqa: SLF001
    broken: tuple[Any, ...] = ({"0": {}}, {"1": 1}, {"x": 1}, {"0": [1]}, [], 1, None)
    for values in broken:
        cursor = listing.encode(Position(values, "k1"))
        with refused(StorageDataError, field="cursor"):
            await kv.find_many(order_by=[("n", "asc")], cursor=cursor)
    others: tuple[Any, ...] = ({"0": 2**65}, {"0": "x"}, {"0": True}, {"0": None}, {}, {"0": []})
    for values in others:
        cursor = listing.encode(Position(values, "k1"))
        await kv.find_many(order_by=[("n", "asc")], cursor=cursor)


@clause("query")
async def other_codecs_refuse(kit: Kit) -> None:
    """Values that are not JSON documents can't be queried, and are no documents of others."""
    kv = kit.store.kv
    hidden = hidden_values(kv, kit.clock)
    await hidden.put_many({"a": b"\xff\x00", "b": b"{", "c": b'{"n": 1}'})
    await kv.put("d", {"n": 1})
    assert await hidden.get("b") == b"{"
    calls: tuple[Any, ...] = (
        lambda: hidden.count(where={"n": 1}), hidden.find_one, hidden.find_many, hidden.explain, lambda: anext(hidden.query()),
        lambda: hidden.aggregate({"n": "count"}), lambda: hidden.create_index("n"),
    )  # fmt: skip
    for call in calls:
        with refused(StorageUnsupportedError) as caught:
            await call()
        assert "hidden" in str(caught.error)
    assert [entry.key async for entry in kv.query()] == ["d"]
    assert await kv.count(where={"not": {"m": 1}}) == 1
    assert (await kv.aggregate({"n": "count"}, where={"n": {"ge": 1}}))[0].values == {"n": 1}


def hidden_values(kv: KeyValue[Any], clock: Clock) -> KeyValue[bytes]:
    """The same records, written as something that is not JSON."""
    return KeyValue(kv._driver, clock, _Hidden(), scope=kv._scope, queries=kv._queries)  # noqa: SLF001


class _Hidden:
    tag = "hidden"

    @staticmethod
    def encode(value: bytes, /) -> bytes:
        return value

    @staticmethod
    def decode(body: bytes, /) -> bytes:
        return body


@clause("query", needs=lambda f: not f.indexes)
async def absent_indexes_are_refused(kit: Kit) -> None:
    """An engine without indexes says so."""
    kv = kit.store.kv
    for call in (lambda: kv.create_index("a"), lambda: kv.drop_index("a"), kv.list_indexes):
        with refused(StorageUnsupportedError):
            await call()


@clause("query", needs=lambda f: f.indexes)
async def senseless_indexes(kit: Kit) -> None:
    """Paths that can't be indexed, and names that are none, change nothing."""
    kv = kit.store.kv
    senseless: tuple[Any, ...] = (
        ("",),
        ("a..b",),
        (1,),
        ("a", "a"),
        (None,),
        ("a", "b", "c", "d", "e"),
        ("x" * 600,),
        ([],),
        ("a\x00",),
    )
    for paths in senseless:
        with refused(StorageDataError, field="path"):
            await kv.create_index(*paths)
    for name in ("", "a", "pm_kv_expires", "pm_query_0000000000000000", 'x"; drop table pm_kv; --'):
        assert not await kv.drop_index(name)
    with refused(StorageDataError, field="name"):
        await kv.drop_index(None)  # type: ignore[arg-type]
    assert await kv.list_indexes() == []
