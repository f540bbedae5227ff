"""The sqlite engine against every clause that counts for it, on a file of its own for each."""

from polymem.engines.sqlite.engine import SqliteEngine
from polymem.testing import ConformanceSuite, EngineHarness


class TestSqlite(ConformanceSuite):
    harness = EngineHarness(lambda folder, clock: SqliteEngine(folder / "conformance.db", clock=clock))
