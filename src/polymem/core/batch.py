"""Batching for network engines: direct when idle, else one batch per loop tick.

Calls go out in the order of `submit`, and none while another of its key is under way, so a key keeps its order. That
holds within one batcher: an engine has one for all its writes (else a put whose caller was cancelled could land after
a later delete) and one for its reads. A read sees each write acknowledged before it, and may miss one whose caller was
cancelled.

With two flights a crowd divides: while the server works for one half, the loop answers the other and sends it again.
Where batches wait for each other's sync of a slow disk, fewer and larger ones are better.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from contextvars import copy_context
from functools import partial
from math import inf
from threading import get_ident
from time import perf_counter
from typing import Final, Generic, TypeVar

from polymem.errors import Outcome, StorageConnectionError, StorageError

Item = TypeVar("Item")
Result = TypeVar("Result")
_Call = tuple[Item, int, asyncio.Future[Result]]
_LEAST: Final = 16
"""Calls that are not worth dividing."""
_SHARE: Final = 3
"""Dividing pays if the loop is busy between two batches for this part of the time that one is under way."""
_SMOOTH: Final = 8
"""Batches over which times are averaged."""


class Batcher(Generic[Item, Result]):
    """Sends single calls to `one` and gathered calls to `many`; belongs to the loop it was made on. `many` gets items
    in the order of submission and returns a result or exception for each; merging them (last put wins, first delete
    says True) is its affair. If it raises, `translate`, the engine's error map, tells whether none was applied.
    `one`, when cancelled, must not return before the server is done with the call. `size` is in bytes. Up to `flights`
    batches are under way at once, no two with a key of `keys` in common; without `keys` calls have no order among them.
    `syncs` says that the server syncs a disk for each batch: then only one is, unless the loop is the slower part.
    Calls of more than `large` bytes, which cost far more than a round trip, go by themselves, up to `singles` at once
    besides the batches.
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
        flights: int = 1,
        keys: Callable[[Item], Collection[Hashable]] | None = None,
        syncs: bool = False,
        large: float = inf,
        singles: int = 1,
    ) -> None:
        self._one, self._many, self._size, self._translate = one, many, size, translate
        self._max_calls, self._max_bytes = max_calls, max_bytes
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._context = copy_context()  # batches run in no caller's context
        self._flights, self._keys, self._syncs = flights, keys, syncs
        self._large, self._singles, self._alone = large, singles, 0
        self._landed = self._answering = self._waiting = 0.0
        self._queue: deque[_Call[Item, Result]] = deque()
        self._aloft: list[list[_Call[Item, Result]]] = []
        """The batches under way."""
        self._tasks: set[asyncio.Task[None]] = set()  # kept: a loop holds its tasks weakly
        self._busy = self._crowded = self._scheduled = self._closed = False
        self._drained = asyncio.Event()

    async def submit(self, item: Item) -> Result:
        """The call's own result or error. If cancelled, a call that waits or is in a batch is still carried out."""
        if self._closed or get_ident() != self._thread or not self._loop.is_running():
            self._check()
        if self._busy or self._crowded or self._queue or self._aloft:
            future: asyncio.Future[Result] = self._loop.create_future()
            self._queue.append((item, self._size(item), future))
            if not self._scheduled:
                self._proceed()
            return await future
        self._busy = True  # the caller itself awaits the driver: no future, no task
        try:
            return await self._one(item)
        finally:
            self._busy = False
            if self._queue or self._closed:
                self._proceed()

    async def close(self) -> None:
        """Refuse new calls, carry out those already submitted and return when the last one has ended."""
        self._closed = True
        self._proceed()
        await self._drained.wait()

    def _check(self) -> None:
        """`submit` looks at the thread, which runs one loop at a time: asking for the loop costs a system call."""
        if self._closed or asyncio.get_running_loop() is not self._loop:
            raise StorageConnectionError("the connection is closed or belongs to another event loop")
        self._thread = get_ident()

    def _proceed(self) -> None:
        if self._queue:
            if not (self._busy or self._scheduled) and self._has_room():
                self._scheduled = True
                self._loop.call_soon(self._flush, context=self._context)  # so that tasks awakened now can add theirs
        elif self._closed and not (self._busy or self._aloft):
            self._drained.set()

    def _flush(self) -> None:
        self._scheduled = False
        pause = min(perf_counter() - self._landed, self._waiting)  # longer ones are the callers'
        self._answering += (pause - self._answering) / _SMOOTH
        while self._queue and self._has_room() and (batch := self._gather()):
            self._crowded = len(batch) > 1
            self._aloft.append(batch)
            self._alone += batch[0][1] > self._large
            task = self._loop.create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(partial(self._end, batch))

    def _has_room(self) -> bool:
        """Whether the next call may go: large ones and batches are counted apart."""
        if self._queue[0][1] > self._large:
            return self._alone < self._singles
        return len(self._aloft) - self._alone < self._limit()

    def _limit(self) -> int:
        """How many batches may be under way: one where dividing would cost more syncs than it saves time of the loop."""
        return self._flights if not self._syncs or _SHARE * self._answering >= self._waiting else 1

    def _gather(self) -> list[_Call[Item, Result]]:
        """A fair share of the calls, within both limits; an item that is large or beyond `max_bytes` travels alone."""
        share = -(-(len(self._queue) + sum(map(len, self._aloft))) // self._limit())
        batch: list[_Call[Item, Result]] = []
        queue, waiting, held = self._queue, [], self._held()
        large, room = queue[0][1] > self._large, self._max_bytes
        most = 1 if large else min(max(share, _LEAST), self._max_calls)
        while queue and len(batch) < most:
            size = queue[0][1]
            if (size > room and batch) or (size > self._large) is not large:
                break
            call = queue.popleft()
            if held and self._keys is not None and not held.isdisjoint(keys := self._keys(call[0])):
                waiting.append(call)
                held.update(keys)  # what comes after it waits too
            else:
                batch.append(call)
                room -= size
        queue.extendleft(reversed(waiting))
        return batch

    def _held(self) -> set[Hashable]:
        """The keys under way."""
        keys = self._keys
        return set() if keys is None else {key for batch in self._aloft for item, _, _ in batch for key in keys(item)}

    def _end(self, batch: list[_Call[Item, Result]], task: asyncio.Task[None]) -> None:
        """Leave nobody waiting if the task was cancelled, as at the end of asyncio.run, perhaps before it started."""
        self._tasks.discard(task)
        if batch:
            lost = StorageConnectionError("the batch was interrupted", retryable=True, outcome=Outcome.UNKNOWN)
            lost.__cause__ = None if task.cancelled() else task.exception()
            for _, _, future in (*batch, *self._queue):
                _settle(future, _own(lost))
            self._queue.clear()
            self._land(batch)

    async def _run(self, batch: list[_Call[Item, Result]]) -> None:
        sent = perf_counter()
        if len(batch) == 1 or not await self._together(batch):
            await self._one_by_one(batch)
        self._landed = perf_counter()
        self._waiting += (self._landed - sent - self._waiting) / _SMOOTH
        self._land(batch)  # before the awakened tasks run: the next single call goes direct

    def _land(self, batch: list[_Call[Item, Result]]) -> None:
        self._aloft.remove(batch)
        self._alone -= batch[0][1] > self._large
        batch.clear()
        self._proceed()

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
