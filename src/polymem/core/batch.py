"""Batching for network engines: direct when idle, else one batch per loop tick (DESIGN 6).

Calls are sent in the order of `submit`, one driver call at a time, so one key keeps its order, cancelled
callers included. That holds within one batcher: an engine has one for its writes (put and delete together, else
a put whose caller was cancelled could land after a later delete) and one for its reads. Across the two, a read
sees every write acknowledged before it; a write whose caller was cancelled may land before or after it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Generic, NoReturn, TypeVar

from polymem.errors import (
    Outcome,
    StorageAuthError,
    StorageConnectionError,
    StorageError,
    StorageRateLimitError,
    StorageTimeoutError,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
_Call = tuple[Item, int, asyncio.Future[Result]]

_SERVER_TO_BLAME = (StorageConnectionError, StorageTimeoutError, StorageRateLimitError, StorageAuthError)


def _unmapped(_: Exception) -> None:
    return None


class Batcher(Generic[Item, Result]):
    """Sends single calls to `one` and gathered calls to `many`; belongs to the loop it was made on.

    `many` gets the items in the order of submission and returns one result or exception for each; which items
    may be merged (last put wins, first delete says True) is its affair. If it raises, all or nothing of the batch
    was applied, or that is unknown: `translate`, the engine's error map, tells. `one` may run in the caller's own
    task: when cancelled it must not return before the server is done with the call. `size` is an item's bytes.
    """

    def __init__(
        self,
        one: Callable[[Item], Awaitable[Result]],
        many: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        size: Callable[[Item], int],
        max_calls: int = 512,
        max_bytes: int = 1_000_000,
        translate: Callable[[Exception], StorageError | None] = _unmapped,
    ) -> None:
        self._one, self._many, self._size, self._translate = one, many, size, translate
        self._max_calls, self._max_bytes = max_calls, max_bytes
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # a batch serves many callers: it must not run in the context of one
        self._queue: deque[_Call[Item, Result]] = deque()
        self._busy = self._crowded = self._scheduled = self._closed = False
        self._drained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None  # the loop itself holds tasks only weakly

    async def submit(self, item: Item) -> Result:
        """The call's own result or error. If cancelled, a call that waits or is in a batch is still carried out."""
        if self._closed or asyncio.get_running_loop() is not self._loop:
            self._refuse()
        if self._busy or self._crowded or self._queue:
            return await self._enqueue(item)
        self._busy = True  # the caller itself awaits the driver: no future, no task
        try:
            return await self._one(item)
        finally:
            self._landed()

    async def close(self) -> None:
        """Refuse new calls, carry out those already submitted and return when the last one has ended."""
        self._closed = True
        if not (self._busy or self._queue):
            self._drained.set()
        await self._drained.wait()

    def _refuse(self) -> NoReturn:
        reason = "the connection is closed" if self._closed else "the connection belongs to another event loop"
        raise StorageConnectionError(reason)

    def _enqueue(self, item: Item) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.append((item, self._size(item), future))
        self._schedule()
        return future

    def _schedule(self) -> None:
        if self._queue and not (self._busy or self._scheduled):
            self._scheduled = True
            self._loop.call_soon(self._flush)  # next tick: let the tasks just awakened add their next call

    def _landed(self) -> None:
        self._busy = False
        self._schedule()
        if self._closed and not self._queue:
            self._drained.set()

    def _flush(self) -> None:
        batch = self._take()
        self._scheduled, self._busy, self._crowded = False, True, len(batch) > 1
        self._task = self._loop.create_task(self._run(batch), context=self._context)

    def _take(self) -> list[_Call[Item, Result]]:
        """The next calls within both limits; an item larger than `max_bytes` travels alone."""
        batch = [self._queue.popleft()]
        room = self._max_bytes - batch[0][1]
        while self._queue and len(batch) < self._max_calls and self._queue[0][1] <= room:
            batch.append(self._queue.popleft())
            room -= batch[-1][1]
        return batch

    async def _run(self, batch: list[_Call[Item, Result]]) -> None:
        try:
            await self._send(batch)
        except BaseException:  # this task was cancelled, as at the end of asyncio.run: leave nobody waiting
            lost = StorageConnectionError("the batch was interrupted", retryable=True, outcome=Outcome.UNKNOWN)
            for _, _, future in (*batch, *self._queue):
                _settle(future, _own(lost))
            self._queue.clear()
            raise
        finally:
            self._landed()

    async def _send(self, batch: list[_Call[Item, Result]]) -> None:
        outcomes = await self._together(batch) if len(batch) > 1 else None
        if outcomes is None:
            await self._one_by_one(batch)
            return
        for (_, _, future), outcome in zip(batch, outcomes, strict=True):
            _settle(future, outcome)

    async def _together(self, batch: list[_Call[Item, Result]]) -> Sequence[Result | Exception] | None:
        """What became of each call; None: nothing was applied and some call is to blame, so send each by itself."""
        try:
            results = await self._many([item for item, _, _ in batch])
            if len(results) != len(batch):
                raise StorageError(f"{len(results)} results for {len(batch)} calls", outcome=Outcome.UNKNOWN)
        except Exception as error:  # noqa: BLE001 - every caller of the batch hears of it
            return None if self._blames_a_call(error) else [_own(error) for _ in batch]
        return results

    async def _one_by_one(self, batch: list[_Call[Item, Result]]) -> None:
        for sent, (item, _, future) in enumerate(batch, 1):
            try:
                _settle(future, await self._one(item))
            except Exception as error:  # noqa: BLE001 - belongs to this caller alone
                _settle(future, error)
                if not self._blames_a_call(error):  # don't wait for a server that is away once per call
                    self._queue.extendleft(reversed(batch[sent:]))
                    return

    def _blames_a_call(self, error: Exception) -> bool:
        failure = error if isinstance(error, StorageError) else self._translate(error)
        applied = failure is None or failure.outcome is not Outcome.NOT_APPLIED
        return not applied and not isinstance(failure, _SERVER_TO_BLAME)


def _settle(future: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if future.done():
        return  # its caller was cancelled; the call was carried out all the same
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
        future.exception()  # a caller cancelled right now won't look: keep asyncio from logging it
    else:
        future.set_result(outcome)


def _own(error: Exception) -> Exception:
    """Each caller's own error, since the guard writes into it; their one cause makes the breaker count it once."""
    if not isinstance(error, StorageError):
        return error  # the guard wraps it for each caller
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(vars(error))
    own.__cause__ = error.__cause__ or error
    return own
