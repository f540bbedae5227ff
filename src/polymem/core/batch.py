"""Batching for network engines: direct when idle, else one batch per loop tick.

Calls go out in the order of `submit`, one driver call at a time, so a key keeps its order. That holds within one
batcher: an engine has one for all its writes (else a put whose caller was cancelled could land after a later delete)
and one for its reads. A read sees each write acknowledged before it, and may miss one whose caller was cancelled.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Generic, TypeVar

from polymem.errors import Outcome, StorageConnectionError, StorageError

Item = TypeVar("Item")
Result = TypeVar("Result")
_Call = tuple[Item, int, asyncio.Future[Result]]


class Batcher(Generic[Item, Result]):
    """Sends single calls to `one` and gathered calls to `many`; belongs to the loop it was made on. `many` gets items
    in the order of submission and returns a result or exception for each; merging them (last put wins, first delete
    says True) is its affair. If it raises, `translate`, the engine's error map, tells whether none was applied.
    `one`, when cancelled, must not return before the server is done with the call. `size` is in bytes.
    """

    def __init__(
        self,
        one: Callable[[Item], Awaitable[Result]],
        many: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        size: Callable[[Item], int],
        max_calls: int = 512,
        max_bytes: int = 1_000_000,
        translate: Callable[[Exception], StorageError | None] = lambda _: None,
    ) -> None:
        self._one, self._many, self._size, self._translate = one, many, size, translate
        self._max_calls, self._max_bytes = max_calls, max_bytes
        self._loop, self._context = asyncio.get_running_loop(), copy_context()  # batches run in no caller's context
        self._queue: deque[_Call[Item, Result]] = deque()
        self._busy = self._crowded = self._scheduled = self._closed = False
        self._drained = asyncio.Event()

    async def submit(self, item: Item) -> Result:
        """The call's own result or error. If cancelled, a call that waits or is in a batch is still carried out."""
        if self._closed or asyncio.get_running_loop() is not self._loop:
            raise StorageConnectionError("the connection is closed or belongs to another event loop")
        if self._busy or self._crowded or self._queue:
            future: asyncio.Future[Result] = self._loop.create_future()
            self._queue.append((item, self._size(item), future))
            self._proceed(busy=self._busy)
            return await future
        self._busy = True  # the caller itself awaits the driver: no future, no task
        try:
            return await self._one(item)
        finally:
            self._proceed(busy=False)

    async def close(self) -> None:
        """Refuse new calls, carry out those already submitted and return when the last one has ended."""
        self._closed = True
        self._proceed(busy=self._busy)
        await self._drained.wait()

    def _proceed(self, *, busy: bool) -> None:
        self._busy = busy
        if self._queue and not (busy or self._scheduled):
            self._scheduled = True
            self._loop.call_soon(self._flush, context=self._context)  # so that tasks awakened now can add theirs
        elif self._closed and not (busy or self._queue):
            self._drained.set()

    def _flush(self) -> None:
        """Send the next calls within both limits; an item larger than `max_bytes` travels alone."""
        batch = [self._queue.popleft()]
        room = self._max_bytes - batch[0][1]
        while self._queue and len(batch) < self._max_calls and self._queue[0][1] <= room:
            batch.append(self._queue.popleft())
            room -= batch[-1][1]
        self._scheduled, self._busy, self._crowded = False, True, len(batch) > 1
        self._task = self._loop.create_task(self._run(batch))  # kept: a loop holds its tasks weakly
        self._task.add_done_callback(lambda task: self._abandon(batch, task))

    def _abandon(self, batch: list[_Call[Item, Result]], task: asyncio.Task[None]) -> None:
        """Leave nobody waiting if the task was cancelled, as at the end of asyncio.run, perhaps before it started."""
        if batch:
            lost = StorageConnectionError("the batch was interrupted", retryable=True, outcome=Outcome.UNKNOWN)
            lost.__cause__ = None if task.cancelled() else task.exception()
            for _, _, future in (*batch, *self._queue):
                _settle(future, _own(lost))
            self._queue.clear()
            self._proceed(busy=False)

    async def _run(self, batch: list[_Call[Item, Result]]) -> None:
        if len(batch) == 1 or not await self._together(batch):
            await self._one_by_one(batch)
        batch.clear()
        self._proceed(busy=False)  # before the awakened tasks run: the next single call goes direct

    async def _together(self, batch: list[_Call[Item, Result]]) -> bool:
        """False: nobody was answered, each call is to be sent by itself."""
        try:
            outcomes = await self._many([item for item, _, _ in batch])
            if len(outcomes) != len(batch):
                raise StorageError(f"{len(outcomes)} results for {len(batch)} calls", outcome=Outcome.UNKNOWN)
        except Exception as error:  # noqa: BLE001 - every caller of the batch hears of it
            if self._blames_a_call(error):
                return False
            outcomes = [_own(error) for _ in batch]
        for (_, _, future), outcome in zip(batch, outcomes, strict=True):
            _settle(future, outcome)
        return True

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
        """Nothing was applied and the server is well; otherwise the guard repeats each call, or none."""
        failure = error if isinstance(error, StorageError) else self._translate(error)
        if failure is None or failure.retryable or isinstance(failure, StorageConnectionError):
            return False
        return failure.outcome is Outcome.NOT_APPLIED


def _settle(future: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if future.done():
        return  # its caller was cancelled; the call was carried out all the same
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _own(error: Exception) -> Exception:
    """Each caller's own error, since the guard writes into it; their one cause makes the breaker count it once."""
    if not isinstance(error, StorageError):
        return error  # the guard wraps it for each caller
    own = type(error).__new__(type(error))
    own.args, own.__dict__, own.__cause__ = error.args, dict(vars(error)), error.__cause__ or error
    return own
