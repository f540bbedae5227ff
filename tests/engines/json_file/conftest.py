from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from polymem.core.clock import ManualClock
from polymem.engines.json_file.engine import JsonFileEngine
from polymem.opened import Session
from polymem.store import Store

NewStore = Callable[..., Store]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.json"


@pytest.fixture
def copy(path: Path) -> Path:
    """The last good copy."""
    return path.with_name("data.json.bak")


@pytest.fixture
def new_store(path: Path, clock: ManualClock) -> NewStore:
    """A store that is not open yet, on `path` unless told otherwise."""

    def make(at: Path = path, **options: object) -> Store:
        return Store(Session(JsonFileEngine(at, **{"clock": clock, **options}), sweep_every=None))  # type: ignore[arg-type]

    return make


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[Store]:
    async with new_store() as opened:
        yield opened
