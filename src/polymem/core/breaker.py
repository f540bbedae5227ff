"""Circuit breaker: after repeated transient failures, fail at once instead of waiting (RES-1)."""

import time
from collections.abc import Callable

from polymem.errors import StorageConnectionError, StorageError, StorageTimeoutError

_TRANSIENT = (StorageConnectionError, StorageTimeoutError)


class BreakerOpenError(StorageConnectionError):
    """Refused without asking the engine; it does not count as another failure."""


class PoolExhaustedError(StorageTimeoutError):
    """No connection came free in time: says that there is much to do, not that the engine fails."""


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
            raise BreakerOpenError(
                "the circuit breaker is open after repeated failures", retry_after=max(self._wait(), 0.0)
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
        if isinstance(error, PoolExhaustedError):
            self.abandoned()
            return
        if not isinstance(error, _TRANSIENT):
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
