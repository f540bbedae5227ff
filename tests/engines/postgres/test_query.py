"""QRY-4, QRY-5, QRY-6: PostgreSQL gives exactly the answers of the memory engine, with and without indexes."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from drawn.queries import INDEXES, agreements, exactly

from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres")]
EXAMPLES = 20_000 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 300


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


test_finding, test_aggregates, test_selecting = agreements(EXAMPLES)
