"""What the engine holds: tables of immutable records.

A table is filed under (its class, namespace) and a name: the collection, session, graph or container. What a
table keeps besides its rows (key order, search index) is derived and can be thrown away at any time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from polymem.core.page import Page

K = TypeVar("K", bound="str | int | tuple[str, str]")
R = TypeVar("R")
T = TypeVar("T")


class Kept(Protocol):
    """What can be filed: tables, and the SQL database."""

    counted: ClassVar[bool]
    """Whether its records are the user's: those make a namespace exist and are counted when it is dropped."""

    def fork(self) -> Self:
        """A copy for a transaction: writing to it leaves this one as it is."""
        ...

    def settle(self) -> None:
        """A fork becomes the committed state."""
        ...

    def held(self, now: int) -> int:
        """How many live records there are."""
        ...

    def expire(self, now: int, limit: int) -> int:
        """Remove at most `limit` expired records; how many."""
        ...


Tables = dict[tuple[type[Any], str], dict[str, Any]]


class Table(Generic[K, R]):
    """Records by key."""

    counted: ClassVar[bool] = True

    def __init__(self) -> None:
        self.rows: dict[K, R] = {}
        self.origin: Self | None = None
        """In a fork, the committed table it comes from."""
        self._order: list[K] | None = []

    def put(self, key: K, record: R) -> None:
        if self._order is not None and key not in self.rows:
            if self._order and not self._order[-1] < key:  # type: ignore[operator]
                self._order = None
            else:
                self._order.append(key)
        self.rows[key] = record

    def pop(self, key: K) -> R | None:
        record = self.rows.pop(key, None)
        if record is not None:
            self._order = None
        return record

    def keys(self) -> list[K]:
        """The keys in order; not to be changed."""
        if self._order is None:
            self._order = sorted(self.rows)
        return self._order

    def keys_after(self, after: K | None) -> Iterator[K]:
        keys = self.keys()
        start = 0 if after is None else bisect_right(keys, after)
        return (keys[at] for at in range(start, len(keys)))

    def fork(self) -> Self:
        fork = copy(self)
        fork.rows = dict(self.rows)
        fork.origin = self.origin or self
        fork._order = None  # noqa: SLF001 - of its own class
        return fork

    def settle(self) -> None:
        self.origin = None

    def held(self, now: int) -> int:  # noqa: ARG002 - it matters where records expire
        return len(self.rows)

    def expire(self, now: int, limit: int) -> int:  # noqa: ARG002 - the same
        return 0


def starting(keys: Sequence[str], prefix: str, after: str | None) -> Iterator[str]:
    """Those of the ordered `keys` that start with `prefix` and come after `after`."""
    start = bisect_left(keys, prefix) if after is None else max(bisect_left(keys, prefix), bisect_right(keys, after))
    for at in range(start, len(keys)):
        if not keys[at].startswith(prefix):
            return
        yield keys[at]


def page_of(items: Iterable[T], limit: int, position: Callable[[T], str]) -> Page[T]:
    """The first `limit` of `items`; one more is looked at to know whether this is the end."""
    found = list(islice(items, limit + 1))
    more = len(found) > limit > 0
    return Page(found[:limit], position(found[limit - 1]) if more else None)


def detached(document: Any) -> Any:
    """A copy of a JSON value, so that neither the caller nor the engine sees the other's changes (G-3)."""
    if isinstance(document, dict):
        return {key: detached(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [detached(value) for value in document]
    return document
