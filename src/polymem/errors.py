"""Every error a caller of Polymem can see (REQUIREMENTS G-1).

`StorageDataError` is about the caller's input, `StorageQueryError` about what an engine rejects.
Messages never contain stored values or secrets; the driver's own exception is the `__cause__`.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """What is known of a write that failed."""

    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class PolymemError(Exception):
    """Root of everything the library raises on purpose."""


class StorageError(PolymemError):
    """A storage operation failed.

    `field` names the argument to blame, `retryable` says whether the same call may succeed later,
    `retry_after` is in seconds, `outcome` says what became of a write.
    """

    retryable = False
    outcome = Outcome.NOT_APPLIED

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        engine: str | None = None,
        operation: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.engine = engine
        self.operation = operation
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable
        if outcome is not None:
            self.outcome = outcome

    def __str__(self) -> str:
        where = "/".join(part for part in (self.engine, self.operation) if part)
        return f"{where}: {self.args[0]}" if where else str(self.args[0])


class StorageConnectionError(StorageError):
    """Not open, already closed, unreachable or cut off."""


class StorageQueryError(StorageError):
    """The engine rejected a statement: bad syntax, failed query, read-only database."""


class StorageDataError(StorageError):
    """Malformed input: `field` says which argument, the message what was expected."""


class StorageTimeoutError(StorageError, TimeoutError):
    """A connect, query, lock or pool wait took longer than its limit."""

    retryable = True


class StorageNotFoundError(StorageError):
    """A table, collection, bucket or edge end does not exist."""


class StorageConflictError(StorageError):
    """Unique violation, lost compare-and-set, or serialization failure."""


class StorageUnsupportedError(StorageError):
    """The engine lacks this contract or option."""


class StorageAuthError(StorageError):
    """Credentials were refused."""


class StorageCorruptError(StorageError):
    """The stored data is damaged or not ours; it is left untouched."""


class StorageFullError(StorageError):
    """No space left; everything acknowledged before is still there."""


class StorageRateLimitError(StorageError):
    """The server asks for patience: see `retry_after`."""

    retryable = True


class ProviderError(PolymemError):
    """A model's server refused a call or could not be used.

    `status` is the HTTP status if there was an answer, `retryable` says whether the same call may succeed later,
    `retry_after` is in seconds. Messages never hold the texts sent, the key, or what the server wrote about them.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.provider}: {self.args[0]}" if self.provider else str(self.args[0])


class ProviderAuthError(ProviderError):
    """The key is missing, was refused, or may not use this model."""


class ProviderRateLimitError(ProviderError):
    """Too many calls: see `retry_after`. A quota that is used up is not `retryable`."""

    retryable = True


class ProviderModelError(ProviderError):
    """The server has no such model, or its vectors are not as long as was said."""


class ProviderContentError(ProviderError):
    """The server declines to work on a text: its content filter, or the text is too long."""


class ProviderReplyError(ProviderError):
    """The answer is not what the API describes."""


class ProviderConnectionError(ProviderError):
    """Unreachable, cut off, or failing at its end (HTTP 5xx)."""

    retryable = True


class ProviderTimeoutError(ProviderConnectionError, TimeoutError):
    """No answer within the limit."""
