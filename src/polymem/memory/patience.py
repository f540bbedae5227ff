"""How long recall waits for what may be down (TIER-3)."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from polymem.errors import StorageDataError, StorageTimeoutError

Answer = TypeVar("Answer")
SECONDS: Final = 5.0
_FIRST: Final = 12
_MOST: Final = 86_400


class Patience:
    """Waits `seconds` for an answer, twelve times that for the first of each source: it may load an index."""

    def __init__(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _MOST:
            raise StorageDataError(f"expected seconds above 0, at most {_MOST}", field="tier_timeout")
        self._seconds = seconds
        self._answered: set[str] = set()

    def knows(self, source: str) -> bool:
        """Whether it has answered before."""
        return source in self._answered

    async def wait(self, source: str, answer: Awaitable[Answer]) -> Answer:
        """The answer; `StorageTimeoutError` when it does not come in time."""
        limit = self._seconds * (1 if self.knows(source) else _FIRST)
        waiting = asyncio.timeout(limit)
        try:
            async with waiting:
                found = await answer
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise StorageTimeoutError(f"{source} gave no answer within {limit:g} s") from error
        self._answered.add(source)
        return found
