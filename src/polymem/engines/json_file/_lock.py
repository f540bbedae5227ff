"""One process, one store: a lock file beside the data, which the operating system unlocks when its holder dies."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from polymem.errors import StorageConnectionError, StorageUnsupportedError

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})

if sys.platform == "win32":
    import msvcrt

    _FAR: Final = 1 << 30  # a locked byte cannot be read, and the holder's number should be

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # explicitly: a forked child holds the descriptor too


class LockFile:
    """Held while a store is open, and removed with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """`StorageConnectionError` where somebody holds it, without waiting."""
        while self._descriptor < 0:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                self._try(descriptor)
            finally:
                if self._descriptor < 0:
                    os.close(descriptor)

    def release(self) -> None:
        """Harmless when it is not held."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):  # Windows removes no open file
                self._path.unlink()
            with suppress(OSError):
                _unlock(descriptor)
            os.close(descriptor)

    def _try(self, descriptor: int) -> None:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise StorageUnsupportedError("this file system has no locks; use a local disk", field="url") from error
            raise StorageConnectionError(_refusal(_holder(descriptor)), field="url") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):  # else its last holder removed it meanwhile
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, b"%d\n" % os.getpid())
                self._descriptor = descriptor


def _holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 20).decode("ascii", "replace").strip()


def _refusal(holder: str) -> str:
    if holder == str(os.getpid()):
        return "the file is open in this process already; share that store, or close it first"
    who = f"another process (number {holder})" if holder.isdecimal() else "another process"
    return f"the file is open in {who}; one process at a time may use it: for several use sqlite:///"
