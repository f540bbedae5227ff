"""The failing connection does what it says, one fault a call."""

import asyncio

import pytest

from polymem.core.clock import ManualClock
from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageConnectionError, StorageQueryError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing import Fault, Faults, UrlHarness
from polymem.testing.faults import faulty_engine


@pytest.mark.parametrize(
    ("fault", "kind", "outcome", "there"),
    [
        (Fault.REFUSED, StorageConnectionError, Outcome.NOT_APPLIED, False),
        (Fault.LOST, StorageConnectionError, Outcome.UNKNOWN, False),
        (Fault.REPLY_LOST, StorageConnectionError, Outcome.UNKNOWN, True),
        (Fault.REJECTED, StorageQueryError, Outcome.NOT_APPLIED, False),
    ],
)
def test_each_fault(fault: Fault, kind: type[Exception], outcome: Outcome, there: bool) -> None:
    async def scenario() -> None:
        inner, faults = await UrlHarness("memory:").open(ManualClock()), Faults()
        engine = faulty_engine(inner.engine, faults)
        outer = await Store(Session(engine, sweep_every=None, retry=RetryPolicy(attempts=1)))
        faults.plan("kv.put", fault)
        with pytest.raises(kind) as caught:
            await outer.kv.put("a", 1)
        assert caught.value.outcome is outcome
        assert await inner.kv.exists("a") is there
        await outer.kv.put("b", 2)
        assert faults.calls == ["kv.put", "kv.put"]
        await outer.close()
        assert await inner.kv.get("b") == 2, "closing the outer store must not close the engine"
        await inner.close()

    asyncio.run(scenario())


def test_slow_calls_wait_until_told() -> None:
    async def scenario() -> None:
        inner, faults = await UrlHarness("memory:").open(ManualClock()), Faults()
        outer = await Store(Session(faulty_engine(inner.engine, faults), sweep_every=None))
        faults.plan("kv.put", Fault.SLOW)
        task = asyncio.create_task(outer.kv.put("a", 1))
        await faults.seen.wait()
        assert not await inner.kv.exists("a")
        assert not task.done()
        faults.go.set()
        await task
        assert await inner.kv.get("a") == 1
        await outer.close()
        await inner.close()

    asyncio.run(scenario())
