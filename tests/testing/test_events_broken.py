"""The clauses of `watch` can fail: each log here is broken in one way, and is found out (TST-1)."""

import asyncio
from typing import Any

import pytest

from polymem.contracts.events import ChangePage
from polymem.core.clock import Clock
from polymem.engines._tables.changes import ChangeLog
from polymem.engines._tables.events import TableEvents
from polymem.engines._tables.views import CommittedView, ForkedView
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store
from polymem.testing import Harness
from polymem.testing.clauses import events as clauses
from polymem.testing.run import run


class MemoryHarness(Harness):
    async def open(self, clock: Clock) -> Store:
        return await Store(Session(MemoryEngine(clock), sweep_every=None))


def failures(timeout: float = 2.0) -> set[str]:
    harness = MemoryHarness()
    harness.timeout = timeout
    report = asyncio.run(run(harness, ["events", "transactions"]))
    return {result.clause.id.removeprefix("events.") for result in report.failures}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clauses, "PATIENCE", 0.1)


def test_nothing_fails_without_a_fault() -> None:
    assert failures(60) == set()


def test_a_lost_change(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChangeLog.append

    def append(self: ChangeLog, op: Any, key: Any) -> None:
        if key != "7":
            whole(self, op, key)

    monkeypatch.setattr(ChangeLog, "append", append)
    assert {"a-cancelled-reader-loses-nothing", "a-mirror-stays-right"} <= failures()


def test_a_change_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChangeLog.append

    def append(self: ChangeLog, op: Any, key: Any) -> None:
        whole(self, op, key)
        whole(self, op, key)

    monkeypatch.setattr(ChangeLog, "append", append)
    assert {"every-kind-of-change", "many-writers-and-readers", "broken-connections"} <= failures()


def test_changes_of_other_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(self: CommittedView, changes: Any) -> None:
        for op, _, key in changes:
            for log in self.logs.values():
                log.append(op, key)
                log.tell()

    monkeypatch.setattr(CommittedView, "publish", publish)
    assert "one-namespace-only" in failures()


def test_changes_told_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(self: ForkedView, changes: Any) -> None:
        for op, namespace, key in changes:
            self.logs[namespace].append(op, key)

    monkeypatch.setattr(ForkedView, "publish", publish)
    assert "only-what-is-committed" in failures()


def test_savepoints_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ForkedView.restore

    def restore(self: ForkedView, frozen: Any) -> None:
        changes = list(self.changes)
        whole(self, frozen)
        self.changes[:] = changes

    monkeypatch.setattr(ForkedView, "restore", restore)
    assert failures(60) == {"transactions.changes-beside-savepoints"}


def test_expiry_told_as_a_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChangeLog.append

    def append(self: ChangeLog, op: Any, key: Any) -> None:
        whole(self, "delete" if op == "expire" else op, key)

    monkeypatch.setattr(ChangeLog, "append", append)
    assert failures(60) == {"expired-records"}


def test_a_log_that_begins_at_the_first_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TableEvents.read

    async def begin(_: TableEvents) -> str:
        return "later"

    async def read(self: TableEvents, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        begun = self._view.logs.setdefault(self._namespace, ChangeLog()).position  # noqa: SLF001
        return await whole(self, begun if after == "later" else after, limit, wait=wait)

    monkeypatch.setattr(TableEvents, "begin", begin)
    monkeypatch.setattr(TableEvents, "read", read)
    assert {"from-its-beginning-on", "every-kind-of-change"} <= failures()


def test_what_was_trimmed_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChangeLog.page

    def page(self: ChangeLog, after: str, limit: int) -> ChangePage | None:
        found = whole(self, after, limit)
        return found if found is not None or self._count == 0 else ChangePage(list(self._kept)[:limit], self.position)  # noqa: SLF001

    monkeypatch.setattr(ChangeLog, "page", page)
    assert "a-reader-too-far-behind" in failures()


def test_readers_that_closing_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommittedView, "forget_changes", lambda _: None)
    assert "closing-ends-it" in failures()
