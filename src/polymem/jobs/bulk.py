"""Key-value records from and to files: JSON Lines and Parquet, plain or compressed (BLK-1, BLK-2).

`kv` is `store.kv`, that of a namespace, `store.kv.typed(Model)`, or that of a transaction. Files are read, written
and parsed in a thread, chunk by chunk: the event loop stays free and the memory bounded, however long the file.
"""

import asyncio
import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar, cast

from polymem.contracts._kv_bulk import CHUNK_RECORDS, Bulk, Chunk, settled, stops, tell
from polymem.contracts.bulk import (
    BulkRecord,
    ExportProgress,
    ExportReport,
    LoadProgress,
    LoadReport,
    OnError,
)
from polymem.contracts.kv import KeyValue
from polymem.core.text import check_limit
from polymem.errors import StorageDataError
from polymem.jobs._bulk_files import Compression, Format, failures_told, format_of, replacing
from polymem.jobs._bulk_lines import LinesWriter, read_lines
from polymem.jobs._bulk_parquet import ParquetWriter, read_parquet

T = TypeVar("T")
Result = TypeVar("Result")
Sink = Callable[[list[BulkRecord[T]]], Awaitable[object] | object]
_COMPRESSIONS: Final = ("none", "gzip", "zstd")


async def load_file(
    kv: KeyValue[Any],
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    skip: int = 0,
    on_error: OnError = "stop",
    progress: LoadProgress | None = None,
    check_first: bool = False,
    dry_run: bool = False,
) -> LoadReport:
    """Put every record of a file, as `kv.bulk_load` does; instants of expiry are kept, versions are new.

    The name says the format: `.jsonl` or `.ndjson`, then perhaps `.gz` or `.zst`; `.parquet`. A bad record, line or
    column is a `StorageDataError` that names file, line (or row) and field, and what was stored before is whole
    chunks; `check_first` reads the file twice, so that nothing is. `dry_run` only reads: `loaded` is then what would
    be. With `on_error="collect"` bad records are left out and named in the report; a damaged file, or wrong columns
    of a Parquet one, is an error all the same. `StorageUnsupportedError` where pyarrow or zstandard is missing.
    """
    source, stop = Path(path), stops(on_error)
    kind, compression = format_of(source, format)
    check_limit(skip, field="skip")

    def chunks() -> AsyncGenerator[Chunk, None]:
        if kind == "parquet":
            return _in_threads(read_parquet(source, kv.bulk, skip=skip, stop=stop))
        return _in_threads(read_lines(source, kv.bulk, compression=compression, skip=skip, stop=stop))

    if check_first and not dry_run:
        await kv.bulk.load(chunks(), skip=skip, on_error=on_error, dry_run=True)
    return await kv.bulk.load(chunks(), skip=skip, on_error=on_error, progress=progress, dry_run=dry_run)


async def export_file(
    kv: KeyValue[Any],
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    compression: Compression | None = None,
    prefix: str = "",
    overwrite: bool = False,
    progress: ExportProgress | None = None,
) -> ExportReport:
    """Write the live records whose keys start with `prefix` to a file, without a snapshot (`kv.bulk_export`).

    The file takes its name when it is whole and synced; a failure or cancellation leaves what was there. Without
    `overwrite` a file that is there already is a `StorageConflictError`. `compression` is what the name says unless
    it is given; Parquet uses zstd.
    """
    target = Path(path)
    kind, named = format_of(target, format)
    if compression is not None and compression not in _COMPRESSIONS:
        raise StorageDataError("expected none, gzip or zstd", field="compression")
    chosen = compression or named or ("zstd" if kind == "parquet" else "none")
    writing = _writing(target, kind, chosen, kv.bulk, overwrite=overwrite)
    try:
        write = await _in_thread(writing.__enter__)
        report = await export_to(kv, lambda records: _in_thread(write, records), prefix=prefix, progress=progress)
    except BaseException:
        abandoned = _Abandoned()  # what went wrong is none of the file's business
        await _in_thread(lambda: writing.__exit__(_Abandoned, abandoned, None))
        raise
    await _in_thread(lambda: writing.__exit__(None, None, None))
    return report


async def export_to(
    kv: KeyValue[T], sink: Sink[T], *, prefix: str = "", progress: ExportProgress | None = None
) -> ExportReport:
    """Hand the live records whose keys start with `prefix` to `sink`, up to 1,000 at a time, and await each call.

    What the sink returns, if it is a whole number, is counted as its bytes. `progress` is called after every call.
    """
    report, started = ExportReport(), perf_counter()
    async with aclosing(_batches(kv.bulk_export(prefix))) as batches:
        async for records in batches:
            taken = sink(records)
            written = await taken if inspect.isawaitable(taken) else taken
            report = replace(
                report,
                exported=report.exported + len(records),
                bytes=report.bytes + (written if isinstance(written, int) else 0),
                seconds=perf_counter() - started,
            )
            await tell(progress, report)
    return report


async def _batches(records: AsyncIterator[BulkRecord[T]]) -> AsyncGenerator[list[BulkRecord[T]], None]:
    batch: list[BulkRecord[T]] = []
    async for record in records:
        batch.append(record)
        if len(batch) == CHUNK_RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch


async def _in_threads(chunks: Iterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """Each chunk made in a thread. The next is not begun before this one is asked for: that bounds the memory."""
    made = cast("Generator[Chunk, None, None]", chunks)
    try:
        while (chunk := await _in_thread(lambda: next(made, None))) is not None:
            yield chunk
    finally:
        await _in_thread(made.close)


async def _in_thread(work: Callable[..., Result], *args: Any) -> Result:
    """A cancellation waits for the thread, which holds a file."""
    return await settled(asyncio.ensure_future(asyncio.to_thread(work, *args)))


class _Abandoned(Exception):  # noqa: N818 - a signal, never seen by a caller
    """The export ends early."""


class _Writer(Protocol):
    def write(self, records: "list[BulkRecord[Any]]", /) -> int: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


@contextmanager
def _writing(
    path: Path, kind: Format, compression: Compression, bulk: Bulk[Any], *, overwrite: bool
) -> "Iterator[Callable[[list[BulkRecord[Any]]], int]]":
    with failures_told(path), replacing(path, overwrite=overwrite) as raw:
        make = ParquetWriter if kind == "parquet" else LinesWriter
        writer: _Writer = make(raw, bulk, compression)

        def write(records: list[BulkRecord[Any]]) -> int:
            with failures_told(path):
                return writer.write(records)

        try:
            yield write
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
