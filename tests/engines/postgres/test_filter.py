"""QRY-5: PostgreSQL gives exactly the oracle's answers to filters."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import msgspec
import pytest
from drawn.filters import HOSTILE_KEYS, cases
from hypothesis import HealthCheck, example, given, settings

from polymem.contracts.filter import F, Filter, matches, parse
from polymem.core.registry import create_engine
from polymem.engines.postgres.filter_sql import Values, compile_filter
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres")]
EXAMPLES = 50_000 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 500
SETTINGS = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
Check = Callable[[Filter, list[Any]], None]


@pytest.fixture(name="check", scope="module")
def give_check(url: str, runner: asyncio.Runner) -> Iterator[Check]:
    async def connect() -> Any:
        store = await Store(Session(create_engine(url), sweep_every=None))  # makes the functions
        await store.close()
        return await asyncpg.connect(url, statement_cache_size=0)

    connection = runner.run(connect())

    def check(where: Filter, documents: list[Any]) -> None:
        """Compare the server with the oracle; the condition is never null. Payloads are objects, there as jsonb too."""
        compare(where, documents, None)
        compare(where, [document for document in documents if isinstance(document, dict)], "item.body::jsonb")

    def compare(where: Filter, documents: list[Any], jsonb: str | None) -> None:
        values = Values()
        given = values.add([msgspec.json.encode(document).decode() for document in documents], "text[]")
        condition = compile_filter(where, "item.body::json", values, jsonb=jsonb)
        query = f"select {condition} from unnest({given}) with ordinality as item(body, place) order by place"
        truth = [row[0] for row in runner.run(connection.fetch(query, *values))]
        assert truth == [matches(where, document) for document in documents], condition

    yield check
    runner.run(connection.close())


@pytest.mark.timeout(3_600)
@SETTINGS
@given(cases())
@example((F("a") == 2.0**63, [{"a": 2**63}, {"a": 2**63 - 1}, {"a": 2**63 + 1}]))
@example((F("a") >= 1152921504606847000, [{"a": 1152921504606847000.0}, {"a": 1152921504606846976}]))
@example((F("a").contains(2.0**64), [{"a": [1, 2**64 + 1]}, {"a": [2**64 + 4097]}]))
@example((F("a") == 1e23, [{"a": 1e23}, {"a": 10**23}, {"a": 9.999999999999999e22}, {"a": [1e23]}]))
@example((F("a").in_([1e23, [1e23]]), [{"a": 1e23}, {"a": [1e23]}, {"a": [10**23]}]))
@example((F("a") > 1e308, [{"a": 10**400}, {"a": -(10**400)}]))
@example((F("a").in_([None, True, 1.0, 2.0**64, "x", [1], {}]), [{"a": 2**64}, {"a": [1.0]}, {"a": {}}, {"a": 1}, {}]))
def test_the_server_gives_the_answers_of_the_oracle(check: Check, case: tuple[Filter, list[Any]]) -> None:
    check(*case)


@pytest.mark.parametrize("key", HOSTILE_KEYS, ids=ascii)
def test_hostile_paths_and_values(check: Check, key: str) -> None:
    """A key or value is found as it is, alone and within, and never as syntax (QRY-2, G-4)."""
    documents: list[Any] = [
        {key: 1, "a": 0}, {"a": {key: {key: "x"}}}, {"a": {key: None}}, {"a": 1}, [], {key + "x": 1}, {"a": [1, 2]},
        {"a": key}, {"a": [key]}, {"a": key + "x"},
    ]  # fmt: skip
    for path in ((key,), ("a", key), ("a", key, key)):
        for where in (F(path) == 1, F(path) == "x", F(path).exists(), F(path) == None, F(path).contains("x")):  # noqa: E711
            check(where, documents)
    tests = (F("a") == key, F("a").contains(key), F("a").in_([key]), F("a").starts_with(key), F("a") == [key])
    for where in tests:
        check(where, documents)
    check(F("a") == {key: {key: "x"}}, documents)


@pytest.mark.parametrize("segment", ["-1", "+1", " 1", "01", "00", "1e0", "4294967296", "0"])
def test_what_looks_like_a_place_in_an_array(check: Check, segment: str) -> None:
    """Only a plain number is one; the server would take more."""
    for path in ((segment,), ("a", segment), ("a", segment, "b")):
        check(F(path).exists(), [[1, 2], {"a": [1, 2]}, {"a": {segment: 1}}, {"a": [{"b": 1}, {"b": 1}]}, {segment: 1}])


PATTERNS = [
    "a", "^a?$", "[^a]", ".", "^$", r"\d", "b|\u00e9", "(a.)+", "(?:a{2}){2,3}$", r"^[\w.-]+@[\w.-]+$", r"[^\s]\s", r"\D\W\S",
    "a*?b", "(a|b|)c", "[\U0001f600-\U0001f64f]", r"\.\*\[\]", "^(a|ab)(c|bcd)$", "[a-c\\d_]{3}", "x{0}y", "(|a)", "\\t|\\n",
]  # fmt: skip
TEXTS = [
    "", "a", "aa", "aaaa", "aaaaa", "ab", "abcd", "b\n", "\n", "\u00e9", "me@example.org", "x y", ".*[]", "\U0001f601", "A1_", "y",
    "c", "bc", "\t", "a\nb", "\x01", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=ascii)
def test_patterns(check: Check, pattern: str) -> None:
    check(F("a").regex(pattern), [{"a": text} for text in TEXTS] + [{"a": 1}, {}])


def test_the_largest_legal_filter(check: Check) -> None:
    wide = parse({"or": [{f"a.{index}.0.1": {"contains": "x"}} for index in range(256)]})
    assert wide is not None
    check(wide, [{"a": [[[0, "x"]]]}, {}])
