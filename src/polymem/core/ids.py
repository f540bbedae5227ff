"""Ids that sort by the time they were made (UUID version 7, RFC 9562)."""

import os
import threading
import time
from typing import Final

_TICKS_PER_MS: Final = 4096
_NANOSECONDS_PER_MS: Final = 1_000_000
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62


class _Ticks:
    """The time in 1/4096 ms, never the same twice and never backwards within the process."""

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), 0

    def next(self) -> int:
        now = time.time_ns() * _TICKS_PER_MS // _NANOSECONDS_PER_MS
        with self._lock:
            self._last = max(now, self._last + 1)
            return self._last


_ticks = _Ticks()


def uuid7() -> str:
    """A new id in the usual 36 characters; as strings, ids of one process sort in the order they were made.

    48 bits of milliseconds, 12 bits of their fraction (RFC 9562, 6.2 method 3) and 62 random bits from the
    operating system, so that processes, forked ones included, do not meet.
    """
    milliseconds, fraction = divmod(_ticks.next(), _TICKS_PER_MS)
    random = int.from_bytes(os.urandom(8)) >> 2
    digits = f"{milliseconds << 80 | _VERSION | fraction << 64 | _VARIANT | random:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
