"""Running without pytest: the report, the callback, what is refused, and that nothing is left behind."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from polymem.core.clock import Clock, ManualClock
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageConnectionError, StorageDataError, StorageError
from polymem.store import Store
from polymem.testing import EngineHarness, Harness, Kit, Report, Result, UrlHarness
from polymem.testing.clause import Clause
from polymem.testing.expect import refused, same
from polymem.testing.harness import capabilities
from polymem.testing.run import run, run_clause


def test_report_counts_clauses_per_cell() -> None:
    heard: list[Result] = []
    report = asyncio.run(run(UrlHarness("memory:"), ["kv", "engine"], heard.append))
    assert report.ok
    assert report.engine == "memory"
    assert report.results == heard
    assert set(report.cells) == {"kv", "engine"}
    assert report.failures == []
    assert all(passed == total > 0 for passed, total in report.cells.values())
    assert sum(total for _, total in report.cells.values()) == len(heard)


def test_models_are_run_where_examples_are_asked_for() -> None:
    report = asyncio.run(run(UrlHarness("memory:"), ["turns"], examples=3))
    assert "turns.model" in [result.clause.id for result in report.results]


def test_an_empty_report_is_not_ok() -> None:
    assert not Report("x").ok


@pytest.mark.parametrize("contracts", [["nonsense"], ["kv", "KV"]])
def test_unknown_contracts_are_refused(contracts: list[str]) -> None:
    with pytest.raises(StorageDataError) as caught:
        asyncio.run(run(UrlHarness("memory:"), contracts))
    assert caught.value.field == "contracts"


def test_without_assertions_nothing_is_run() -> None:
    """python -O strips the checks: everything would pass."""
    code = "import asyncio; from polymem.testing import UrlHarness; from polymem.testing.run import run; asyncio.run(run(UrlHarness('memory:')))"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python -O" in done.stderr


def test_a_failure_names_its_line() -> None:
    async def fails(kit: Kit) -> None:
        assert await kit.store.kv.get("a") == "something"

    report = Report("memory", [])
    try:
        asyncio.run(run_clause(Clause("kv.fails", "kv", fails), UrlHarness("memory:")))
    except AssertionError as error:
        report.results.append(Result(Clause("kv.fails", "kv", fails), 0.0, error))
    assert "test_run.py" in report.failures[0].reason
    assert "something" in report.failures[0].reason
    assert Result(Clause("kv.fails", "kv", fails), 0.0).reason == ""


def test_a_clause_cleans_up_after_itself(tmp_path: Path) -> None:
    """The database may hold other data: it stays, and nothing is added to it, whatever a clause does (TST-1)."""
    url = f"sqlite:///{tmp_path}/shared.db"

    async def fails(kit: Kit) -> None:
        await kit.store.kv.put("a", 1)
        await kit.root.close()
        raise KeyError

    async def scenario() -> None:
        harness = UrlHarness(url)
        store = await harness.open(ManualClock())
        await store.kv.put("mine", 1)
        await store.namespace("other").turns.append("s", "user", "x", ttl=1e9)
        await store.close()
        with pytest.raises(KeyError):
            await run_clause(Clause("kv.fails", "kv", fails), harness)
        await run(harness, ["kv", "transactions"])
        store = await harness.open(ManualClock())
        assert [name async for name in store.namespaces()] == [("other",)]
        assert [key async for key in store.kv.scan()] == ["mine"]
        assert await store.namespace("other").turns.count() == 1
        await store.close()

    asyncio.run(scenario())


def test_capabilities_are_found_out(tmp_path: Path) -> None:
    class Exclusive(EngineHarness):
        opened = 0

        async def open(self, clock: Clock) -> Store:
            self.opened += 1
            if self.opened > 1:
                raise StorageConnectionError("another store has the file open")
            return await super().open(clock)

    def make(folder: Path, clock: Clock) -> SqliteEngine:
        return SqliteEngine(folder / "a.db", clock=clock)

    assert asyncio.run(capabilities(EngineHarness(make))).shared
    assert not asyncio.run(capabilities(EngineHarness(make, shared=False))).shared
    assert not asyncio.run(capabilities(Exclusive(make))).shared
    memory = asyncio.run(capabilities(UrlHarness("memory:")))
    assert not memory.shared
    assert memory.engine == "memory"
    assert "kv" in memory.features


def test_the_base_harness_opens_nothing() -> None:
    with pytest.raises(NotImplementedError):
        asyncio.run(Harness().open(ManualClock()))


def test_expectations_can_fail() -> None:
    def wrong(kind: type[StorageError], raised: Exception | None, field: str | None = None) -> None:
        with pytest.raises(AssertionError), refused(kind, field=field):  # noqa: PT012
            if raised is not None:
                raise raised

    wrong(StorageDataError, None)
    wrong(StorageDataError, StorageConnectionError("x"))
    wrong(StorageDataError, StorageDataError("x", field="b"), "a")
    wrong(StorageDataError, StorageDataError("x", field="ab"), "a")
    with refused(StorageDataError, field="a") as caught:
        raise StorageDataError("x", field="a.b[0]")
    assert caught.error.field == "a.b[0]"
    assert not same(True, 1)
    assert not same(1, 1.0)
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
