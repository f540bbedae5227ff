import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from polymem.core.clock import ManualClock
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.opened import Session
from polymem.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that the tests share

NewStore = Callable[..., Store]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.db"


@pytest.fixture
def new_store(path: Path, clock: ManualClock) -> NewStore:
    """A store that is not open yet, on `path` unless told otherwise."""

    def make(at: Path = path, **options: object) -> Store:
        return Store(Session(SqliteEngine(at, **{"clock": clock, **options}), sweep_every=None))  # type: ignore[arg-type]

    return make


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[Store]:
    async with new_store() as opened:
        yield opened
