"""Interactive transactions over every contract of an engine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from polymem.contracts.drivers import Drivers

Isolation = Literal["read_committed", "repeatable_read", "serializable"]


@dataclass(frozen=True, slots=True)
class TransactionFeatures:
    """What a transactions cell can do."""

    isolation: Isolation = "serializable"
    """The level it really gives, whatever weaker one is asked."""
    savepoints: bool = True
    optimistic: bool = False
    """Transactions that touch the same records don't wait for each other: one may end in a retryable
    `StorageConflictError`, which `store.run_in_transaction` answers by running the block again."""


class Transaction(Protocol):
    """One open transaction; its operations run one after another."""

    def drivers(self, namespace: str, /) -> "Drivers":
        """The drivers of a namespace, inside this transaction."""
        ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None:
        """Undo everything; harmless when the transaction is over."""
        ...

    async def savepoint(self, name: str, /) -> None: ...

    async def rollback_to(self, name: str, /) -> None:
        """Undo what came after the savepoint, which stays."""
        ...

    async def release(self, name: str, /) -> None:
        """Forget the savepoint, keep its work."""
        ...


class TransactionDriver(Protocol):
    """Where transactions begin."""

    @property
    def features(self) -> TransactionFeatures: ...

    async def begin(self, *, timeout: float, isolation: Isolation = "serializable") -> Transaction:
        """Wait for the right to write and open a transaction that is rolled back after `timeout` seconds.

        It is isolated as asked or better.
        """
        ...
