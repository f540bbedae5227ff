"""When a failed call is tried again (RES-1)."""

import random
from dataclasses import dataclass

from polymem.errors import Outcome, StorageError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: wait a random time up to `first_delay` x 2^n seconds, at most `max_delay`.

    Source of full jitter: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    attempts: int = 3
    first_delay: float = 0.05
    max_delay: float = 2.0
    retry_writes: bool = True
    """Repeat an idempotent write whose outcome is unknown (at-least-once); False gives the error instead."""

    def delay(self, error: StorageError, attempt: int, *, reads: bool, idempotent: bool) -> float | None:
        """Seconds to wait before another attempt; None: give the error to the caller."""
        if not error.retryable or attempt >= self.attempts:
            return None
        safe = reads or error.outcome is Outcome.NOT_APPLIED or (idempotent and self.retry_writes)
        if not safe:
            return None
        return max(self.jitter(attempt), error.retry_after or 0.0)

    def jitter(self, attempt: int) -> float:
        """A random time up to the ceiling of this attempt, counted from 1."""
        ceiling = min(self.max_delay, self.first_delay * 2 ** (attempt - 1))
        return random.uniform(0, ceiling)  # noqa: S311 - spreads load, protects nothing
