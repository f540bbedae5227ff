"""The error map of PostgreSQL: SQLSTATEs and what asyncpg raises by itself."""

from ssl import SSLCertVerificationError, SSLError
from typing import Final, NamedTuple

import asyncpg  # type: ignore[import-untyped]

from polymem.core.breaker import LimitReachedError
from polymem.errors import (
    Outcome,
    StorageAuthError,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StorageQueryError,
    StorageTimeoutError,
    StorageUnsupportedError,
)


class _Meaning(NamedTuple):
    kind: type[StorageError]
    message: str
    retryable: bool = False
    outcome: Outcome = Outcome.NOT_APPLIED


_LOST: Final = _Meaning(StorageConnectionError, "the connection was lost during the call", True, Outcome.UNKNOWN)
_AWAY: Final = _Meaning(StorageConnectionError, "the server cannot be reached", True)
_REJECTED: Final = _Meaning(StorageQueryError, "the statement was rejected")
_BAD_DATA: Final = _Meaning(StorageDataError, "a value has the wrong type or is out of range")

_STATES: Final = {
    "0A000": _Meaning(StorageUnsupportedError, "the server does not support this"),
    "08P01": _Meaning(StorageConnectionError, "the server refused a start-up parameter, or wants TLS (sslmode)"),
    "22021": _Meaning(StorageDataError, "a text holds a character that the server cannot store"),
    "22P05": _Meaning(StorageDataError, "a text holds a character that the server cannot store"),
    "23503": _Meaning(StorageNotFoundError, "a record that is referred to does not exist"),
    "23505": _Meaning(StorageConflictError, "a record with this identity exists already"),
    "23P01": _Meaning(StorageConflictError, "a record that excludes this one exists already"),
    "25006": _Meaning(StorageQueryError, "the transaction or the server only reads"),
    "25P02": _Meaning(StorageQueryError, "an earlier operation of the transaction failed: roll it back"),
    "25P03": _Meaning(LimitReachedError, "the server ended a transaction that was idle for too long"),
    "26000": _Meaning(StorageQueryError, "a prepared statement is gone; behind a pooler use prepared_statements=False"),
    "28000": _Meaning(StorageAuthError, "the role may not connect from here (pg_hba.conf), or only with TLS (sslmode)"),
    "3D000": _Meaning(StorageNotFoundError, "the database does not exist"),
    "3F000": _Meaning(StorageNotFoundError, "the schema does not exist"),
    "40001": _Meaning(StorageConflictError, "lost a race against another transaction; run it again", True),
    "40P01": _Meaning(StorageConflictError, "a deadlock with another transaction; run it again", True),
    "42501": _Meaning(StorageAuthError, "the role may not do this; see polymem db grants"),
    "42P01": _Meaning(StorageNotFoundError, "a table does not exist"),
    "42P05": _Meaning(StorageQueryError, "a prepared statement exists; behind a pooler use prepared_statements=False"),
    "53300": _Meaning(StorageConnectionError, "the server has no connection to spare", True),
    "55P03": _Meaning(LimitReachedError, "a lock could not be had in time", True),
    "57014": _Meaning(LimitReachedError, "the statement took longer than its limit", True),
    "57P01": _LOST,
    "57P02": _LOST,
    "57P03": _Meaning(StorageConnectionError, "the server is starting or stopping", True),
    "57P05": _LOST,
}
_CLASSES: Final = {
    "08": _LOST,
    "21": _REJECTED,
    "22": _BAD_DATA,
    "23": _Meaning(StorageDataError, "a NOT NULL, CHECK or other constraint refuses the values"),
    "28": _Meaning(StorageAuthError, "the credentials were refused"),
    "40": _Meaning(StorageConflictError, "the transaction was rolled back; run it again", True),
    "53": _Meaning(StorageFullError, "the server has no space or memory left"),
    "54": _Meaning(StorageDataError, "a value or statement is larger than the server can take"),
    "57": _LOST,
    "58": _Meaning(StorageConnectionError, "the server reported an I/O error", False, Outcome.UNKNOWN),
    "XX": _Meaning(StorageCorruptError, "the server reported damaged data or an internal error"),
}
_CLIENT: Final[list[tuple[type[Exception], _Meaning]]] = [
    (asyncpg.InvalidCachedStatementError, _Meaning(StorageQueryError, "a table was changed meanwhile", True)),
    (asyncpg.OutdatedSchemaCacheError, _Meaning(StorageQueryError, "a type was changed meanwhile", True)),
    (asyncpg.TargetServerAttributeNotMatched, _AWAY),
    (asyncpg.ClientConfigurationError, _Meaning(StorageDataError, "the URL or an option of the connection is wrong")),
    (asyncpg.ProtocolError, _LOST),
    (TimeoutError, _Meaning(StorageTimeoutError, "the server did not answer in time", True, Outcome.UNKNOWN)),
    (OSError, _LOST),
]

_UNTRUSTED: Final = "the server's certificate is not trusted: say in sslrootcert which authority signs it"
_ELSEWHERE: Final = "the server's certificate is that of another host: connect by a host name that it holds"
_CERTIFICATES: Final = {10: "the server's certificate has expired: renew it", 62: _ELSEWHERE, 64: _ELSEWHERE}
"""By OpenSSL's number of what is wrong: expired, another host name, another address."""


def translate(error: Exception) -> StorageError | None:
    """Our error for one of asyncpg's, None where it is not one."""
    meaning = _meaning(error)
    if meaning is None:
        return None
    return meaning.kind(meaning.message, retryable=meaning.retryable, outcome=meaning.outcome)


def unreachable(error: Exception) -> StorageError | None:
    """The same for an error in connecting: whatever it was, no call was sent."""
    refused = _insecure(error)
    if refused is not None:
        return StorageConnectionError(refused)
    if isinstance(error, asyncpg.ProtocolViolationError) and "authentication failed" in str(error):  # says PgBouncer
        return StorageAuthError("the credentials were refused")
    translated = translate(error)
    if translated is None:
        return None
    if isinstance(error, OSError) or translated.outcome is Outcome.UNKNOWN:
        kind = StorageTimeoutError if isinstance(error, TimeoutError) else StorageConnectionError
        return kind(_AWAY.message, retryable=True)
    return translated


def _insecure(error: Exception) -> str | None:
    """Why TLS did not come about, and what can be done; None where that is not what failed."""
    if isinstance(error, SSLCertVerificationError):
        return _CERTIFICATES.get(error.verify_code, _UNTRUSTED)
    if isinstance(error, SSLError) or isinstance(error.__cause__, SSLError):
        return "TLS was refused; the server may want another sslcert and sslkey, or another version of TLS"
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):  # the driver has no error of its own for it
        return "the server offers no TLS: switch it on there, or do not ask for it by sslmode"
    return None


def breaks_connection(error: BaseException) -> bool:
    """Whether the connection is of no use after this error."""
    state = _state(error)
    if state is not None:
        return state in ("25006", "26000") or (state[:2] in ("08", "57") and state != "57014")
    return isinstance(
        error, (OSError, asyncpg.InternalClientError, asyncpg.ProtocolError)
    )  # TimeoutError is an OSError


def _meaning(error: Exception) -> _Meaning | None:
    for kind, meaning in _CLIENT:
        if isinstance(error, kind):
            return meaning
    state = _state(error)
    if state is not None:
        return _STATES.get(state) or _CLASSES.get(state[:2], _REJECTED)
    if isinstance(error, asyncpg.InterfaceError):
        return _interface(error)
    return _LOST if isinstance(error, asyncpg.InternalClientError) else None


def _state(error: BaseException) -> str | None:
    """The SQLSTATE of an error of the server's; the driver gives some of its own, too."""
    if not isinstance(error, asyncpg.PostgresError):
        return None
    return str(getattr(error, "sqlstate", None) or "08006")


def _interface(error: asyncpg.InterfaceError) -> _Meaning:
    if "closed" in str(error):  # noticed before anything was sent
        return _Meaning(StorageConnectionError, "the connection is closed", True)
    return _Meaning(StorageDataError, "the parameters do not fit the statement")
