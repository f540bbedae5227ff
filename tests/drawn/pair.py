"""A memory engine beside another one, asked the same of the same documents (QRY-5)."""

import asyncio
from typing import Any

from drawn.queries import INDEXES, exactly

from polymem.core.clock import Clock
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.clauses.query_input import hidden_values


async def opened(engine: Any) -> Store:
    return await Store(Session(engine, sweep_every=None))


class Pair:
    """The same records in memory and in stores with different indexes, among records nobody may see."""

    def __init__(self, runner: asyncio.Runner, clock: Clock, *stores: Store) -> None:
        """`stores` are open: one for each choice of `INDEXES`."""
        self._run, self._clock, self._stores = runner.run, clock, stores
        self._memory = self._run(opened(MemoryEngine(clock)))
        self._run(self._prepare())

    async def _prepare(self) -> None:
        for store, indexes in zip(self._stores, INDEXES, strict=True):
            for paths in indexes:
                await store.kv.create_index(*paths)
        for store in (self._memory, *self._stores):
            await store.namespace("other").kv.put_many({"a": {"a": 1}, "b": {"a": "x"}})

    def close(self) -> None:
        self._run(self._memory.close())

    def agree(self, which: int, documents: list[Any], ask: Any) -> Any:
        """Put the documents in memory and in one of the stores, and ask both."""
        return self._run(self._agree((self._memory, self._stores[which]), documents, ask))

    async def _agree(self, stores: tuple[Store, Store], documents: list[Any], ask: Any) -> Any:
        records = {f"{'kl'[number % 2]}{number:02}": document for number, document in enumerate(documents)}
        answers = []
        for kv in (store.kv for store in stores):
            await kv.clear()
            await kv.put_many(records)
            await kv.put("gone", documents[0] if documents else 1, ttl=-1)
            hidden = hidden_values(kv, self._clock)
            await hidden.put_many({"h1": b"\xff{", "k0": b"no json", "l0": b"{", "z": b""})
            answers.append(await ask(kv))
        assert exactly(answers[0]) == exactly(answers[1])
        return answers[0]
