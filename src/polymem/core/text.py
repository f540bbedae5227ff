"""Which strings may be stored: the same on every engine."""

import re
from typing import Final

from polymem.errors import StorageDataError

MAX_KEY_BYTES: Final = 512
_SHORT: Final = MAX_KEY_BYTES // 4
MAX_COUNT: Final = 2**61
"""The largest page size or offset: two of them still fit 64 bits."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]{0,62}")


def check_text(value: str, *, field: str) -> str:
    """Refuse U+0000 and unpaired surrogates, which some engines cannot hold."""
    if not isinstance(value, str):
        raise StorageDataError(f"expected a string, got {type(value).__name__}", field=field)
    if "\x00" in value:
        raise StorageDataError("U+0000 cannot be stored in text; use bytes or a blob", field=field)
    if not value.isascii():
        _encode(value, field)
    return value


def check_key(key: str, *, field: str = "key") -> str:
    """A key, id, session id or namespace segment: any text of 1 to 512 UTF-8 bytes."""
    # 128 printable characters are at most 512 bytes, without U+0000 or surrogates
    if type(key) is str and 0 < len(key) <= _SHORT and key.isprintable():
        return key
    check_text(key, field=field)
    if not key:
        raise StorageDataError("expected at least one character", field=field)
    if len(key) > MAX_KEY_BYTES or (not key.isascii() and len(_encode(key, field)) > MAX_KEY_BYTES):
        raise StorageDataError(f"longer than {MAX_KEY_BYTES} bytes of UTF-8", field=field)
    return key


def check_name(name: str, *, field: str) -> str:
    """A plain identifier (G-4): a letter or _, then letters, digits, _ or -; at most 63 characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StorageDataError("expected a plain name of letters, digits, _ or -, at most 63 long", field=field)
    return name


def check_limit(value: int, *, field: str = "limit") -> int:
    """A page size or offset: a whole number from 0 to 2**61."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise StorageDataError("expected a whole number of at least 0", field=field)
    return value


def _encode(value: str, field: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise StorageDataError("an unpaired surrogate cannot be stored in text", field=field) from None


def prefix_end(prefix: str) -> str | None:
    """The least string above everything that starts with `prefix`; None: there is no bound.

    Strings are compared by code point, as UTF-8 bytes are; surrogates cannot be stored and are stepped over.
    """
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # noqa: PLR2004 - the first surrogate
