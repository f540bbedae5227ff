"""Named collections of vectors and texts: their numbers, what their first write fixed, and their rows."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from polymem.contracts.filter import Filter
from polymem.core.codec import decode_json, encode_json
from polymem.core.namespace import subtree_end
from polymem.core.page import Page
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import Fetch, Runner
from polymem.engines.postgres.filter_sql import Values, compile_filter
from polymem.errors import StorageConflictError, StorageDataError

TABLES: Final = {"text": "pm_texts", "vectors": "pm_vectors"}
_WHERE: Final = "namespace = $1 and contract = $2 and name = $3"
_FIND: Final = f"select collection, options, full_text from pm_collections where {_WHERE}"
_ATTEMPTS: Final = 5
_MOST_KNOWN: Final = 10_000
_DAY: Final = 86_400_000_000
# `clear` waits for the lock, so that no row is written to a collection that is gone
_PLACE: Final = f"""
found as ({_FIND} for key share),
made as (insert into pm_collections(namespace, contract, name, options)
    select $1, $2, $3, $4 where not exists (select from found) on conflict do nothing
    returning collection, full_text),
place as (select collection, full_text from found where options = $4 union all select collection, full_text from made),
logged as (insert into pm_changes(collection, ids) select collection, $5::text[] from place)"""


class Place(NamedTuple):
    """Where a collection's name is, and what its writers agree on."""

    namespace: str
    contract: str
    name: str
    options: dict[str, Any]

    @property
    def table(self) -> str:
        return TABLES[self.contract]

    def row(self) -> tuple[str, str, str, str]:
        return self.namespace, self.contract, self.name, encode_json(self.options).decode()


async def find(fetch: Fetch, place: Place) -> int | None:
    """The number of a collection, None where nothing was written; other options are a `StorageDataError`."""
    rows = await fetch(_FIND, *place[:3])
    if not rows:
        return None
    stored = decode_json(rows[0][1])
    for field, given in place.options.items():
        if stored[field] != given:
            raise StorageDataError(
                f"{place.name} was written with {field} {stored[field]!r}, not {given!r}", field=field
            )
    return int(rows[0][0])


class Numbers:
    """The numbers of collections found before, for whom they are not looked up each time.

    A number is never given twice, and what is in a collection goes with it. So whoever finds nothing under a number looks
    it up again, and meets the collection that is there now.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, str], int] = {}

    async def rows(self, fetch: Fetch, place: Place, work: Callable[[int], Awaitable[list[Any]]]) -> list[Any]:
        """What `work` reads of a collection, given its number; nothing where there is none."""
        known = self._known.get(place.row())
        if known is not None and (rows := await work(known)):
            return rows
        number = await find(fetch, place)
        self._note(place, number)
        return [] if number is None or number == known else await work(number)

    def _note(self, place: Place, number: int | None) -> None:
        if number is None:
            self._known.pop(place.row(), None)
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[place.row()] = number


def satisfying(where: Filter | None, values: Values) -> str:
    """The condition on the payload of a row."""
    return compile_filter(where, "payload::json", values, jsonb="payload_jsonb")


def put_statement(insertion: str) -> str:
    """One statement that makes the collection where there is none, writes rows to it and logs their ids, which are $5.

    `insertion` takes the collection's number and its `full_text` from `place`.
    """
    return f"with {_PLACE}, done as ({insertion}) select collection from place"


async def put(runner: Runner, place: Place, statement: str, ids: Sequence[str], *columns: Any) -> int:
    """Run a `put_statement`; the collection's number. Ids in order: two writers of the same rows then never wait for
    each other.
    """
    for _ in range(_ATTEMPTS):
        rows = await runner.fetch(statement, *place.row(), ids, *columns)
        if rows:
            return int(rows[0][0])
        await find(runner.fetch, place)  # it has other options, or somebody has just made it
    raise StorageConflictError("the collection is made and removed all the time", retryable=True)


async def delete(runner: Runner, place: Place, ids: Sequence[str]) -> int:
    """Remove rows of a collection and log it; how many there were."""
    number = await find(runner.fetch, place)
    if number is None:
        return 0
    rows = await runner.fetch(
        f"with gone as (delete from {place.table} where collection = $1 and id = any($2) returning id), "
        "logged as (insert into pm_changes(collection, ids) select $1, array_agg(id) from gone having count(*) > 0) "
        "select count(*) from gone",
        number, sorted(ids),
    )  # fmt: skip
    return int(rows[0][0])


async def clear(runner: Runner, place: Place) -> int:
    """Remove a collection with its rows; how many there were."""
    async with runner.unit() as link:
        number = await find(link.fetch, place)
        if number is None:
            return 0
        await link.fetch("delete from pm_collections where collection = $1", number)
        return await _remove(link, place.table, [number])


async def drop_namespace(link: Link, prefix: str) -> int:
    """The same for all collections at or below a namespace."""
    gone = await link.fetch(
        "delete from pm_collections where namespace >= $1 and ($2 = '' or namespace < $2) returning collection, contract",
        prefix, subtree_end(prefix),
    )  # fmt: skip
    kinds = [(table, [number for number, kind in gone if kind == contract]) for contract, table in TABLES.items()]
    return sum([await _remove(link, table, numbers) for table, numbers in kinds if numbers])


async def count(runner: Runner, place: Place, where: Filter | None) -> int:
    number = await find(runner.fetch, place)
    if number is None:
        return 0
    values = Values([number])
    condition = satisfying(where, values)
    query = f"select count(*) from {place.table} where collection = $1 and {condition}"
    return int((await runner.fetch(query, *values))[0][0])


async def page(
    runner: Runner, place: Place, columns: str, *, after: str | None, limit: int, where: Filter | None
) -> Page[Any]:
    """Rows in order of id; the first column is the id."""
    number = await find(runner.fetch, place)
    if number is None:
        return Page([], None)
    values = Values([number, after or ""])
    condition = satisfying(where, values)
    query = f"select {columns} from {place.table} where collection = $1 and id > $2 and {condition} order by id limit"
    rows = await runner.fetch(f"{query} {values.add(limit, 'bigint')}", *values)
    return Page(rows, rows[-1][0] if len(rows) == limit else None)


async def get(runner: Runner, numbers: Numbers, place: Place, columns: str, ids: Sequence[str]) -> list[Any]:
    query = f"select {columns} from {place.table} where collection = $1 and id = any($2)"
    return await numbers.rows(runner.fetch, place, lambda number: runner.fetch(query, number, list(ids)))


async def _remove(link: Link, table: str, numbers: Sequence[int]) -> int:
    await link.fetch("delete from pm_changes where collection = any($1)", numbers)
    statement = f"with gone as (delete from {table} where collection = any($1) returning 1) select count(*) from gone"
    return int((await link.fetch(statement, numbers))[0][0])


async def trim(runner: Runner) -> None:
    """Forget changes of a day ago, by the server's clock."""
    await runner.fetch("delete from pm_changes where at < extract(epoch from clock_timestamp()) * 1000000 - $1", _DAY)
