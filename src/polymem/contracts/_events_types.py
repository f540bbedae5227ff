"""What listeners are told (`Event`), and what hooks may change (`Call`)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any, Final, Literal, Self

Kind = Literal["get", "put", "delete", "clear", "batch"]
Reader = Callable[[], Any]
AROUND: Final = ("get", "put", "delete", "clear", "batch", "transaction", "connect", "disconnect")
NAMES: Final = (
    *(f"{moment}:{kind}" for kind in AROUND for moment in ("before", "after")),
    "after:expire", "after:evict", "error",
)  # fmt: skip


def nothing() -> Any:
    return None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a store does or did."""

    name: str
    """"before:put", "after:put", ...; "error" when an operation failed."""
    operation: str
    """Which one it was: several are of one kind (put: create, update, increment, touch, ...)."""
    namespace: tuple[str, ...] = ()
    key: str | None = None
    """Of operations on one key."""
    keys: tuple[str, ...] = ()
    """Of batches."""
    existed: bool | None = None
    """After a get: whether the key was there. After a delete: whether something was removed."""
    count: int | None = None
    """How many records were found, written or removed, by a batch, a clear or the sweeper."""
    committed: bool | None = None
    """After a transaction: False where it was rolled back."""
    error: Exception | None = None
    read: Reader = field(default=nothing, repr=False, compare=False)

    @property
    def value(self) -> Any:
        """What is, or was, written or found: a copy. A batch has a mapping of keys to values. None where there is none."""
        return self.read()


@dataclass(frozen=True, slots=True)
class Call:
    """An operation that is about to begin, for a hook. `changed` makes the one to go on with."""

    kind: Kind
    operation: str
    namespace: tuple[str, ...]
    key: str | None = None
    keys: tuple[str, ...] = ()
    read: Reader = field(default=nothing, repr=False, compare=False)
    rewritten: bool = field(default=False, repr=False)

    @property
    def value(self) -> Any:
        """What is to be written: a copy. The amount of an increment; of a batch, a mapping of keys to values."""
        return self.read()

    def changed(self, *, key: str | EllipsisType = ..., value: Any = ...) -> Self:
        """The same call with another `key`, another `value`, or both. A batch keeps its keys."""
        call = self if key is ... else replace(self, key=key)
        return call if value is ... else replace(call, read=lambda: value, rewritten=True)
