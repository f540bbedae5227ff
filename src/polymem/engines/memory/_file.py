"""A snapshot file: written whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

from polymem.errors import StorageFullError, StorageNotFoundError, StorageQueryError


def write_file(path: Path, data: bytes) -> None:
    """Replace the file; whatever goes wrong, what was there before stays."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except FileNotFoundError as error:
        raise StorageNotFoundError("the folder of the snapshot does not exist", field="path") from error
    except OSError as error:
        raise _refused(error) from error
    try:
        _write_durably(descriptor, data)
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _refused(error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StorageNotFoundError("there is no such snapshot file", field="path") from error
    except OSError as error:
        raise _refused(error) from error


def _write_durably(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable by itself
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refused(error: OSError) -> StorageFullError | StorageQueryError:

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError("no space left for the snapshot", field="path")
    return StorageQueryError(f"the snapshot file cannot be used: {os.strerror(error.errno or 0)}", field="path")
