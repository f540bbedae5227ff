"""Queries over key-value data (QRY-1 to QRY-6): filters, orders, pages, aggregates and indexes.

What is queried: the *documents* of one namespace, that is the live records written as JSON, by `store.kv` or by
`kv.typed(Model)`; `is_document` tells by the codec tag. Numbers, strings and other scalars are documents too: no path
leads anywhere in them. A storage whose codec is another one (encrypted, binary) refuses queries, and records of such
codecs are no documents of others.

Filters and orders mean what `contracts.filter` says. `prefix` restricts a query to keys that start with it. Without
an order documents come by key; the key ends every order. `offset` costs as much as reading what it skips; a cursor
does not. No query is a snapshot over its pages: a document present throughout, whose order values stay, comes once.

`select` gives partial documents: what lies at each path, inside the objects that lead there. A path that leads nowhere
leaves nothing; a step into an array becomes an object with that index as its key, so the same path finds the value.

Aggregates ignore null and missing. `count` without a path counts documents, with one the values; `sum` and `avg`
look at numbers only (a bool is none); `distinct` is the number of different values, equal as a filter's `eq` has it
(1 and 1.0 are one). `sum` of integers is exact whatever its size, also beyond 64 bits, and 0 where there are none;
where a float is among them it is the float nearest to the exact sum, so the order of addition does not matter.
`avg` is the float nearest to the exact mean. A result beyond the range of floats is infinite. `min` and `max` go by
the order number < string < bool < array or object, the last two by their canonical JSON text; None of nothing.
Results that are numbers are given as integers where they are whole and within 64 bits (`min` and `max` of 1.0 is 1),
but for `sum`, which is a float as soon as one float is among its numbers, and `avg`, always a float.

`group_by` makes one row per combination of values, equal as `eq` has it; null is a group, missing is another one.
Rows come in the order of their groups. Without it there is one row, also of no documents. `having` is a filter on
the row's results by their names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from polymem.contracts.filter import Filter, OrderBy, Path

if TYPE_CHECKING:
    from polymem.contracts.kv import Record

AggregateOp = Literal["count", "sum", "avg", "min", "max", "distinct"]
PathLike: TypeAlias = str | Sequence[str | int]
"""A path as `contracts.filter` reads it."""
OrderLike: TypeAlias = Sequence[tuple[PathLike, str]]
"""Paths, each with "asc" or "desc"."""


@dataclass(frozen=True, slots=True)
class QueryFeatures:
    """What a query cell can do; an option it can't honour raises `StorageUnsupportedError`."""

    indexes: bool = True
    """There is `create_index`; without it every query looks at every document."""


class Position(NamedTuple):
    """Where a page ends: the last document's order values and its key.

    Values are by number of the order field, as text; a missing one is left out. Arrays and objects, ties among
    themselves, are `[]`; integers beyond 64 bits are their nearest float.
    """

    values: dict[str, Any]
    key: str


@dataclass(frozen=True, slots=True)
class Query:
    """What to find, checked."""

    prefix: str = ""
    where: Filter | None = None
    order: tuple[OrderBy, ...] = ()
    select: tuple[Path, ...] | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One page of documents in order and the position to continue after, None at the end."""

    items: "list[tuple[str, Record]]"
    after: Position | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One figure over documents: `Aggregate("sum", ("amount",))`; only count needs no path."""

    op: AggregateOp
    path: Path | None = None


AggregateLike: TypeAlias = Aggregate | Literal["count"] | tuple[AggregateOp, PathLike]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Which figures of which documents, checked."""

    results: Mapping[str, Aggregate]
    prefix: str = ""
    where: Filter | None = None
    group_by: tuple[Path, ...] = ()
    having: Filter | None = None
    limit: int | None = None


class AggregateRow(NamedTuple):
    """One group and its results."""

    group: dict[str, Any]
    """Values by dotted path, absent where the path is missing in these documents; {} without group_by."""
    values: dict[str, Any]
    """Results by name."""


class IndexInfo(NamedTuple):
    """An index of a namespace; its name follows from its paths."""

    name: str
    paths: tuple[Path, ...]


class Explanation(NamedTuple):
    """How an engine would find the first page."""

    indexes: tuple[str, ...]
    """Names of the indexes used; empty: every document of the namespace may be looked at."""
    plan: tuple[str, ...]
    """In the engine's own words; holds no values."""


class QueryDriver(Protocol):
    """Queries over one namespace. Unary: the API class loops over pages."""

    @property
    def features(self) -> QueryFeatures: ...

    async def find(self, query: Query, after: Position | None, limit: int, /) -> Found:
        """The next documents; with `select` the body is the partial document, its codec `json`.

        `query.offset` counts from the start and is 0 where `after` is given.
        """
        ...

    async def count(self, prefix: str, where: Filter | None, /) -> int: ...

    async def aggregate(self, wanted: Aggregation, /) -> list[AggregateRow]: ...

    async def explain(self, query: Query, /) -> Explanation: ...

    async def create_index(self, index: IndexInfo, /) -> None:
        """Make what is not there yet; returns when it is complete and used."""
        ...

    async def drop_index(self, name: str, /) -> bool:
        """Whether this namespace had it."""
        ...

    async def list_indexes(self) -> list[IndexInfo]:
        """Those of this namespace, by name."""
        ...


DOCUMENT_TAG: Final = "json"
MODEL_TAGS: Final = "model:"


def is_document(codec: str) -> bool:
    """Whether a codec of this tag writes JSON that can be queried."""
    return codec == DOCUMENT_TAG or codec.startswith(MODEL_TAGS)
