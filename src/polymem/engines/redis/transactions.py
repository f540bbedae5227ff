"""Optimistic transactions: what is read is watched, what is written is kept by the client, all is sent at the end.

If anybody changed what was read or listed, the commit fails with a retryable conflict and nothing is written (TXN-3).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from polymem.contracts.drivers import Drivers
from polymem.contracts.transactions import Isolation, TransactionFeatures
from polymem.core.breaker import TransactionOverError, TransactionTimeoutError
from polymem.engines.redis._address import TurnOptions
from polymem.engines.redis._keys import registry
from polymem.engines.redis._line import Command, Line
from polymem.engines.redis._overlay import Overlay
from polymem.engines.redis._overlay_kv import OverlayKV
from polymem.engines.redis._overlay_turns import OverlayTurns
from polymem.engines.redis._server import Server, raised
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
)


class RedisTransactions:
    """Where transactions begin; none waits for another one."""

    def __init__(self, server: Server, options: TurnOptions) -> None:
        self._server, self._options = server, options

    @property
    def features(self) -> TransactionFeatures:
        return TransactionFeatures(optimistic=True)

    async def begin(self, *, timeout: float, isolation: Isolation = "serializable") -> "RedisTransaction":  # noqa: ARG002 - it is serializable
        line = await self._server.link.acquire()
        try:
            await line.say([("UNWATCH",)], finish=False)
        except BaseException:
            await self._server.link.release(line)
            raise
        return RedisTransaction(self._server, self._options, line, timeout)


class RedisTransaction:
    """An open transaction on a connection of its own."""

    def __init__(self, server: Server, options: TurnOptions, line: Line, timeout: float) -> None:
        self._server, self._options, self._line = server, options, line
        self._overlay = Overlay(self._ask, self._check)
        self._over: Callable[[], StorageError] | None = None
        self._turn = asyncio.Lock()
        self._timer = asyncio.get_running_loop().call_later(timeout, self._expire, timeout)
        self._ending: asyncio.Future[None] | None = None
        server.transactions.add(self)

    def drivers(self, namespace: str, /) -> Drivers:
        return Drivers(
            kv=OverlayKV(self._server, self._overlay, namespace),
            turns=OverlayTurns(self._server, self._overlay, namespace, self._options),
        )

    async def commit(self) -> None:
        self._check()
        self._timer.cancel()
        self._over = lambda: TransactionOverError("the transaction was committed and is over")
        try:
            async with self._turn:
                replies = await self._line.say([("MULTI",), *self._writes(), ("EXEC",)], finish=True, same=True)
                self._overlay.watches = False
        finally:
            await self._release()
        outcome = [raised(reply) for reply in replies][-1]
        if outcome is None:
            raise StorageConflictError(
                "somebody changed what the transaction had read", retryable=True, outcome=Outcome.NOT_APPLIED
            )
        for reply in outcome:
            if isinstance(reply, Exception):
                raise StorageError("a part of the transaction failed", outcome=Outcome.UNKNOWN) from reply

    async def rollback(self) -> None:
        await self.interrupt(lambda: TransactionOverError("the transaction was rolled back and is over"))

    async def savepoint(self, name: str, /) -> None:
        self._check()
        self._overlay.savepoint(name)

    async def rollback_to(self, name: str, /) -> None:
        self._check()
        self._overlay.rollback_to(name)

    async def release(self, name: str, /) -> None:
        self._check()
        self._overlay.release(name)

    async def interrupt(self, why: Callable[[], StorageError]) -> None:
        """End it without a trace; harmless when it has ended."""
        if self._over is None:
            self._over = why
            self._timer.cancel()
            await self._release()

    def _writes(self) -> list[Command]:
        """Everything that was staged, as scripts in full: within MULTI nothing could be sent again."""
        written = self._overlay.namespaces()
        noted: list[Command] = [("ZADD", registry(self._server.prefix), 0, name) for name in written]
        for name in written:
            noted += OverlayKV(self._server, self._overlay, name).writes()
            noted += OverlayTurns(self._server, self._overlay, name, self._options).writes()
        return noted

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """A connection that failed, or whose caller was cancelled, has forgotten what it watched."""
        self._check()
        try:
            async with self._turn:
                self._check()
                replies = await self._line.say(commands, finish=True, same=True)
        except BaseException:
            await self.interrupt(lambda: StorageConnectionError("the transaction lost its connection", retryable=True))
            raise
        return [raised(reply) for reply in replies]

    def _check(self) -> None:
        if self._over is not None:
            raise self._over()

    def _expire(self, timeout: float) -> None:
        message = f"the transaction was open for longer than {timeout:g} s and was rolled back"
        self._ending = asyncio.ensure_future(self.interrupt(lambda: TransactionTimeoutError(message)))

    async def _release(self) -> None:
        """Give the connection back, watching nothing."""
        self._server.transactions.discard(self)
        async with self._turn:
            try:
                if self._overlay.watches:
                    await self._line.say([("UNWATCH",)], finish=True)
            except StorageError:
                pass  # closed: then it watches nothing either
            finally:
                await self._server.link.release(self._line)
