"""Circuit breaker: after repeated transient failures, fail at once instead of waiting (RES-1)."""

import time
from collections.abc import Callable

from polymem.errors import StorageConnectionError, StorageError, StorageTimeoutError

_TRANSIENT = (StorageConnectionError, StorageTimeoutError)


class BreakerOpenError(StorageConnectionError):
    """Refused without asking the engine; it does not count as another failure. For the caller to repeat, later."""

    retryable = True


class PoolExhaustedError(StorageTimeoutError):
    """No connection came free in time: says that there is much to do, not that the engine fails."""


class LimitReachedError(StorageTimeoutError):
    """A statement, or its wait for a lock, came to its limit, as the engine itself says: so it works."""


class TransactionOverError(StorageConnectionError):
    """A call in a transaction that its owner has ended: says nothing of the engine."""


class TransactionTimeoutError(StorageTimeoutError):
    """A transaction that its owner kept open for too long: says nothing of the engine, and repeating takes as long."""

    retryable = False


_NOT_THE_ENGINE = (PoolExhaustedError, TransactionOverError, TransactionTimeoutError)


class Breaker:
    """Closed, open after `failures` transient failures in a row, half-open (one probe) after `pause` seconds.

    Data, conflict and not-found errors never count; one failure that many batched calls share counts once.
    """

    def __init__(self, failures: int = 5, pause: float = 30.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause, self._monotonic = failures, pause, monotonic
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        self._last: object = None
        self.disturbed = False
        """False on the happy path: one attribute read is all that a healthy call pays."""

    @property
    def state(self) -> str:
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._probing or self._wait() <= 0 else "open"

    def admit(self) -> None:
        """Raise `StorageConnectionError` while open; let one probe through after the pause."""
        if self._opened_at is None:
            return
        if self._wait() > 0 or self._probing:
            left = max(self._wait(), 0.0)
            raise BreakerOpenError(
                f"the circuit breaker is open after repeated failures: the engine is asked again in {left:.0f} s",
                retry_after=left,
            )
        self._probing = True

    def succeeded(self) -> None:
        self._failures, self._opened_at, self._probing, self._last, self.disturbed = 0, None, False, None, False

    def abandoned(self) -> None:
        """The probe was cancelled: it says nothing, so another may try."""
        self._probing = False

    def failed(self, error: StorageError) -> None:
        if isinstance(error, BreakerOpenError):
            return
        if isinstance(error, _NOT_THE_ENGINE):
            self.abandoned()
            return
        if isinstance(error, LimitReachedError) or not isinstance(error, _TRANSIENT):
            self.succeeded()  # the engine answered
            return
        cause = error.__cause__ or error
        if cause is self._last:
            return
        self._last, self.disturbed = cause, True
        self._failures += 1
        if self._probing or self._failures >= self._limit:
            self._opened_at, self._probing = self._monotonic(), False

    def _wait(self) -> float:
        return (self._opened_at or 0.0) + self._pause - self._monotonic()
