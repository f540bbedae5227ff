"""A driver that only takes notes, for tests of the API classes, and a store for those of what wraps them."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from contracts.shelf import CLOCK, Shelf

from polymem.contracts.blobs import Blobs
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store


class Recorder:
    """Notes every call and answers as told: a value, or a function of the call's arguments."""

    def __init__(self, features: Any, **answers: Any) -> None:
        self.features, self.answers = features, answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers.get(name)
            return answer(*args, **kwargs) if callable(answer) else answer

        return call


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[Store]:
    async with Store(Session(MemoryEngine(clock), sweep_every=None)) as opened:
        yield opened


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def blobs(shelf: Shelf) -> Blobs:
    return Blobs(shelf, CLOCK)
