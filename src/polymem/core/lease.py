"""Which of several stores of one database does what only one of them needs to do (G-6)."""

from collections.abc import Awaitable, Callable

from polymem.core.ids import uuid7

Ask = Callable[[str, str, float], Awaitable[bool]]
"""The operation of `polymem.core.engine.Leasing`."""


class Lease:
    """One store's claim to a job. Whoever holds it prolongs it; that of a store that died runs out.

    Without `ask` the claim is always granted: the database then belongs to one store.
    """

    def __init__(self, ask: Ask | None, name: str, seconds: float) -> None:
        self._ask, self._name, self._seconds = ask, name, seconds
        self._holder, self._held = uuid7(), False

    async def hold(self) -> bool:
        """Take or prolong the claim; whether it is ours."""
        if self._ask is None:
            return True
        self._held = await self._ask(self._name, self._holder, self._seconds)
        return self._held

    async def release(self) -> None:
        """Let another store have it at once."""
        if self._ask is not None and self._held:
            self._held = False
            await self._ask(self._name, self._holder, 0)
