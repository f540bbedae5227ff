"""Memory and sqlite through the near cache, in each mode, against every clause that counts (CCH-1, CCH-2).

Write-back declares `durable=False`, and another instance sees its puts when they are written, so the clauses that
reopen after a crash and those of two instances (`uses=["shared"]`) do not count for it.
"""

import asyncio
from pathlib import Path
from typing import Any

from polymem.core.clock import Clock
from polymem.core.engine import Engine
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.layers._cache_policy import Mode
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.testing import ConformanceSuite, EngineHarness
from polymem.testing.clause import clauses
from polymem.testing.harness import capabilities

RECORDS = ("engine", "kv", "query", "transactions", "sql")
"""What a cache of records can change; the other contracts pass by it and are checked through one mode."""


def memory(mode: Mode) -> EngineHarness:
    def make(_: Path, clock: Clock) -> Engine:
        return CachedEngine(MemoryEngine(clock), CachePolicy(mode=mode))

    return EngineHarness(make)


def sqlite(mode: Mode, *, shared: bool | None = None) -> EngineHarness:
    def make(folder: Path, clock: Clock) -> Engine:
        return CachedEngine(SqliteEngine(folder / "conformance.db", clock=clock), CachePolicy(mode=mode))

    return EngineHarness(make, shared=shared)


class WriteBackSuite(ConformanceSuite):
    """Without the one clause, and the comparison of whole entries, that need the instant of a put to be the call's:
    the engine notes when it was written. `tests/layers/test_cache_back.py` compares everything else at random.
    """

    examples = 0
    __test__ = False

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        suite: type[ConformanceSuite] = metafunc.cls
        chosen = clauses(asyncio.run(capabilities(suite.harness)), RECORDS)
        kept = [one for one in chosen if one.id != "kv.update-only-what-is-there"]
        assert len(kept) == len(chosen) - 1
        if "clause" in metafunc.fixturenames:
            metafunc.parametrize("clause", kept, ids=[one.id for one in kept])
        else:
            metafunc.parametrize("model", [])


class TestMemoryWriteThrough(ConformanceSuite):
    harness = memory("write_through")


class TestMemoryWriteAround(ConformanceSuite):
    harness, contracts = memory("write_around"), RECORDS


class TestMemoryWriteBack(WriteBackSuite):
    __test__ = True
    harness = memory("write_back")


class TestSqliteWriteThrough(ConformanceSuite):
    harness = sqlite("write_through")


class TestSqliteWriteAround(ConformanceSuite):
    harness, contracts = sqlite("write_around"), RECORDS


class TestSqliteWriteBack(WriteBackSuite):
    __test__ = True
    harness = sqlite("write_back", shared=False)
