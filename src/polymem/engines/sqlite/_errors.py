"""The error map of SQLite: apsw's exceptions to ours."""

import apsw

from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StorageQueryError,
    StorageTimeoutError,
)

_UNIQUE = {apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_ROWID}
_KINDS: list[tuple[type[Exception], type[StorageError], str]] = [
    (apsw.BusyError, StorageTimeoutError, "another process kept the database locked for too long"),
    (apsw.LockedError, StorageTimeoutError, "the table is locked by another operation"),
    (apsw.InterruptError, StorageTimeoutError, "the operation was interrupted"),
    (apsw.FullError, StorageFullError, "no space left for the database; what was acknowledged before is safe"),
    (apsw.CorruptError, StorageCorruptError, "the database file is damaged; restore a backup"),
    (apsw.NotADBError, StorageCorruptError, "the file is not a SQLite database; it was left untouched"),
    (apsw.ReadOnlyError, StorageQueryError, "the database is read-only"),
    (apsw.CantOpenError, StorageConnectionError, "the database file cannot be opened; check folder and permissions"),
    (apsw.PermissionsError, StorageConnectionError, "the database file cannot be accessed; check its permissions"),
    (apsw.ConnectionClosedError, StorageConnectionError, "the database is closed"),
    (apsw.TooBigError, StorageDataError, "a value is larger than SQLite can hold (1 GB)"),
    (apsw.MismatchError, StorageDataError, "a value has the wrong type for its column"),
    (apsw.BindingsError, StorageDataError, "the number of parameters does not fit the statement"),
    (OverflowError, StorageDataError, "an integer is beyond 64 bits"),
    (apsw.ThreadingViolationError, StorageConnectionError, "the connection is in use by another thread"),
    (apsw.SQLError, StorageQueryError, "the statement was rejected"),
]


def translate(error: Exception) -> StorageError | None:
    """Our error for one of apsw's, None where it is not one."""
    if isinstance(error, apsw.ConstraintError):
        return _constraint(error)
    if isinstance(error, apsw.IOError):
        return StorageConnectionError("the disk reported an I/O error", outcome=Outcome.UNKNOWN)
    for kind, ours, message in _KINDS:
        if isinstance(error, kind):
            return ours(message)
    return StorageQueryError(f"SQLite reported {type(error).__name__}") if isinstance(error, apsw.Error) else None


def _constraint(error: apsw.ConstraintError) -> StorageError:
    code = error.extendedresult  # type: ignore[attr-defined]  # apsw sets it on every error
    if code in _UNIQUE:
        return StorageConflictError("a record with this identity exists already")
    if code == apsw.SQLITE_CONSTRAINT_FOREIGNKEY:
        return StorageNotFoundError("a record that is referred to does not exist")
    return StorageDataError("a NOT NULL, CHECK or other constraint refuses the values")
