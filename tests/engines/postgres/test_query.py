"""QRY-4, QRY-5, QRY-6: PostgreSQL gives exactly the answers of the memory engine, with and without indexes."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from engines.sqlite.test_query import (
    DOCUMENTS,
    FILTERS,
    HAVING,
    INDEXES,
    ORDERS,
    PATHS,
    PREFIXES,
    RESULTS,
    WHICH,
    exactly,
    pages,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polymem.contracts.filter import F, Filter
from polymem.contracts.kv import KeyValue
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres")]
EXAMPLES = 20_000 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 300
SETTINGS = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])


class Pair:
    """The same records in memory and in namespaces with different indexes."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.runner, self.clock = runner, ManualClock()
        self.memory, self.postgres = self.runner.run(self._open(url))

    async def _open(self, url: str) -> tuple[Store, Store]:
        memory = await Store(Session(MemoryEngine(self.clock), sweep_every=None))
        postgres = await Store(Session(create_engine(url, clock=self.clock), sweep_every=None))
        for number, indexes in enumerate(INDEXES):
            for paths in indexes:
                await postgres.namespace(f"{number}").kv.create_index(*paths)
        for store in (memory, postgres):
            await store.namespace("other").kv.put_many({"a": {"a": 1}, "b": {"a": "x"}})
        return memory, postgres

    def close(self) -> None:
        for store in (self.memory, self.postgres):
            self.runner.run(store.close())

    def agree(self, which: int, documents: list[Any], ask: Any) -> Any:
        return self.runner.run(self._agree(which, documents, ask))

    async def _agree(self, which: int, documents: list[Any], ask: Any) -> Any:
        records = {f"{'kl'[number % 2]}{number:02}": document for number, document in enumerate(documents)}
        answers = []
        for store in (self.memory, self.postgres):
            kv = store.namespace(f"{which}").kv
            await kv.clear()
            if records:
                await kv.put_many(records)
            await kv.put("gone", documents[0] if documents else 1, ttl=-1)
            answers.append(await ask(kv))
        assert exactly(answers[0]) == exactly(answers[1])
        return answers[0]


@pytest.fixture(name="pair", scope="module")
def give_pair(url: str, runner: asyncio.Runner) -> Iterator[Pair]:
    pair = Pair(url, runner)
    yield pair
    pair.close()


@pytest.mark.timeout(7_200)
@SETTINGS
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
@example(2, [{"a": 1, "b": v} for v in (3, 1, 2, 1)] + [{"a": 1.0, "b": True}], F("a") == 1, [("b", "desc")], "", 2, 0)
def test_finding(
    pair: Pair, which: int, documents: list[Any], where: Filter | None, order: Any, prefix: str, size: int, offset: int
) -> None:  # fmt: skip
    async def ask(kv: KeyValue[Any]) -> Any:
        options = {"where": where, "order_by": order, "prefix": prefix}
        by_pages = [item for page in await pages(kv, size, **options) for item in page]
        some = [[e.key, e.value] async for e in kv.query(**options, limit=size, offset=offset)]
        assert some == by_pages[offset : offset + size]
        if where is not None:
            assert await kv.count(prefix, where=where) == len(by_pages)
        return by_pages

    pair.agree(which, documents, ask)


@pytest.mark.timeout(7_200)
@SETTINGS
@given(WHICH, DOCUMENTS, FILTERS, RESULTS, st.lists(PATHS, max_size=2), HAVING, st.one_of(st.none(), st.integers(0, 3)))
@example(0, [{"a": 2**63 - 1}] * 3 + [{"a": -1}], None, {"n": ("sum", "a")}, [], None, None)
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
def test_aggregates(
    pair: Pair, which: int, documents: list[Any], where: Filter | None, results: Any, group_by: Any, having: Any, limit: int | None
) -> None:  # fmt: skip
    async def ask(kv: KeyValue[Any]) -> Any:
        rows = await kv.aggregate(results, where=where, group_by=group_by, having=having, limit=limit)
        return [[row.group, row.values] for row in rows]

    pair.agree(which, documents, ask)


@pytest.mark.timeout(3_600)
@settings(SETTINGS, max_examples=max(EXAMPLES // 5, 100))
@given(WHICH, DOCUMENTS, st.lists(PATHS, max_size=4))
def test_selecting(pair: Pair, which: int, documents: list[Any], select: Any) -> None:
    async def ask(kv: KeyValue[Any]) -> Any:
        return [[entry.key, entry.value] async for entry in kv.query(select=select)]

    pair.agree(which, documents, ask)
