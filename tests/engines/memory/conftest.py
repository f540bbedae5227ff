from collections.abc import AsyncIterator

import pytest

from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def engine(clock: ManualClock) -> AsyncIterator[MemoryEngine]:
    engine = MemoryEngine(clock)
    await engine.open()
    yield engine
    await engine.close()
