from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polymem.core.clock import ManualClock
from polymem.core.engine import Engine
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.memory.memory import Memory
from polymem.opened import Session
from polymem.store import Store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Engine:
    return MemoryEngine(clock) if request.param == "memory" else SqliteEngine(tmp_path / "agent.db", clock=clock)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with Store(Session(engine, sweep_every=None)) as opened:
        yield opened


@pytest.fixture
async def memory(store: Store) -> AsyncIterator[Memory]:
    async with Memory(store, tenant="acme") as opened:
        yield opened
