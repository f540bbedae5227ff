"""Bulk work on key-value records: the operations, records and reports of `kv.batch_write` and `kv.bulk_load` (BLK-1)."""

from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar

from polymem.core.clock import Ttl
from polymem.errors import Outcome, StorageError

if TYPE_CHECKING:
    from polymem.contracts.kv import KeyValue

T = TypeVar("T")
MAX_ERRORS: Final = 100
"""Bad records that a report names; it counts them all."""


@dataclass(frozen=True, slots=True)
class Put:
    """`kv.put`; the result is the new version."""

    key: str
    value: Any = field(repr=False)
    ttl: Ttl | None = None

    async def apply(self, kv: "KeyValue[Any]") -> int:
        return await kv.put(self.key, self.value, ttl=self.ttl)


@dataclass(frozen=True, slots=True)
class Create:
    """`kv.create`; the result is the new version."""

    key: str
    value: Any = field(repr=False)
    ttl: Ttl | None = None

    async def apply(self, kv: "KeyValue[Any]") -> int:
        return await kv.create(self.key, self.value, ttl=self.ttl)


@dataclass(frozen=True, slots=True)
class Update:
    """`kv.update`; the result is the new version."""

    key: str
    value: Any = field(repr=False)

    async def apply(self, kv: "KeyValue[Any]") -> int:
        return await kv.update(self.key, self.value)


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """`kv.compare_and_set`; the result is the new version."""

    key: str
    expected_version: int | None
    value: Any = field(repr=False)
    ttl: Ttl | None = None

    async def apply(self, kv: "KeyValue[Any]") -> int:
        return await kv.compare_and_set(self.key, self.expected_version, self.value, ttl=self.ttl)


@dataclass(frozen=True, slots=True)
class Increment:
    """`kv.increment`; the result is the new value."""

    key: str
    delta: int = 1

    async def apply(self, kv: "KeyValue[Any]") -> int:
        return await kv.increment(self.key, self.delta)


@dataclass(frozen=True, slots=True)
class Touch:
    """`kv.touch`; the result says whether the key was there."""

    key: str
    ttl: Ttl | None

    async def apply(self, kv: "KeyValue[Any]") -> bool:
        return await kv.touch(self.key, ttl=self.ttl)


@dataclass(frozen=True, slots=True)
class Delete:
    """`kv.delete`; the result says whether something was there."""

    key: str

    async def apply(self, kv: "KeyValue[Any]") -> bool:
        return await kv.delete(self.key)


Operation = Put | Create | Update | CompareAndSet | Increment | Touch | Delete


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """What became of one operation: its result, or the error it met."""

    operation: Operation
    result: int | bool | None = field(default=None, repr=False)
    error: StorageError | None = None

    @property
    def state(self) -> Outcome:
        """Applied, not applied, or not known."""
        return Outcome.APPLIED if self.error is None else self.error.outcome


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The outcomes of `kv.batch_write`, in the order of its operations."""

    outcomes: tuple[OperationOutcome, ...]

    @property
    def failed(self) -> tuple[OperationOutcome, ...]:
        """Those that met an error."""
        return tuple(one for one in self.outcomes if one.error is not None)

    def raise_first(self) -> None:
        """Raise the first error, if there is one; in a transaction that undoes the whole batch."""
        for one in self.outcomes:
            if one.error is not None:
                raise one.error


class BulkRecord(NamedTuple, Generic[T]):
    """What `kv.bulk_export` gives and `kv.bulk_load` takes."""

    key: str
    value: T
    expires_at: datetime | None = None


class BadRecord(NamedTuple):
    """A record that cannot be stored, and why."""

    position: int
    """Its number in the source, counted from 1."""
    where: str
    """For people: the record, or the file and the line or row."""
    field: str | None
    """What is to blame: key, value (with the path into it), ttl, expires_at, record."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field or 'record'}: {self.message}"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How far a load is, or was when it ended. Whatever is counted here is stored."""

    skipped: int = 0
    """Records passed over because of `skip`."""
    loaded: int = 0
    """Records stored; a key that comes twice counts twice."""
    failed: int = 0
    """Bad records left out."""
    bytes: int = 0
    """Of the keys and encoded values stored."""
    seconds: float = 0.0
    errors: tuple[BadRecord, ...] = ()
    """The first bad records, at most 100."""
    share: float | None = None
    """How much of the source has been read, from 0 to 1; None where that is not known."""

    @property
    def position(self) -> int:
        """Records done with, counted from the start of the source: the `skip` to go on with."""
        return self.skipped + self.loaded + self.failed


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How far an export is, or was when it ended."""

    exported: int = 0
    bytes: int = 0
    """Of the keys and encoded values."""
    seconds: float = 0.0


Record = tuple[str, T] | tuple[str, T, Ttl | None]
Records = AsyncIterable[Record[T]] | Iterable[Record[T]]
"""(key, value) or (key, value, ttl); a `BulkRecord` is one, since a ttl may be an instant."""
OnError = Literal["stop", "collect"]
LoadProgress = Callable[[LoadReport], Any]
"""Called after every chunk; if it returns an awaitable, that is awaited."""
ExportProgress = Callable[[ExportReport], Any]
