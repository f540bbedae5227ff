"""QRY-1 to QRY-4, QRY-6, G-2: what the querying half of `KeyValue` checks, passes on and pages through."""

import asyncio
import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.contracts._query_input import Listing, checked_index, checked_query
from polymem.contracts._query_values import (
    ExactSum,
    comparable,
    comparable_key,
    partial,
    path_text,
    position_key,
    position_of,
    revealed,
)
from polymem.contracts.filter import F, parse_order, sort_key
from polymem.contracts.kv import Entry, KeyValue, KVFeatures, Record
from polymem.contracts.query import (
    Aggregate,
    AggregateRow,
    Explanation,
    Found,
    IndexInfo,
    Position,
    Query,
    QueryFeatures,
)
from polymem.core.clock import ManualClock
from polymem.core.codec import JsonCodec
from polymem.errors import StorageDataError, StorageUnsupportedError


@dataclasses.dataclass
class Order:
    amount: int


def record(body: bytes = b'{"n":1}', codec: str = "json") -> Record:
    return Record(body, codec, 7, 0, 0, None)


def found(*keys: str, after: str | None = None) -> Found:
    return Found([(key, record()) for key in keys], None if after is None else Position({}, after))


def api(recorder: Any, *, indexes: bool = True, **answers: Any) -> tuple[KeyValue[Any], Any]:
    driver = recorder(QueryFeatures(indexes=indexes), **answers)
    plain = recorder(KVFeatures(), count=3)
    return KeyValue(plain, ManualClock(), JsonCodec(), scope="n/", queries=driver), driver


def test_passes_on_what_was_checked(recorder: Any) -> None:
    kv, driver = api(
        recorder, find=found("a"), count=2, aggregate=[AggregateRow({}, {"n": 1})], explain=Explanation((), ())
    )

    async def run() -> None:
        where = {"a.b": {"ge": 1}}
        entry = await kv.find_one(where, prefix="k", order_by=[("x.y", "desc")])
        assert isinstance(entry, Entry)
        assert (entry.key, entry.value, entry.version) == ("a", {"n": 1}, 7)
        assert await kv.count("k", where=where) == 2
        assert await kv.count("k") == 3
        await kv.aggregate(
            {"n": "count", "s": ("sum", ["a.b"]), "m": Aggregate("max", ("x",))},
            group_by=["g"],
            having={"n": 1},
            limit=5,
        )
        await kv.explain(where, offset=2)
        assert await kv.create_index("a", ["b", 0]) == checked_index(("a", "b.0")).name
        await kv.drop_index("x")
        await kv.list_indexes()

    asyncio.run(run())
    condition = F("a.b") >= 1
    ordered = Query("k", condition, ((("x", "y"), "desc"),))
    index = IndexInfo(checked_index(("a", "b.0")).name, (("a",), ("b", "0")))
    calls = [(name, args) for name, args, _ in driver.calls]
    assert calls[0] == ("find", (ordered, None, 1))
    assert calls[1] == ("count", ("k", condition))
    (wanted,) = calls[2][1]
    assert wanted.results == {"n": Aggregate("count"), "s": Aggregate("sum", ("a.b",)), "m": Aggregate("max", ("x",))}
    assert (wanted.group_by, wanted.having, wanted.limit) == ((("g",),), F("n") == 1, 5)
    assert calls[3:] == [
        ("explain", (Query("", condition, (), None, 2),)),
        ("create_index", (index,)),
        ("drop_index", ("x",)),
        ("list_indexes", ()),
    ]


def test_streams_page_by_page(recorder: Any) -> None:
    """After the first page nothing is skipped; pages of an order grow, the last is no larger than what is wanted."""
    pages = {None: found("a", "b", after="b"), "b": found("c", "d", after="d"), "d": found("e")}

    def find(query: Query, after: Position | None, limit: int) -> Found:
        page = pages[after and after.key]
        return Found(page.items[:limit], page.after)

    kv, driver = api(recorder, find=find)

    async def run() -> None:
        assert [entry.key async for entry in kv.query(offset=3, order_by=[("n", "asc")])] == list("abcde")
        assert [entry.key async for entry in kv.query(limit=3)] == list("abc")
        assert [entry.key async for entry in kv.query(limit=0)] == []

    asyncio.run(run())
    asked = [(query.offset, after and after.key, limit) for _, (query, after, limit), _ in driver.calls]
    assert asked == [(3, None, 1000), (0, "b", 2000), (0, "d", 4000), (0, None, 3), (0, "b", 1)]


def test_cursors_carry_position_and_query(recorder: Any) -> None:
    position = Position({"0": 1.5, "1": []}, "k")
    kv, driver = api(recorder, find=Found([("k", record())], position))
    order: Any = [("a", "asc"), ("b", "desc")]

    async def run() -> None:
        _, cursor = await kv.find_many(F("n") == 1, order_by=order)
        assert cursor is not None
        await kv.find_many({"n": 1.0}, order_by=order, cursor=cursor, select=["n"])
        for where, by, prefix in ((F("n") == 2, order, ""), (F("n") == 1, order[:1], ""), (F("n") == 1, order, "k")):
            with pytest.raises(StorageDataError) as caught:
                await kv.find_many(where, order_by=by, prefix=prefix, cursor=cursor)
            assert caught.value.field == "cursor"
        elsewhere = KeyValue(kv._driver, ManualClock(), JsonCodec(), scope="other/", queries=driver)
        with pytest.raises(StorageDataError, match="another listing"):
            await elsewhere.find_many(F("n") == 1, order_by=order, cursor=cursor)

    asyncio.run(run())
    assert driver.calls[1][1][1] == position
    assert len(driver.calls) == 2


BAD: list[tuple[str, Callable[[KeyValue[Any]], Any]]] = [
    ("where", lambda kv: kv.find_one("a")),  # type: ignore[arg-type]
    ("where", lambda kv: kv.count(where=5)),  # type: ignore[arg-type]
    ("where.a", lambda kv: kv.aggregate({"n": "count"}, where={"a": {"between": [1]}})),
    ("order_by", lambda kv: kv.find_many(order_by="a")),  # type: ignore[arg-type]
    ("order_by", lambda kv: kv.find_many(order_by=[("a", "up")])),
    ("select", lambda kv: kv.find_many(select="a")),
    ("select", lambda kv: kv.find_many(select=[f"a{n}" for n in range(65)])),
    ("limit", lambda kv: kv.find_many(limit=0)),
    ("limit", lambda kv: anext(kv.query(limit=-1))),
    ("offset", lambda kv: kv.find_many(offset=-1)),
    ("cursor", lambda kv: kv.find_many(cursor="e30")),
    ("prefix", lambda kv: kv.find_one(prefix=None)),  # type: ignore[arg-type]
    ("results", lambda kv: kv.aggregate({})),
    ("results.n", lambda kv: kv.aggregate({"n": "sum"})),  # type: ignore[dict-item]
    ("results.n", lambda kv: kv.aggregate({"n": Aggregate("sum")})),
    ("results.n", lambda kv: kv.aggregate({"n": ("mode", "a")})),  # type: ignore[dict-item]
    ("results", lambda kv: kv.aggregate({"a.b": "count"})),
    ("group_by", lambda kv: kv.aggregate({"n": "count"}, group_by="a")),
    ("having", lambda kv: kv.aggregate({"n": "count"}, having=[])),  # type: ignore[arg-type]
    ("having.n", lambda kv: kv.aggregate({"n": "count"}, having={"n": {"lt": None}})),
    ("path", lambda kv: kv.create_index("")),
    ("path", lambda kv: kv.create_index("a", ["a"])),
    ("path", lambda kv: kv.create_index("\u00e9" * 300)),
    ("name", lambda kv: kv.drop_index(1)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_asks_nothing(
    recorder: Any, field: str, call: Callable[[KeyValue[Any]], Any]
) -> None:
    kv, driver = api(recorder, find=found("a"))

    async def run() -> None:
        await call(kv)

    with pytest.raises(StorageDataError) as refused:
        asyncio.run(run())
    assert refused.value.field == field
    assert driver.calls == []


def test_what_is_not_there_is_refused(recorder: Any) -> None:
    """A storage without documents, an engine without queries, one without indexes: three different answers."""

    class Bytes:
        tag = "aes"

        def encode(self, value: bytes) -> bytes:
            return value

        def decode(self, body: bytes) -> bytes:
            return body

    driver = recorder(QueryFeatures(indexes=False))
    plain = recorder(KVFeatures(), count=3)
    secret: KeyValue[bytes] = KeyValue(plain, ManualClock(), Bytes(), queries=driver)
    lacking: KeyValue[Any] = KeyValue(plain, ManualClock(), JsonCodec())
    unindexed: KeyValue[Any] = KeyValue(plain, ManualClock(), JsonCodec(), queries=driver)

    async def run() -> None:
        for kv, said in ((secret, "'aes'"), (lacking, "no queries"), (lacking.typed(Order), "no queries")):
            for call in (kv.find_one(), kv.find_many(), anext(kv.query()), kv.count(where={"a": 1}), kv.list_indexes()):
                with pytest.raises(StorageUnsupportedError, match=said):
                    await call
            assert await kv.count() == 3
        with pytest.raises(StorageUnsupportedError, match="no indexes"):
            await unindexed.create_index("a")

    asyncio.run(run())
    assert driver.calls == []


def test_typed_values_and_partial_documents(recorder: Any) -> None:
    typed_row = Found([("a", record(b'{"amount":3}', f"model:{Order.__module__}.{Order.__qualname__}"))], None)
    kv, _ = api(recorder, find=typed_row)

    async def run() -> None:
        entry = await kv.typed(Order).find_one(F("amount") == 3)
        assert entry is not None
        assert entry.value == Order(3)
        partly = await kv.typed(Order).find_one(select=["amount"])
        assert partly is not None
        assert partly.value == {"amount": 3}
        plain = await kv.find_one(F("amount") == 3)
        assert plain is not None
        assert plain.value == {"amount": 3}

    asyncio.run(run())


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
    st.just([]), st.just([1.0, {"a": 2}]), st.just({}), st.just(10**320),
)  # fmt: skip
DOCUMENT = st.dictionaries(st.sampled_from(["a", "b"]), SCALARS)


@given(
    DOCUMENT, DOCUMENT, st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["asc", "desc"])), max_size=2)
)
def test_a_position_stands_where_its_document_does(first: Any, second: Any, order: Any) -> None:
    """Also after a cursor was written and read, for what lies beyond floats too."""
    parsed = parse_order(order)
    listing = Listing("", checked_query("", None, order))
    back = listing.decode(listing.encode(position_of(first, parsed, "k")))
    assert back is not None
    mine, other = sort_key(first, parsed, "k"), sort_key(second, parsed, "l")
    assert (position_key(back, parsed) < other) == (mine < other)
    assert position_key(back, parsed) == mine


@given(SCALARS, SCALARS)
def test_comparables_are_equal_as_filters_say(first: Any, second: Any) -> None:
    if not isinstance(first, int) or isinstance(first, bool) or -(2**63) <= first < 2**63:
        equal = F("v") == first
        from polymem.contracts.filter import matches

        assert matches(equal, {"v": second}) == (comparable(second) == comparable(first))
    keys = [comparable_key(comparable(value)) for value in (first, second)]
    assert (keys[0] == keys[1]) == (comparable(first) == comparable(second))
    assert comparable(revealed(comparable(first))) == comparable(first)


@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_sums_are_rounded_once(numbers: list[float]) -> None:
    exact, halves = ExactSum(), ExactSum()
    for value in numbers:
        exact.add(value)
    integers = [value for value in numbers if isinstance(value, int)]
    for value in numbers:
        if isinstance(value, float):
            halves.add(value)
    halves = ExactSum.unpacked(halves.packed())
    halves.add_integers(sum(integers), len(integers))
    total = sum(map(Fraction, numbers), Fraction(0))
    assert exact.total() == halves.total() == (nearest(total) if len(integers) < len(numbers) else total)
    assert type(exact.total()) is (float if len(integers) < len(numbers) else int)
    assert exact.mean() == halves.mean() == (nearest(total / len(numbers)) if numbers else None)


def nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def test_partial_documents_nest() -> None:
    paths = [("a", "b"), ("a",), ("c", "0"), ("d",)]
    assert partial(paths, [1, {"b": 1, "x": 2}, "z", None]) == {"a": {"b": 1, "x": 2}, "c": {"0": "z"}, "d": None}
    assert path_text(("a.b", "c\\", "0")) == "a\\.b.c\\\\.0"


def test_names_of_indexes_follow_from_their_paths() -> None:
    """The same in every process, and safe as an SQL identifier."""
    assert checked_index(("a",)) == IndexInfo("pm_query_1de39c8aabc0de98", (("a",),))
    names = {
        checked_index(paths).name
        for paths in (("a",), ("b",), ("a", "b"), ("b", "a"), ("a.b",), (["a.b"],), ('"; --',))
    }
    assert len(names) == 7
    assert all(name.removeprefix("pm_query_").isalnum() for name in names)
