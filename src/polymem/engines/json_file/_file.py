"""Files on the disk: replaced whole and durably or not at all, and never lost."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from polymem.engines.json_file._errors import UnsyncedError, is_full
from polymem.errors import StorageConnectionError, StorageQueryError


def check_place(path: Path) -> None:
    """Refuse what cannot be a file of ours before anything is touched."""
    if path.is_dir() or not path.parent.is_dir():
        raise StorageConnectionError("expected a file in an existing folder", field="url")
    if not path.exists():
        return
    if not path.is_file():
        raise StorageConnectionError("expected a regular file", field="url")
    if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(path, os.W_OK):
        raise StorageQueryError(f"{path} is read-only; it was left untouched", field="url")


def write_whole(path: Path, content: bytes, keep: Callable[[], object] = lambda: None) -> None:
    """Replace a file; until the moment of replacement everything stays as it was.

    `keep` is called when the new content is safely on the disk and the old one still in its place.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        _write_new(temporary, content, like=path)
        keep()
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def keep_as(path: Path, other: Path) -> None:
    """Give the content of a file a second name, replacing what had it; `path` stays where it is if at all possible."""
    spare = other.with_name(f".{other.name}.new")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError as error:
        if is_full(error):
            raise
        path.replace(other)  # no hard links here: should we die now, the copy recovers
        return
    spare.replace(other)
    spare.unlink(missing_ok=True)  # it stays where both were the same file already


def set_aside(path: Path, why: str) -> Path:
    """Keep a file under the first free name `<path>.<why>-<n>`; that name."""
    names = (path.with_name(f"{path.name}.{why}-{number}") for number in count(1))
    free = next(name for name in names if not name.exists())
    keep_as(path, free)
    return free


def erase(path: Path) -> None:
    """Overwrite a file and remove it; one that is not there is fine."""
    if not path.exists():
        return
    if path.stat().st_nlink == 1:  # else its content belongs to another name too
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
    path.unlink()


def _write_new(path: Path, content: bytes, *, like: Path) -> None:
    """A new file, with the permissions and the owner of another one where that exists."""
    path.unlink(missing_ok=True)
    old = like.stat() if like.exists() else None
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - has the mode at once
        if old is not None:
            _resemble(path, old)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _resemble(path: Path, old: os.stat_result) -> None:
    if os.name == "posix" and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
    path.chmod(stat.S_IMODE(old.st_mode))


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and the rename is durable by itself
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnsyncedError(str(folder)) from error
