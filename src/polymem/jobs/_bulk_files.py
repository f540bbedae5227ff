"""Plain and compressed files: opened for bulk work, replaced as a whole, their failures told as ours (BLK-2)."""

import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Final, Literal, cast

from polymem.errors import (
    StorageConflictError,
    StorageDataError,
    StorageFullError,
    StorageUnsupportedError,
)

Format = Literal["jsonl", "parquet"]
Compression = Literal["none", "gzip", "zstd"]
FORMATS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
_BLOCK: Final = 2048
"""Compressed bytes taken at once: zstd makes at most some 64 MB of so many."""
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


def format_of(path: Path, given: str | None) -> tuple[Format, Compression | None]:
    """The format, which the name says unless it is given, and what the name says of compression."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    found = given or FORMATS.get(inner.suffix.lower())
    if found not in FORMATS.values() or (found == "parquet" and compression):
        raise StorageDataError(
            f"{path.name}: expected .jsonl, .ndjson (perhaps .gz or .zst) or .parquet, or a format given",
            field="format",
        )
    return cast("Format", found), cast("Compression | None", compression)


def library(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise StorageUnsupportedError(f"this needs {name}: pip install 'polymem[{extra}]'") from error


@contextmanager
def failures_told(path: Path, *damage: type[Exception]) -> Iterator[None]:
    """Failures of the file system, and of reading what is `damage`d, as errors of this library."""
    damaged: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, *damage)
    try:
        yield
    except damaged as error:
        raise StorageDataError(f"{path.name} is damaged, cut off, or not what its name says", field="path") from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFullError("no space is left for the file") from error
        raise StorageDataError(f"{path}: {error.strerror or 'cannot be used'}", field="path") from error


@contextmanager
def opened(path: Path, compression: Compression | None) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file as it is, whose position says how far one is, and the same unpacked."""
    with path.open("rb") as raw:
        if compression == "gzip":
            yield raw, cast("IO[bytes]", io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 16))
        elif compression == "zstd":
            yield raw, cast("IO[bytes]", io.BufferedReader(_ZstdFrames(raw), 1 << 16))
        else:
            yield raw, raw


class _ZstdFrames(io.RawIOBase):
    """Unpacked zstd; unlike the library's own reader it notices a file that was cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        zstd = library("zstandard", "compression")
        self._raw, self._new, self._failure = raw, zstd.ZstdDecompressor().decompressobj, zstd.ZstdError
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            if not self._unpack():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _unpack(self) -> bool:
        packed = self._packed or self._raw.read(_BLOCK)
        if not packed:
            if self._frame is not None:
                raise EOFError
            return False
        self._frame = self._frame or self._new()
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except self._failure as error:
            raise EOFError from error
        self._packed = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame
        return True


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole and synced; until then, and after a failure, there is none."""
    part = path.with_name(f".{path.name}.{token_hex(4)}.part")
    _refuse_existing(path, overwrite)
    try:
        with part.open("xb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        _refuse_existing(path, overwrite)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise StorageConflictError(f"{path.name} is there already; overwrite=True (--force) replaces it", field="path")


def packed(raw: IO[bytes], compression: Compression) -> IO[bytes]:
    """What is written to it arrives compressed; closing it leaves `raw` open."""
    if compression == "gzip":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0))
    if compression == "zstd":
        compressor = library("zstandard", "compression").ZstdCompressor(level=3, write_checksum=True)
        return cast("IO[bytes]", compressor.stream_writer(raw, closefd=False))
    return cast("IO[bytes]", _Unpacked(raw))


class _Unpacked:
    """Closing it does nothing, as with the compressed ones."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.write = raw.write

    def close(self) -> None: ...
