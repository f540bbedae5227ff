"""The file: one JSON line for each write, read once when it is opened."""

import fcntl
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from polymem.contracts.kv import Record
from polymem.errors import StorageConnectionError, StorageCorruptError

Place = tuple[str, str]
"""Namespace and key."""
Changes = Mapping[Place, Record | None]
"""What is written at once; None removes."""


class LogFile:
    """All records in memory, every change in the file before it is acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.records: dict[Place, Record] = {}

    def open(self) -> None:
        if self._file is not None:
            return
        file = self._path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StorageConnectionError("another store has the file open") from None
        try:
            self.records = _read(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self.records = None, {}

    def write(self, changes: Changes) -> None:
        """Append one line and sync it; only then is it so."""
        if self._file is None:
            raise StorageConnectionError("the store is not open")
        if not changes:
            return
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(_line(changes))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise
        _apply(self.records, changes)

    def rewrite(self) -> None:
        """A new file with the live records only, put in the place of the old one."""
        if self._file is None:
            raise StorageConnectionError("the store is not open")
        fresh = self._path.with_suffix(".new").open("w+b")
        fcntl.flock(fresh, fcntl.LOCK_EX)
        fresh.write(_line(self.records))
        fresh.flush()
        os.fsync(fresh.fileno())
        Path(fresh.name).replace(self._path)
        self._file.close()
        self._file = fresh


def _read(file: IO[bytes]) -> dict[Place, Record]:
    records: dict[Place, Record] = {}
    file.seek(0)
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            file.truncate(end)  # a crash in the middle of a write that nobody was told of
            break
        try:
            _apply(records, _changes(line))
        except (ValueError, TypeError) as error:
            raise StorageCorruptError(f"the line at byte {end} is damaged") from error
        end += len(line)
    return records


def _apply(records: dict[Place, Record], changes: Changes) -> None:
    for place, record in changes.items():
        if record is None:
            records.pop(place, None)
        else:
            records[place] = record


def _line(changes: Changes) -> bytes:
    rows: list[Any] = []
    for place, record in changes.items():
        rows.append([*place, None if record is None else [b64encode(record.body).decode(), *record[1:]]])
    return json.dumps(rows).encode() + b"\n"


def _changes(line: bytes) -> Changes:
    rows = json.loads(line)
    return {(n, k): None if row is None else Record(b64decode(row[0]), *row[1:]) for n, k, row in rows}
