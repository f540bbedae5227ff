"""The querying half of `KeyValue`: defaults, checks, page loops and cursors over a `QueryDriver`."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from polymem.contracts._input import Where
from polymem.contracts._query_input import Listing, checked_aggregation, checked_index, checked_query
from polymem.contracts.query import (
    AggregateLike,
    AggregateRow,
    Explanation,
    IndexInfo,
    OrderLike,
    PathLike,
    Query,
    QueryDriver,
    is_document,
)
from polymem.core.codec import decode_json
from polymem.core.guard import within
from polymem.core.text import check_limit
from polymem.errors import StorageDataError, StorageUnsupportedError

if TYPE_CHECKING:
    from polymem.contracts.kv import Entry, Record

T = TypeVar("T")
_PAGE: Final = 1000
_LARGEST_PAGE: Final = 8000


class Queries(Generic[T]):
    """Queries by content. What filters, orders and aggregates mean: `polymem.contracts.query`."""

    _queries: QueryDriver | None
    _tag: str
    _scope: str

    @overload
    def query(
        self, where: Where | None = None, *, prefix: str = ..., order_by: OrderLike = ..., limit: int | None = ...,
        offset: int = ..., select: None = None, cursor: str | None = ...,
    ) -> "AsyncIterator[Entry[T]]": ...  # fmt: skip
    @overload
    def query(
        self, where: Where | None = None, *, prefix: str = ..., order_by: OrderLike = ..., limit: int | None = ...,
        offset: int = ..., select: Sequence[PathLike], cursor: str | None = ...,
    ) -> "AsyncIterator[Entry[dict[str, Any]]]": ...  # fmt: skip
    async def query(
        self,
        where: Where | None = None,
        *,
        prefix: str = "",
        order_by: OrderLike = (),
        limit: int | None = None,
        offset: int = 0,
        select: Sequence[PathLike] | None = None,
        cursor: str | None = None,
    ) -> "AsyncIterator[Entry[Any]]":
        """The entries that satisfy a filter, in order, read page by page as they are consumed.

        With `select` their values are partial documents. A `cursor` of `find_many` continues after its page.
        """
        driver, wanted = self._driver_of_queries(), checked_query(prefix, where, order_by, select, offset)
        left, answer = _LARGEST_PAGE if limit is None else check_limit(limit), self._answering(wanted)
        after, size = Listing(self._scope, wanted).decode(cursor), _PAGE
        while left > 0:
            page = await driver.find(wanted, after, min(left, size))
            for key, record in page.items:
                yield answer(key, record)
            if page.after is None:
                return
            after, wanted = page.after, _from_here(wanted)
            left -= 0 if limit is None else len(page.items)
            # every page of an order that no index serves sorts anew: few large pages, but of bounded memory
            size = min(size * 2, _LARGEST_PAGE) if wanted.order else _PAGE

    @overload
    async def find_one(
        self, where: Where | None = None, *, prefix: str = ..., order_by: OrderLike = ..., select: None = None,
        timeout: float | None = ...,
    ) -> "Entry[T] | None": ...  # fmt: skip
    @overload
    async def find_one(
        self, where: Where | None = None, *, prefix: str = ..., order_by: OrderLike = ..., select: Sequence[PathLike],
        timeout: float | None = ...,
    ) -> "Entry[dict[str, Any]] | None": ...  # fmt: skip
    async def find_one(
        self,
        where: Where | None = None,
        *,
        prefix: str = "",
        order_by: OrderLike = (),
        select: Sequence[PathLike] | None = None,
        timeout: float | None = None,
    ) -> "Entry[Any] | None":
        """The first entry of the query, None where there is none."""
        wanted = checked_query(prefix, where, order_by, select)
        page = await self._driver_of_queries(timeout).find(wanted, None, 1)
        return self._answering(wanted)(*page.items[0]) if page.items else None

    @overload
    async def find_many(
        self, where: Where | None = None, *, prefix: str = ..., order_by: OrderLike = ..., limit: int = ...,
        offset: int = ..., select: None = None, cursor: str | None = ..., timeout: float | None = ...,
    ) -> "tuple[list[Entry[T]], str | None]": ...  # fmt: skip
    @overload
    async def find_many(
        self, where: Where | None = None, *, prefix: str = ..., order_by: OrderLike = ..., limit: int = ...,
        offset: int = ..., select: Sequence[PathLike], cursor: str | None = ..., timeout: float | None = ...,
    ) -> "tuple[list[Entry[dict[str, Any]]], str | None]": ...  # fmt: skip
    async def find_many(
        self,
        where: Where | None = None,
        *,
        prefix: str = "",
        order_by: OrderLike = (),
        limit: int = 100,
        offset: int = 0,
        select: Sequence[PathLike] | None = None,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> "tuple[list[Entry[Any]], str | None]":
        """Up to `limit` entries and the cursor to continue with, None at the end.

        A cursor may be kept and used later, in another process too, for the same namespace, prefix, filter and order.
        """
        if not check_limit(limit):
            raise StorageDataError("expected at least 1", field="limit")
        wanted = checked_query(prefix, where, order_by, select, offset)
        listing = Listing(self._scope, wanted)
        page = await self._driver_of_queries(timeout).find(wanted, listing.decode(cursor), limit)
        return [*starmap(self._answering(wanted), page.items)], listing.encode(page.after)

    async def aggregate(
        self,
        results: Mapping[str, AggregateLike],
        *,
        prefix: str = "",
        where: Where | None = None,
        group_by: Sequence[PathLike] = (),
        having: Where | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> list[AggregateRow]:
        """Figures over the documents: `{"orders": "count", "total": ("sum", "amount")}`, one row per group.

        There are count, sum, avg, min, max and distinct. `having` is a filter on the results by name.
        """
        wanted = checked_aggregation(results, prefix=prefix, where=where, group_by=group_by, having=having, limit=limit)
        return await self._driver_of_queries(timeout).aggregate(wanted)

    async def explain(
        self,
        where: Where | None = None,
        *,
        prefix: str = "",
        order_by: OrderLike = (),
        offset: int = 0,
        timeout: float | None = None,
    ) -> Explanation:
        """How the engine would find the first page of this query, and which indexes it would use."""
        return await self._driver_of_queries(timeout).explain(checked_query(prefix, where, order_by, None, offset))

    async def create_index(self, path: PathLike, *more: PathLike, timeout: float | None = None) -> str:
        """Make queries on a path fast, or on several together; the index's name. What exists already stays.

        Several paths serve filters that fix the first ones with `eq`. Writers wait while it is built.
        """
        index = checked_index((path, *more))
        await self._driver_of_indexes(timeout).create_index(index)
        return index.name

    async def drop_index(self, name: str, *, timeout: float | None = None) -> bool:
        """Remove an index of this namespace; whether there was one of that name."""
        if not isinstance(name, str):
            raise StorageDataError("expected the name of an index", field="name")
        return await self._driver_of_indexes(timeout).drop_index(name)

    async def list_indexes(self, *, timeout: float | None = None) -> list[IndexInfo]:
        """The indexes of this namespace, by name."""
        return await self._driver_of_indexes(timeout).list_indexes()

    async def _count(self, prefix: str, where: Where, timeout: float | None) -> int:
        wanted = checked_query(prefix, where, ())
        return await self._driver_of_queries(timeout).count(wanted.prefix, wanted.where)

    def _driver_of_queries(self, timeout: float | None = None) -> QueryDriver:
        if not is_document(self._tag):
            raise StorageUnsupportedError(
                f"values written as {self._tag!r} are not JSON documents, so they cannot be queried", operation="query"
            )
        if self._queries is None:
            raise StorageUnsupportedError(
                "there are no queries: the engine has none, or values are encrypted or compressed; scan the entries instead",
                operation="query",
            )
        return self._queries if timeout is None else within(self._queries, timeout)

    def _driver_of_indexes(self, timeout: float | None) -> QueryDriver:
        if not self._driver_of_queries().features.indexes:
            raise StorageUnsupportedError("there are no indexes; queries work without them", operation="query")
        return self._driver_of_queries(timeout)

    def _answering(self, query: Query) -> "Callable[[str, Record], Entry[Any]]":
        return self._entry if query.select is None else partial(self._entry, decode=decode_json)

    def _entry(self, key: str, record: "Record", decode: Callable[[bytes], Any] | None = None) -> "Entry[Any]":
        raise NotImplementedError


def _from_here(query: Query) -> Query:
    """The same query for the pages after the first, where nothing is left to skip."""
    return Query(query.prefix, query.where, query.order, query.select) if query.offset else query
