"""A driver that only takes notes, for tests of the API classes."""

from collections.abc import Callable
from typing import Any

import pytest


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
