"""The error map: what the operating system says of the file, in our errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageFullError, StorageQueryError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class DamagedError(Exception):
    """A file of ours that cannot be read; only from these the last good copy recovers."""


class UnsyncedError(Exception):
    """The file was replaced, but nobody knows whether that survives a power cut."""


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def translate(error: Exception) -> StorageError | None:
    """Our error for one of the file's, None where it is none."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, UnsyncedError):
        return StorageConnectionError("the folder of the file could not be synced", outcome=Outcome.UNKNOWN)
    if not isinstance(error, OSError):
        return None
    if is_full(error):
        return StorageFullError("no space left for the file; what was acknowledged before is safe")
    if error.errno in _REFUSED:
        return StorageQueryError("the file or its folder may not be written to; check their permissions")
    return StorageConnectionError(f"the file cannot be used: {os.strerror(error.errno or 0)}")


@contextmanager
def translated() -> Iterator[None]:
    """For what callers reach without passing the guard."""
    try:
        yield
    except (OSError, UnsyncedError) as error:
        ours = translate(error)
        assert ours is not None, "both kinds are known"  # noqa: S101 - for the type checker
        raise ours from error
