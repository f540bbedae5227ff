"""Queries between writes: with indexes or without, the answers of an engine are those of the memory engine."""

from typing import Any

from hypothesis import strategies as st

from polymem.store import Store
from polymem.testing.models.model import TTL, Memo, Model, drawn

_MOST = 50
KEY = st.sampled_from(["a", "ab", "b", "%", "\u00e9", "k1", "k2", "k3"])
VALUE = st.sampled_from([
    0, 1, 1, 1.0, 2, -3, 2.5, 2**63 - 1, 2**63, 2.0**63, 10**23, "", "1", "a", "ab", "\uffff", True, False, None, [1], ["a"], {},
    {"b": 1},
])  # fmt: skip
DOCUMENT = drawn([
    *[st.dictionaries(st.sampled_from(["n", "n", "m", "0"]), VALUE, max_size=3)] * 4,
    VALUE,
    st.lists(VALUE, max_size=2),
])  # fmt: skip
PATH = st.sampled_from(["n", "n", "n", "m", "n.b", "0"])
TEST = drawn([
    st.tuples(PATH, st.sampled_from(["eq", "eq", "ne", "contains"]), VALUE.filter(lambda value: value not in (2**63, 10**23))),
    st.tuples(PATH, st.sampled_from(["lt", "le", "gt", "ge"]), st.sampled_from([0, 1, 2.5, 2.0**63, "", "a", "b"])),
    st.tuples(PATH, st.just("between"), st.sampled_from([[0, 2], [1.0, 1e300], ["", "b"], [2, 1]])),
    st.tuples(PATH, st.sampled_from(["in", "not_in"]), st.lists(st.sampled_from([1, 2.5, "a", None, True]), max_size=3)),
    st.tuples(PATH, st.just("exists"), st.booleans()),
    st.tuples(PATH, st.just("starts_with"), st.sampled_from(["", "a", "\uffff"])),
]).map(lambda test: {test[0]: {test[1]: test[2]}})  # fmt: skip
WHERE = drawn([
    st.just({}),
    TEST,
    TEST,
    st.lists(TEST, min_size=2, max_size=3).map(lambda tests: {"and": tests}),
    st.lists(TEST, min_size=2, max_size=2).map(lambda tests: {"or": tests}),
    TEST.map(lambda test: {"not": test}),
])  # fmt: skip
ORDER = st.lists(st.tuples(PATH, st.sampled_from(["asc", "desc"])), max_size=2)
PREFIX = st.sampled_from(["", "", "", "a", "k", "z"])
SMALL = st.integers(0, 3)
INDEX = st.sampled_from([("n",), ("n",), ("m",), ("n", "m"), ("m", "n"), ("n.b",), ("0",)])
RESULTS = st.dictionaries(
    st.sampled_from(["x", "y"]),
    drawn([
        st.just("count"), st.tuples(st.sampled_from(["count", "sum", "avg", "min", "max", "distinct"]), PATH),
    ]),
    min_size=1,
)  # fmt: skip


async def _put(store: Store, _: Memo, key: str, document: Any, ttl: Any) -> None:
    await store.kv.put(key, document, ttl=ttl)


async def _put_many(store: Store, _: Memo, documents: dict[str, Any]) -> None:
    await store.kv.put_many(documents)


async def _touch(store: Store, _: Memo, key: str, ttl: Any) -> bool:
    return await store.kv.touch(key, ttl=ttl)


async def _increment(store: Store, _: Memo, key: str) -> int:
    return await store.kv.increment(key)


async def _delete(store: Store, _: Memo, key: str) -> bool:
    return await store.kv.delete(key)


async def _clear(store: Store, _: Memo) -> int:
    return await store.kv.clear()


async def _create_index(store: Store, _: Memo, paths: tuple[str, ...]) -> None:
    if store.features()["query"].indexes:
        name = await store.kv.create_index(*paths)
        assert name in {index.name for index in await store.kv.list_indexes()}


async def _drop_index(store: Store, _: Memo, number: int) -> None:
    if store.features()["query"].indexes:
        for index in (await store.kv.list_indexes())[number : number + 1]:
            assert await store.kv.drop_index(index.name)


async def _query(store: Store, _: Memo, where: Any, order: Any, prefix: str, limit: int | None, offset: int) -> Any:  # noqa: PLR0917 - drawn arguments
    found = store.kv.query(where, order_by=order, prefix=prefix, limit=limit, offset=offset)
    return [(entry.key, entry.value) async for entry in found]


async def _pages(store: Store, _: Memo, where: Any, order: Any, limit: int) -> Any:
    """Everything, page by page."""
    pages: list[list[str]] = []
    cursor = None
    while not pages or cursor is not None:
        entries, cursor = await store.kv.find_many(where, order_by=order, limit=limit + 1, cursor=cursor)
        pages.append([entry.key for entry in entries])
        assert len(pages) <= _MOST, "the pages go round in circles"
    return pages


async def _find_one(store: Store, _: Memo, where: Any, order: Any) -> Any:
    entry = await store.kv.find_one(where, order_by=order)
    return None if entry is None else (entry.key, entry.value)


async def _begin_pages(store: Store, memo: Memo, where: Any, order: Any, limit: int) -> Any:
    entries, cursor = await store.kv.find_many(where, order_by=order, limit=limit + 1)
    memo["pages"] = (where, order, cursor)
    return [entry.key for entry in entries], cursor is None


async def _next_page(store: Store, memo: Memo, limit: int) -> Any:
    """Whatever was written in between; in another namespace the cursor is refused."""
    where, order, cursor = memo.get("pages", (None, [], None))
    entries, cursor = await store.kv.find_many(where, order_by=order, limit=limit + 1, cursor=cursor)
    memo["pages"] = (where, order, cursor)
    return [entry.key for entry in entries], cursor is None


async def _count(store: Store, _: Memo, where: Any, prefix: str) -> int:
    return await store.kv.count(prefix, where=where)


async def _aggregate(store: Store, _: Memo, results: Any, where: Any, groups: list[str]) -> Any:
    return [tuple(row) for row in await store.kv.aggregate(results, where=where, group_by=groups)]


async def _select(store: Store, _: Memo, where: Any, paths: list[str]) -> Any:
    return [entry.value async for entry in store.kv.query(where, select=paths)]


async def _state(store: Store) -> Any:
    entries = [(entry.key, entry.value, entry.expires_at) async for entry in store.kv.query()]
    return entries, [entry.key async for entry in store.kv.query(order_by=[("n", "desc")])]


QUERY = Model(
    "query",
    {
        "put": (_put, (KEY, DOCUMENT, TTL)),
        "put_many": (_put_many, (st.dictionaries(KEY, DOCUMENT, max_size=6),)),
        "touch": (_touch, (KEY, TTL)),
        "increment": (_increment, (KEY,)),
        "delete": (_delete, (KEY,)),
        "clear": (_clear, ()),
        "create_index": (_create_index, (INDEX,)),
        "drop_index": (_drop_index, (SMALL,)),
        "query": (_query, (WHERE, ORDER, PREFIX, st.none() | SMALL, SMALL)),
        "pages": (_pages, (WHERE, ORDER, SMALL)),
        "find_one": (_find_one, (WHERE, ORDER)),
        "begin_pages": (_begin_pages, (WHERE, ORDER, SMALL)),
        "next_page": (_next_page, (SMALL,)),
        "count": (_count, (WHERE, PREFIX)),
        "aggregate": (_aggregate, (RESULTS, WHERE, st.lists(PATH, max_size=2))),
        "select": (_select, (WHERE, st.lists(PATH, max_size=3))),
    },
    ("put_many", "create_index", "pages"),
    _state,
)
