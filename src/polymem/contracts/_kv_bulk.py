"""How `kv.batch_write` and `kv.bulk_load` work: chains of operations, and chunks of encoded records (BLK-1)."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import getrandbits
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from polymem.contracts._input import several
from polymem.contracts.bulk import (
    MAX_ERRORS,
    BadRecord,
    BatchResult,
    LoadProgress,
    LoadReport,
    OnError,
    Operation,
    OperationOutcome,
    Records,
)
from polymem.core.clock import Clock, Ttl, expiry
from polymem.core.codec import Codec
from polymem.core.text import check_key, check_limit
from polymem.errors import StorageDataError, StorageError

if TYPE_CHECKING:
    from polymem.contracts.kv import KeyValue, KeyValueDriver

T = TypeVar("T")
CHUNK_RECORDS: Final = 1000
CHUNK_BYTES: Final = 4 << 20
_AT_ONCE: Final = 256
"""Calls under way at most; engines that group writes make one transaction of them."""
_TURN: Final = 64
Row = tuple[str, bytes, int | None]
"""Key, encoded value, expiry."""


async def batch_write(kv: "KeyValue[Any]", operations: Iterable[Operation]) -> BatchResult:
    """Operations on one key one after another, those on different keys at once; each outcome in its place."""
    wanted = [_operation(one, number) for number, one in enumerate(several(operations, field="operations"))]
    outcomes: dict[int, OperationOutcome] = {}
    chains: dict[object, list[int]] = {}
    for number, operation in enumerate(wanted):
        chains.setdefault(operation.key if isinstance(operation.key, str) else number, []).append(number)

    async def run(chain: list[int]) -> None:
        for number in chain:
            outcomes[number] = await _outcome(kv, wanted[number])

    await at_once((run(chain) for chain in chains.values()), len(chains))
    return BatchResult(tuple(outcomes[number] for number in range(len(wanted))))


def _operation(given: object, number: int) -> Operation:
    if not isinstance(given, Operation):
        raise StorageDataError(
            f"expected Put, Create, Update, CompareAndSet, Increment, Touch or Delete, got {type(given).__name__}",
            field=f"operations[{number}]",
        )
    return given


async def _outcome(kv: "KeyValue[Any]", operation: Operation) -> OperationOutcome:
    try:
        return OperationOutcome(operation, result=await operation.apply(kv))
    except StorageError as error:
        return OperationOutcome(operation, error=error)


async def at_once(works: Iterable[Awaitable[object]], count: int) -> None:
    """Run `count` coroutines, some at a time and begun in order; an error or a cancellation ends those under way."""
    left = iter(works)

    async def work() -> None:
        for one in left:
            await one
            await asyncio.sleep(0)  # calls that never suspend would starve the other tasks

    workers = [asyncio.create_task(work()) for _ in range(min(count, _AT_ONCE))]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        raise


async def settled(task: "asyncio.Future[T]") -> T:
    """Its result. A cancellation waits for it to end: a chunk goes in whole, a thread lets go of its file."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():  # pragma: no branch - only its own work could have cancelled it
        task.exception()  # seen, lest the loop complain of it
    raise cancelled


@dataclass(slots=True)
class Chunk:
    """Records that are stored together. The last of a key wins."""

    rows: dict[str, Row] = field(default_factory=dict)
    bad: list[BadRecord] = field(default_factory=list)
    good: int = 0
    bytes: int = 0
    share: float | None = None


class Packer:
    """Gathers what `parse` makes of raw records until a chunk is full. `place` is what a position is called."""

    def __init__(self, parse: Callable[[Any], Row], *, place: str = "record", stop: bool) -> None:
        self._parse, self._place, self._stop = parse, place, stop
        self.chunk = Chunk()

    def add(self, raw: object, position: int, number: int | None = None) -> bool:
        """Whether the chunk is full. `number` is what people see of the position: that of the line, say."""
        chunk = self.chunk
        try:
            row = self._parse(raw)
        except StorageDataError as error:
            where = f"{self._place} {number or position}"
            chunk.bad.append(BadRecord(position, where, error.field, str(error.args[0])))
            return self._stop or len(chunk.bad) >= CHUNK_RECORDS
        chunk.rows[row[0]] = row
        chunk.good += 1
        chunk.bytes += len(row[0]) + len(row[1])
        return chunk.good >= CHUNK_RECORDS or chunk.bytes >= CHUNK_BYTES

    def take(self, share: float | None = None) -> Chunk:
        taken, self.chunk = self.chunk, Chunk()
        taken.share = share
        return taken


@dataclass(frozen=True, slots=True)
class _Moment:
    """A clock that stands still, so that equal ttls of a load lead to equal instants."""

    instant: int

    def now(self) -> int:
        return self.instant


@dataclass(frozen=True, slots=True)
class Bulk(Generic[T]):
    """What loads build on: encoding a record, and storing chunks of encoded ones."""

    driver: "KeyValueDriver"
    clock: Clock
    codec: Codec[T]

    def row(self, key: str, value: T, expires_at: int | None) -> Row:
        return check_key(key), self.codec.encode(value), expires_at

    async def load_records(
        self, records: Records[T], *, ttl: Ttl | None, skip: int, on_error: OnError, progress: LoadProgress | None
    ) -> LoadReport:
        moment = _Moment(self.clock.now())
        expiry(ttl, moment)  # a bad one is the caller's, not each record's

        def parse(record: object) -> Row:
            if not isinstance(record, tuple) or len(record) not in (2, 3):
                raise StorageDataError("expected a tuple of key, value and perhaps ttl", field="record")
            return self.row(record[0], record[1], expiry(record[2] if len(record) > 2 else ttl, moment))  # noqa: PLR2004

        packer = Packer(parse, stop=stops(on_error))
        return await self.load(_packed(records, packer, skip), skip=skip, on_error=on_error, progress=progress)

    async def load(
        self,
        chunks: AsyncGenerator[Chunk, None],
        *,
        skip: int = 0,
        on_error: OnError = "stop",
        progress: LoadProgress | None = None,
        dry_run: bool = False,
    ) -> LoadReport:
        check_limit(skip, field="skip")
        loading = _Loading(LoadReport(skipped=skip), self.driver, self.codec.tag, stops(on_error), progress, dry_run)
        try:
            return await loading.run(chunks)
        except StorageError as error:
            error.add_note(
                f"{loading.report.position} records are done with; go on with skip={loading.report.position}"
            )
            raise


def stops(on_error: object) -> bool:
    if on_error not in ("stop", "collect"):
        raise StorageDataError("expected stop or collect", field="on_error")
    return on_error == "stop"


async def _packed(records: Any, packer: Packer, skip: int) -> AsyncGenerator[Chunk, None]:
    position = 0
    async for record in _one_by_one(records):
        position += 1
        if position > skip and packer.add(record, position):
            yield packer.take()
        if not position % _TURN:
            await asyncio.sleep(0)
    yield packer.take()


def _one_by_one(records: Any) -> AsyncIterator[Any]:
    if isinstance(records, AsyncIterable):
        return aiter(records)
    return _awaited(several(records, field="records"))


async def _awaited(records: Iterable[Any]) -> AsyncIterator[Any]:
    for record in records:
        yield record


@dataclass(slots=True)
class _Loading:
    """A load under way: one chunk is written while the next is being made."""

    report: LoadReport
    driver: "KeyValueDriver"
    tag: str
    stop: bool
    progress: LoadProgress | None
    dry_run: bool
    started: float = field(default_factory=perf_counter)
    writing: "asyncio.Task[None] | None" = None

    async def run(self, chunks: AsyncGenerator[Chunk, None]) -> LoadReport:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    await self._finish()
                    if chunk.bad and self.stop:
                        bad = chunk.bad[0]
                        raise StorageDataError(f"{bad.where}: {bad.message}", field=bad.field)
                    self.writing = asyncio.create_task(self._write(chunk))
        finally:
            await self._finish()
        return self.report

    async def _finish(self) -> None:
        """Let the chunk under way go in, also when the load is cancelled, and tell of it."""
        writing, self.writing = self.writing, None
        if writing is None:
            return
        try:
            await settled(writing)
        finally:
            if not writing.cancelled() and writing.exception() is None:
                await tell(self.progress, self.report)

    async def _write(self, chunk: Chunk) -> None:
        if chunk.rows and not self.dry_run:
            await self.driver.put_many([(*row[:2], self.tag, getrandbits(63), row[2]) for row in chunk.rows.values()])
        report = self.report
        self.report = replace(
            report,
            loaded=report.loaded + chunk.good,
            failed=report.failed + len(chunk.bad),
            bytes=report.bytes + chunk.bytes,
            errors=(*report.errors, *chunk.bad)[:MAX_ERRORS],
            seconds=perf_counter() - self.started,
            share=chunk.share,
        )


async def tell(progress: Callable[[Any], Any] | None, report: object) -> None:
    """Call it, and await what it returns where that can be awaited."""
    if progress is not None:
        told = progress(report)
        if inspect.isawaitable(told):
            await cast("Any", told)
