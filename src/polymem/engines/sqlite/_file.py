"""Opening a database file: is it ours, may we write it, and with which settings."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from polymem.engines.sqlite import _aggregate, _filter, _query_indexes
from polymem.engines.sqlite._schema import APPLICATION_ID, FORMAT, TABLES
from polymem.errors import (
    StorageConnectionError,
    StorageCorruptError,
    StorageQueryError,
    StorageUnsupportedError,
)

_NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "lustre"}
_LEAST_SQLITE: Final = 3_051_003
BUSY_SECONDS: Final = 10.0
_MOUNTS: Final = Path("/proc/mounts")
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = 108
"""SQLite's header of 100 bytes and that of the first page, which holds the schema."""
_SQLITE_LEAF: Final = 0x0D


def check_file(path: Path) -> None:
    """Refuse a file that cannot be ours before SQLite touches it; only for a file no connection has open here:
    closing any descriptor of a database file drops the locks of this process.
    """
    if apsw.SQLITE_VERSION_NUMBER < _LEAST_SQLITE:
        raise StorageUnsupportedError("apsw with SQLite 3.51.3 or newer is needed: pip install -U apsw")
    _refuse_network(path)
    if path.is_dir() or not path.parent.is_dir():
        raise StorageConnectionError("expected a file in an existing folder", field="url")
    if not path.exists():
        return
    if not path.is_file():
        raise StorageConnectionError("expected a regular file", field="url")
    if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(path, os.W_OK):
        raise StorageQueryError("the database file is read-only; it was left untouched", field="url")
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if header:
        _check_header(path, header)


def _check_header(path: Path, header: bytes) -> None:
    # A journal beside it says that the file is in use or was left by a crash: SQLite itself must look at both.
    crashed = any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))
    whole = len(header) == _HEADER and header.startswith(_MAGIC)
    if crashed and not whole:
        return
    if not header.startswith(_MAGIC):
        raise StorageCorruptError("the file is not a SQLite database; it was left untouched", field="url")
    if not whole or (not crashed and path.stat().st_size < _size(header)):
        raise StorageCorruptError("the end of the database file is missing; it was left untouched", field="url")
    # A file without tables is a new one that another process, or a crashed one, has just begun.
    empty = header[100] == _SQLITE_LEAF and not any(header[103:105])
    _check_owner(int.from_bytes(header[68:72]), int.from_bytes(header[60:64]), empty=empty)


def _size(header: bytes) -> int:
    """How many bytes the file should have at least."""
    page_bytes = int.from_bytes(header[16:18])
    return (65536 if page_bytes == 1 else page_bytes) * int.from_bytes(header[28:32])


def _check_owner(application: int, version: int, *, empty: bool) -> None:
    if application == APPLICATION_ID and version > FORMAT:
        raise StorageCorruptError(
            f"the file has format {version}, written by a newer version; this one reads up to {FORMAT}: "
            "upgrade polymem. It was left untouched", field="url",
        )  # fmt: skip
    if application != APPLICATION_ID and not empty:
        raise StorageCorruptError(
            "the file is a SQLite database of another application; it was left untouched", field="url"
        )


def _refuse_network(path: Path) -> None:
    """SQLite's locks do not hold on network file systems, so acknowledged writes would be lost."""
    if not _MOUNTS.exists():
        return
    best, kind, real = "", "", path.resolve()
    for line in _MOUNTS.read_text(errors="replace").splitlines():
        _, mount, filesystem, *_ = line.replace("\\040", "\x00").split(" ")
        mount = mount.replace("\x00", " ")
        if len(mount) >= len(best) and real.is_relative_to(mount):
            best, kind = mount, filesystem
    if kind in _NETWORK:
        raise StorageUnsupportedError(
            f"{kind} is a network file system; use a local disk or a server engine", field="url"
        )


def connect(path: Path, *, durability: str, cache_mb: int, vfs: str | None = None) -> apsw.Connection:
    """A connection with the engine's settings; the file may be new."""
    connection = apsw.Connection(str(path), vfs=vfs)
    try:
        _configure(connection, durability, cache_mb)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: apsw.Connection, durability: str, cache_mb: int) -> None:
    connection.set_busy_handler(BusyHandler())
    _filter.register(connection)
    _aggregate.register(connection)
    if not connection.pragma("page_count"):  # in an old file auto_vacuum=incremental would be a write
        connection.execute("pragma page_size=4096")
        connection.execute("pragma auto_vacuum=incremental")
    for pragma in (
        "journal_mode=wal",
        f"synchronous={durability}",
        "secure_delete=on",
        f"cache_size={-1024 * cache_mb}",
        "temp_store=memory",
        "trusted_schema=off",
        "foreign_keys=on",
    ):
        connection.execute(f"pragma {pragma}").fetchall()


def create_tables(connection: apsw.Connection) -> None:
    """Create the tables of a new file, or check those of an old one; safe when two processes do it at once."""
    with writing(connection):
        _create_or_check(connection)


@contextmanager
def writing(connection: apsw.Connection) -> Iterator[None]:
    """A transaction that nobody else writes beside."""
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def _create_or_check(connection: apsw.Connection) -> None:
    empty = connection.execute("select 1 from sqlite_schema limit 1").get is None
    _check_owner(int(connection.pragma("application_id")), int(connection.pragma("user_version")), empty=empty)
    if empty:
        connection.execute(TABLES)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", FORMAT)
    else:
        _query_indexes.rebuild_old(connection)


class BusyHandler:
    """Poll every millisecond: SQLite's own growing pauses starve the slower of two processes."""

    def __init__(self, seconds: float = BUSY_SECONDS) -> None:
        self._seconds = seconds
        self._deadline = 0.0
        self.calls = 0

    def __call__(self, attempt: int) -> bool:
        self.calls += 1
        now = time.monotonic()
        if attempt == 0:
            self._deadline = now + self._seconds
        if now > self._deadline:
            return False
        time.sleep(0.001)
        return True
