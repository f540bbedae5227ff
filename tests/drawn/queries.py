"""Documents and queries drawn at random, and what any engine must answer like the memory engine (QRY-5)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polymem.contracts.filter import Compare, F, Filter, matches, parse_order, paths_in, sort_key
from polymem.contracts.kv import KeyValue

INDEXES: list[list[list[Any]]] = [[], [["a"]], [["b"], ["a", "b"], ["a.0"], [["x.'\"\\"], "a"]]]
"""Choices of the indexes that there are."""
WHICH = st.integers(0, len(INDEXES) - 1)


def exactly(answer: Any) -> str:
    """Text that tells 1 from 1.0 and from true."""
    return json.dumps(answer, sort_keys=True)


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.5, -1.0, 0.1, 2.0**53, 9.2e18, -9.3e18, 2.0**63, 2.0**70, 1e300, 1.7e308, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
INTS = st.one_of(
    st.sampled_from([0, 1, 2, -1, 2**53 + 1, 2**63 - 1, -(2**63), 9_200_000_000_000_000_001]),
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
)
BIG = st.sampled_from([2**63, -(2**63) - 1, 2**70, 2**70 + 1, 10**23, 10**320, -(10**320)])
TEXTS = st.one_of(
    st.sampled_from(["", "a", "A", "ab", "1", "true", "null", "[1]", "{}", "~", "\u00e9", "\uffff", "\U0001f600"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
)
SCALARS = st.one_of(st.none(), st.booleans(), INTS, FLOATS, TEXTS)
NESTED = st.recursive(
    SCALARS | BIG,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["a", "a", "a", "b", "b", "0", "c", "x.'\"\\"])
FEW = st.sampled_from(
    [0, 1, 1, 1.0, 2, 2.5, -3, 2**63, 2**70, "", "1", "a", "ab", True, False, None, None, [1], ["a"], {}]
)
"""Values that many documents share, for ties and for filters that match."""
ALIKE = st.lists(
    st.fixed_dictionaries({}, optional={"a": FEW, "b": FEW}) | st.fixed_dictionaries({"a": FEW}),
    min_size=4,
    max_size=12,
)
DOCUMENTS = st.one_of(
    ALIKE, ALIKE, st.lists(st.one_of(*[st.dictionaries(KEYS, NESTED, max_size=4)] * 4, NESTED), max_size=12)
)
PATHS = st.sampled_from(["a", "a", "a", "b", "b", "c", "a.0", "a.b", "0", ["x.'\"\\"], "b.a.0"])
BOUNDS = st.one_of(INTS, FLOATS, TEXTS)


@st.composite
def comparisons(draw: st.DrawFn) -> Filter:
    op = draw(st.sampled_from(["eq", "eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "exists", "exists", "contains", "starts_with", "between"]))  # fmt: skip
    few = FEW.filter(lambda value: value not in (2**63, 2**70))
    strategies: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("eq", "ne", "contains"), few | SCALARS | st.sampled_from([[1], [], {}, {"a": 1}])),
        **dict.fromkeys(("lt", "le", "gt", "ge"), st.sampled_from([0, 1, 2.0, "", "a"]) | BOUNDS),
        **dict.fromkeys(("in", "not_in"), st.lists(few | SCALARS, max_size=3)),
        "exists": st.booleans(),
        "starts_with": TEXTS,
        "between": st.tuples(INTS | FLOATS, INTS | FLOATS) | st.tuples(TEXTS, TEXTS),
    }
    return Compare(draw(PATHS), op, draw(strategies[op]))


FILTERS = st.one_of(
    st.none(),
    comparisons(),
    comparisons(),
    st.recursive(
        comparisons(),
        lambda inner: st.one_of(st.builds(lambda a, b: a & b, inner, inner), st.builds(lambda a, b: a | b, inner, inner), st.builds(lambda a: ~a, inner)),
        max_leaves=4,
    ),
)  # fmt: skip
ORDERS = st.one_of(
    st.just([]),
    st.lists(st.tuples(PATHS, st.sampled_from(["asc", "desc"])), min_size=1, max_size=1),
    st.lists(st.tuples(PATHS, st.sampled_from(["asc", "desc"])), max_size=3),
)
PREFIXES = st.sampled_from(["", "", "", "k", "l0", "\U0010ffff"])


RESULTS = st.dictionaries(
    st.sampled_from(["n", "total", "_x"]),
    st.one_of(
        st.just("count"),
        st.tuples(st.sampled_from(["count", "sum", "avg", "min", "max", "distinct"]), PATHS),
    ),
    min_size=1,
)
HAVING = st.sampled_from([
    None, F("n") > 1, F("total") >= 1.5, F("n") == None, ~F("_x").exists(), F("total") < "b", F("n") == 1.0, F("n") != [],  # noqa: E711
    F("total") > 2.0**63,
])  # fmt: skip


async def pages(kv: KeyValue[Any], size: int, **options: Any) -> list[list[Any]]:
    """Everything, page by page."""
    found, cursor = [], None
    while True:
        entries, cursor = await kv.find_many(**options, limit=size, cursor=cursor)
        found.append([[entry.key, entry.value] for entry in entries])
        assert len(found) < 100, "the pages go round in circles"
        if cursor is None:
            return found


def agreements(examples: int) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """Tests of finding, aggregating and selecting, for a fixture `pair`.

    Its `agree(which, documents, ask)` puts the documents in memory and where those of `INDEXES` are, asks both, and gives the answer when it is the same.
    """
    some = settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )

    @pytest.mark.timeout(7_200)
    @some
    @given(WHICH, DOCUMENTS, FILTERS, ORDERS, PREFIXES, st.integers(1, 5), st.integers(0, 4))
    @example(
        1,
        [{"a": v} for v in (2**63, 2.0**63, 9.2e18, -(10**320), 10**320, -1, True, "x", [1], None)] + [{}],
        None,
        [("a", "desc")],
        "",
        1,
        0,
    )
    @example(
        1,
        [{"a": v} for v in (2**63, 2.0**63, 9.2e18, -(10**320), 10**320, -1, True, "x", [1], None)] + [{}],
        None,
        [("a", "asc")],
        "",
        2,
        3,
    )
    @example(0, [{"a": n, "b": n % 2} for n in (1, 2, 3, 2, 1, 5)], None, [("a", "desc")], "", 1, 0)
    @example(0, [{"a": n, "b": n % 2} for n in (1, 2, 3, 2, 1, 5)], None, [("b", "desc"), ("a", "asc")], "", 1, 0)
    @example(2, [{"a": 1}], F("a").in_([]) | F("b").in_([]), [("b", "asc")], "", 1, 0)
    @example(
        2, [{"a": 1, "b": v} for v in (3, 1, 2, 1)] + [{"a": 1.0, "b": True}], F("a") == 1, [("b", "desc")], "", 2, 0
    )
    def finding(
        pair: Any, which: int, documents: list[Any], where: Filter | None, order: Any, prefix: str, size: int, offset: int
    ) -> None:  # fmt: skip
        """Filters, orders, limits, offsets, pages and counts (QRY-1, QRY-2, QRY-3)."""

        async def ask(kv: KeyValue[Any]) -> Any:
            options = {"where": where, "order_by": order, "prefix": prefix}
            everything = [[e.key, e.value] async for e in kv.query(**options)]
            by_pages = await pages(kv, size, **options)
            assert [item for page in by_pages for item in page] == everything
            assert all(len(page) == size for page in by_pages[:-1])
            some = [[e.key, e.value] async for e in kv.query(**options, limit=size, offset=offset)]
            assert some == everything[offset : offset + size]
            first = await kv.find_one(**options)
            assert (None if first is None else [first.key, first.value]) == (everything[0] if everything else None)
            if where is not None:
                assert await kv.count(prefix, where=where) == len(everything)
            return everything

        found = pair.agree(which, documents, ask)
        keyed = [(f"{'kl'[number % 2]}{number:02}", document) for number, document in enumerate(documents)]
        fitting = [(key, document) for key, document in keyed if key.startswith(prefix) and matches(where, document)]
        parsed = parse_order(order)
        assert [key for key, _ in found] == [
            k for k, d in sorted(fitting, key=lambda item: sort_key(item[1], parsed, item[0]))
        ]

    @pytest.mark.timeout(7_200)
    @some
    @given(
        WHICH,
        DOCUMENTS,
        FILTERS,
        RESULTS,
        st.lists(PATHS, max_size=2),
        HAVING,
        st.one_of(st.none(), st.integers(0, 3)),
    )
    @example(0, [{"a": 2**63 - 1}] * 3 + [{"a": -1}], None, {"n": ("sum", "a")}, [], None, None)
    @example(0, [{"a": -(2**63)}] * 5, None, {"n": ("sum", "a"), "_x": ("avg", "a")}, [], None, None)
    @example(
        0,
        [{"a": 1e308}] * 9 + [{"a": 10**320}],
        None,
        {"n": ("sum", "a"), "total": ("avg", "a"), "_x": ("max", "a")},
        [],
        F("n") > 5,
        None,
    )
    @example(0, [{"a": 0.1}] * 3 + [{"a": 2**70}], None, {"n": ("sum", "a"), "total": ("avg", "a")}, ["a"], None, None)
    @example(
        0,
        [{"a": 0.1}, {"a": 0.2}, {"a": 5e-324}, {"a": -1e308}],
        None,
        {"n": ("sum", "a"), "total": ("avg", "a")},
        [],
        None,
        None,
    )
    def aggregating(
        pair: Any, which: int, documents: list[Any], where: Filter | None, results: Any, group_by: Any, having: Any, limit: int | None
    ) -> None:  # fmt: skip
        """count, sum, avg, min, max, distinct, group_by, having (QRY-4)."""

        async def ask(kv: KeyValue[Any]) -> Any:
            meant = having if having is None or next(paths_in(having))[0] in results else None
            rows = await kv.aggregate(results, where=where, group_by=group_by, having=meant, limit=limit)
            return [[row.group, row.values] for row in rows]

        pair.agree(which, documents, ask)

    @pytest.mark.timeout(3_600)
    @settings(some, max_examples=max(examples // 10, 100))
    @given(WHICH, DOCUMENTS, st.lists(PATHS, max_size=4))
    def selecting(pair: Any, which: int, documents: list[Any], select: Any) -> None:
        """Partial documents (QRY-3)."""

        async def ask(kv: KeyValue[Any]) -> Any:
            return [[entry.key, entry.value] async for entry in kv.query(select=select)]

        pair.agree(which, documents, ask)

    return finding, aggregating, selecting
