"""A key-value record as one Redis string: a header of fixed length that scripts can read, codec tag and body.

    created_at (8) | format (1) | expires_at (8) | updated_at (8) | version (8) | length of the tag (2) | tag | body

Numbers are big-endian; instants are microseconds.
"""

from struct import Struct
from typing import Final

from polymem.contracts.kv import Record
from polymem.errors import StorageCorruptError

FORMAT: Final = 1
NEVER: Final = 2**63 - 1
LARGE: Final = 4096
"""Bytes of a body from which on it waits outside the script that stores it (_staging.py)."""
ROOM: Final = bytes(8)
"""For created_at, which never begins a record that has none: the byte of the format does."""
_LAST: Final = 127 << 56
"""Instants before it don't begin with the byte that marks what never expires."""
_HEADER: Final = Struct(">qBqqqH")
_REST: Final = Struct(">BqqqH").pack
_CHECKED: Final = Struct(">Bq").unpack_from
_LENGTH: Final = Struct(">H").unpack_from
_SIZE: Final = _HEADER.size
_FORMAT_AT, _LENGTH_AT = 8, _SIZE - 2
instant: Final = Struct(">q").pack


def expiry(expires_at: int | None) -> int:
    return NEVER if expires_at is None else min(expires_at, _LAST - 1)


def rest(body: bytes, codec: str, version: int, updated_at: int, expires_at: int | None) -> bytes:
    """What a client sends of a record: the script knows best when it was created. A large one has `ROOM` for that."""
    tag = codec.encode()
    head = _REST(FORMAT, expiry(expires_at), updated_at, version, len(tag)) + tag
    return head + body if len(body) < LARGE else b"".join((ROOM, head, body))


def pack(record: Record) -> bytes:
    """The whole record."""
    body, codec, version, created_at, updated_at, expires_at = record
    return instant(created_at) + rest(b"", codec, version, updated_at, expires_at) + body


def value(stored: bytes | None, now: int) -> tuple[bytes, str] | None:
    """Body and tag, None where there is nothing or it has expired: all that `get` needs."""
    if stored is None:
        return None
    if len(stored) < _SIZE:
        raise _damaged()
    form, expires = _CHECKED(stored, _FORMAT_AT)
    if form != FORMAT:
        raise _damaged()
    if expires <= now:
        return None
    start = _SIZE + _LENGTH(stored, _LENGTH_AT)[0]
    return stored[start:], stored[_SIZE:start].decode()


def unpack(stored: bytes | None) -> Record | None:
    """The whole record, expired or not."""
    if stored is None:
        return None
    if len(stored) < _SIZE or stored[_FORMAT_AT] != FORMAT:
        raise _damaged()
    created, _, expires, updated, version, length = _HEADER.unpack_from(stored)
    start = _SIZE + length
    tag = stored[_SIZE:start].decode()
    return Record(stored[start:], tag, version, created, updated, None if expires == NEVER else expires)


def _damaged() -> StorageCorruptError:
    return StorageCorruptError("a stored record is damaged, or was not written by this library")
