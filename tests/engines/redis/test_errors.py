"""The error map of redis (G-1): class, whether to try again, what became of the call; no text of the server's."""

import pytest
from redis import exceptions as redis
from redis.asyncio.sentinel import MasterNotFoundError

from polymem.engines.redis._errors import translate
from polymem.engines.redis._record import pack, unpack, value
from polymem.engines.redis.turns import turn_row
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
from polymem.testing.clauses.names import HOSTILE


def refused_by_every_node() -> redis.RedisClusterException:
    """What the client of a Cluster makes of a wrong password."""
    error = redis.RedisClusterException("x")
    error.__cause__ = redis.AuthenticationError("secret")
    return error


NOT_APPLIED, UNKNOWN = Outcome.NOT_APPLIED, Outcome.UNKNOWN
MAP: list[tuple[Exception, type[StorageError], bool, Outcome]] = [
    (redis.ConnectionError("x"), StorageConnectionError, True, UNKNOWN),
    (ConnectionResetError(104, "x"), StorageConnectionError, True, UNKNOWN),
    (redis.InvalidResponse("x"), StorageConnectionError, True, UNKNOWN),
    (redis.ClusterError("x"), StorageQueryError, False, NOT_APPLIED),
    (redis.RedisClusterException("x"), StorageConnectionError, True, UNKNOWN),
    (redis.ConnectionError("Error 111 connecting to a:1. x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.RedisClusterException("x: Cluster mode is not enabled on this node"), StorageDataError, False, NOT_APPLIED),
    (redis.ResponseError("unknown command 'SENTINEL', with args"), StorageDataError, False, NOT_APPLIED),
    (redis.ResponseError("DB index is out of range"), StorageDataError, False, NOT_APPLIED),
    (refused_by_every_node(), StorageAuthError, False, NOT_APPLIED),
    (MasterNotFoundError("x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.TimeoutError("x"), StorageTimeoutError, True, UNKNOWN),
    (TimeoutError(), StorageTimeoutError, True, UNKNOWN),
    (redis.BusyLoadingError("x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.ReadOnlyError("x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.ClusterDownError("CLUSTERDOWN x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.MasterDownError("x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.TryAgainError("x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.MovedError("1 127.0.0.1:1"), StorageConnectionError, True, NOT_APPLIED),
    (
        redis.ResponseError(
            "ERR Error running script (call to f_1): @user_script:7: @user_script: 7: -READONLY You can't"
        ),
        StorageConnectionError,
        True,
        NOT_APPLIED,
    ),
    (
        redis.ResponseError(
            "ERR Error running script (call to f_1): @user_script:7: @user_script: 7: -OOM command not"
        ),
        StorageFullError,
        False,
        NOT_APPLIED,
    ),
    (redis.ResponseError("NOREPLICAS x"), StorageConnectionError, True, NOT_APPLIED),
    (redis.AuthenticationError("secret"), StorageAuthError, False, NOT_APPLIED),
    (redis.ResponseError("WRONGPASS secret"), StorageAuthError, False, NOT_APPLIED),
    (redis.NoPermissionError("secret"), StorageAuthError, False, NOT_APPLIED),
    (redis.OutOfMemoryError("x"), StorageFullError, False, NOT_APPLIED),
    (redis.ResponseError("MISCONF x"), StorageFullError, False, NOT_APPLIED),
    (redis.ResponseError("BUSY x"), StorageTimeoutError, True, NOT_APPLIED),
    (redis.ResponseError("WRONGTYPE x"), StorageCorruptError, False, NOT_APPLIED),
    (redis.DataError("secret"), StorageDataError, False, NOT_APPLIED),
    (redis.ResponseError("ERR secret"), StorageQueryError, False, NOT_APPLIED),
    (redis.ResponseError("secret"), StorageQueryError, False, NOT_APPLIED),
]


@pytest.mark.parametrize(("error", "kind", "retryable", "outcome"), MAP, ids=lambda one: str(one)[:40])
def test_each_error_has_its_class(error: Exception, kind: type, retryable: bool, outcome: Outcome) -> None:
    failure = translate(error)
    assert failure is not None
    assert (type(failure), failure.retryable, failure.outcome) == (kind, retryable, outcome)
    assert "secret" not in str(failure)


def test_what_was_never_sent_was_not_applied() -> None:
    for error in (redis.ConnectionError("x"), redis.TimeoutError("x"), OSError("x")):
        failure = translate(error, NOT_APPLIED)
        assert failure is not None
        assert failure.outcome is NOT_APPLIED


def test_other_errors_are_not_ours() -> None:
    assert translate(ValueError("x")) is None
    assert translate(KeyError("x")) is None
    own = StorageQueryError("x")
    assert translate(own) is own


def test_records_come_back_whole_or_not_at_all() -> None:
    from polymem.contracts.kv import Record

    for codec in ("json", "model:a.B", *HOSTILE[:20]):
        for expires_at in (None, -5, 0, 2**60):
            record = Record(b"\x00\xffbody", codec, 2**63 - 1, 1, 2, expires_at)
            assert unpack(pack(record)) == record
            assert value(pack(record), 10) == (
                None if expires_at is not None and expires_at <= 10 else (record.body, codec)
            )
    assert unpack(None) is value(None, 0) is None
    for damaged in (b"", b"x", b"x" * 34, b"\x00" * 60):
        with pytest.raises(StorageCorruptError):
            unpack(damaged)
        with pytest.raises(StorageCorruptError):
            value(damaged, 0)


def test_damaged_turns_are_told() -> None:
    for member in (b"", b"x" * 50, b"0" * 24, b"0" * 24 + b"\x90"):
        with pytest.raises(StorageCorruptError):
            turn_row("s", member)
