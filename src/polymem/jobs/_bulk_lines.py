"""JSON Lines: one object a line with `key`, `value` and perhaps `expires_at` (BLK-2)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec

from polymem.contracts._kv_bulk import Bulk, Chunk, Packer, Row
from polymem.contracts.bulk import BulkRecord
from polymem.core.clock import to_instant
from polymem.errors import StorageDataError
from polymem.jobs._bulk_files import Compression, failures_told, opened, packed

LONGEST: Final = 256 << 20
"""Bytes of a line; a file without line ends is no reason to fill the memory."""
_BLAMED: Final = re.compile(r"field `(\w+)`|at `\$\.(\w+)")


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A record in a file. Members that are not known are refused: `expires` would make a record immortal."""

    key: str
    value: msgspec.Raw
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_decode: Final = msgspec.json.Decoder(Line).decode
_encode: Final = msgspec.json.Encoder().encode


def read_lines(
    path: Path, bulk: Bulk[Any], *, compression: Compression | None, skip: int, stop: bool
) -> Iterator[Chunk]:
    """The records of the file, encoded, in chunks; an empty line is none."""
    packer = Packer(lambda line: _row(bulk, line), place=f"{path.name} line", stop=stop)
    position = 0
    with failures_told(path), opened(path, compression) as (raw, file):
        size = path.stat().st_size if raw.seekable() else 0
        for number, line in _lines(file, path):
            position += 1
            if position > skip and packer.add(line, position, number):
                yield packer.take(raw.tell() / size if size else None)
    yield packer.take(1.0)


def _lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise StorageDataError(f"{path.name} line {number}: longer than {LONGEST >> 20} MB", field="record")
        if not line.isspace():
            yield number, line


def _row(bulk: Bulk[Any], text: bytes) -> Row:
    try:
        line = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(error) from error
    except RecursionError as error:
        raise StorageDataError("nested too deeply", field="record") from error
    expires_at = None if line.expires_at is None else to_instant(line.expires_at)
    return row_of_json(bulk, line.key, bytes(line.value), expires_at)


def row_of_json(bulk: Bulk[Any], key: str, text: bytes | str, expires_at: int | None) -> Row:
    """A row from the JSON text of its value, which is read as the codec reads what is stored."""
    body = text.encode() if isinstance(text, str) else text
    try:
        value = bulk.codec.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageDataError("expected JSON", field="value") from error
    except RecursionError as error:
        raise StorageDataError("nested too deeply", field="value") from error
    except StorageDataError as error:  # speaks of what is stored already
        raise StorageDataError("not of the type that was asked for", field="value") from error
    return bulk.row(key, value, expires_at)


def _refused(error: Exception) -> StorageDataError:
    """Says which member is to blame; the words of the decoder hold no values, but those of a bad instant might."""
    if not isinstance(error, msgspec.ValidationError):
        return StorageDataError("not a JSON object in UTF-8", field="record")
    blamed = _BLAMED.search(str(error))
    member = next((name for name in blamed.groups() if name), None) if blamed else None
    expected = "expected key (a string), value (any JSON) and perhaps expires_at (ISO 8601 with offset, or null)"
    return StorageDataError(expected, field=member or "record")


class LinesWriter:
    """Writes records to an open file."""

    def __init__(self, raw: IO[bytes], bulk: Bulk[Any], compression: Compression) -> None:
        self._bulk, self._file = bulk, packed(raw, compression)

    def write(self, records: Sequence[BulkRecord[Any]]) -> int:
        """Bytes of the keys and values."""
        bodies = [self._bulk.codec.encode(record.value) for record in records]
        lines = (
            _encode(Line(record.key, msgspec.Raw(body), record.expires_at))
            for record, body in zip(records, bodies, strict=True)
        )
        self._file.write(b"".join(line + b"\n" for line in lines))
        return sum(map(len, bodies)) + sum(len(record.key) for record in records)

    def finish(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        with suppress(Exception):  # the file is thrown away; what matters is that nothing is held any more
            self._file.close()
