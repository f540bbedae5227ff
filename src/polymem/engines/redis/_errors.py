"""The error map: what redis-py raises, as the library's errors. Texts of the server are not repeated: they may hold keys."""

import re
from typing import Final

from redis import exceptions as redis
from redis.asyncio.sentinel import MasterNotFoundError

from polymem.errors import (
    Outcome,
    StorageAuthError,
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageError,
    StorageFullError,
    StorageQueryError,
    StorageTimeoutError,
)

_REFUSED: Final = {
    "LOADING": "the server is loading its data",
    "READONLY": "the server is a replica, perhaps after a failover",
    "MASTERDOWN": "the replica has lost its primary",
    "NOREPLICAS": "the server has too few replicas to accept writes",
    "CLUSTERDOWN": "the cluster is not complete at the moment",
    "TRYAGAIN": "the slot is being moved",
    "MOVED": "the slot was moved again and again",
    "ASK": "the slot was moved again and again",
}
"""Nothing was done, and the same call may succeed soon."""
_MISDIRECTED: Final = {
    "DB index is out of range": ("the server has no database of this number", "db"),
    "Cluster mode is not enabled": ("the server is not part of a Cluster: open it as redis://", "url"),
    "unknown command 'SENTINEL'": ("the server is no Sentinel: open it as redis://, or name the Sentinels", "url"),
}
_LOST: Final = "the connection failed or was cut off"
_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d*:? ?-([A-Z]+) ")
"""How Redis 6 wraps an error that a command in a script met."""
_KINDS: Final = (
    (redis.BusyLoadingError, "LOADING"),
    (redis.ReadOnlyError, "READONLY"),
    (redis.MasterDownError, "MASTERDOWN"),
    (redis.ClusterDownError, "CLUSTERDOWN"),
    (redis.TryAgainError, "TRYAGAIN"),
    (redis.AskError, "ASK"),  # MovedError is one too
    (redis.AuthenticationError, "NOAUTH"),
    (redis.NoPermissionError, "NOPERM"),
    (redis.OutOfMemoryError, "OOM"),
)


def translate(error: Exception, outcome: Outcome = Outcome.UNKNOWN) -> StorageError | None:
    """The library's error; `outcome` is what a lost connection leaves of the call."""
    known = error if isinstance(error, StorageError) else _misdirected(error)
    if known is not None:
        return known
    code = _code(error)
    if not code and isinstance(error, redis.RedisClusterException) and isinstance(error.__cause__, Exception):
        code = _code(error.__cause__)  # why no node could be asked for the others
    if code in _REFUSED:
        return StorageConnectionError(_REFUSED[code], retryable=True, outcome=Outcome.NOT_APPLIED)
    if code in ("NOAUTH", "WRONGPASS", "NOPERM"):
        return StorageAuthError("the credentials were refused or do not allow this")
    if isinstance(error, (redis.TimeoutError, TimeoutError)):
        return StorageTimeoutError("no answer within socket_timeout", outcome=outcome)
    if isinstance(
        error, (redis.ConnectionError, redis.RedisClusterException, redis.InvalidResponse, OSError, EOFError)
    ):
        absent = isinstance(error, MasterNotFoundError)  # then nothing was sent
        message = "the Sentinels name no primary: none of this name is up, or they refuse to say" if absent else _LOST
        return StorageConnectionError(message, retryable=True, outcome=Outcome.NOT_APPLIED if absent else outcome)
    return _answered(error, code)


def _misdirected(error: Exception) -> StorageError | None:
    """For what shows when a store is opened with a URL of something else."""
    if isinstance(error, redis.ConnectionError) and " connecting to " in str(error):
        return StorageConnectionError("the server cannot be reached", retryable=True, outcome=Outcome.NOT_APPLIED)
    if isinstance(error, (redis.ResponseError, redis.RedisClusterException)):
        for words, (message, field) in _MISDIRECTED.items():
            if words in str(error):
                return StorageDataError(message, field=field)
    return None


def _answered(error: Exception, code: str) -> StorageError | None:
    """For what the server said of a call, which it then did not carry out."""
    if code in ("OOM", "MISCONF"):
        return StorageFullError("the server is out of memory or cannot save its data")
    if code == "BUSY":
        return StorageTimeoutError("the server is busy with a long script", outcome=Outcome.NOT_APPLIED)
    if code == "WRONGTYPE":
        return StorageCorruptError("a key of this name holds something that this library did not write")
    if isinstance(error, redis.DataError):
        return StorageDataError("the client refused an argument")
    if isinstance(error, redis.RedisError):
        return StorageQueryError(f"the server refused the command ({code or type(error).__name__})")
    return None


def _code(error: Exception) -> str:
    """The word Redis begins an error with. redis-py has classes for some and cuts the word off their texts."""
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return code
    if not isinstance(error, redis.ResponseError):
        return ""
    first = str(error).partition(" ")[0]
    in_script = _IN_SCRIPT.search(str(error)) if first == "ERR" else None
    return in_script[1] if in_script else first if first.isupper() and first.isalpha() else ""
