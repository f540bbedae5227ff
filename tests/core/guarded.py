"""A driver that answers by a script, and a guard for it."""

from typing import Any, cast

from polymem.core.guard import GuardContext
from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageConnectionError


class Lost(Exception):
    """A driver's own exception."""


class Driver:
    """Answers from a script: exceptions are raised, all else is returned."""

    features = "features"

    def __init__(self, *script):
        self.script: list[Any] = list(script)
        self.calls = 0

    async def _next(self):
        self.calls += 1
        answer = self.script.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return await cast("Any", answer)()
        return answer

    async def get(self, key, /):
        return await self._next()

    async def put(self, key, /, *, value):
        return await self._next()

    async def delete(self, key, /):
        return await self._next()


def translate(error):
    return (
        StorageConnectionError("cut off", retryable=True, outcome=Outcome.UNKNOWN) if isinstance(error, Lost) else None
    )


def context(**options) -> Any:
    made = GuardContext("fake", translate, retry=RetryPolicy(first_delay=0.0001), **options)
    made.opened()
    return made


def lost(outcome):
    return StorageConnectionError("cut", retryable=True, outcome=outcome)
