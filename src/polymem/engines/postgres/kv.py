"""Key-value records in `pm_kv` (KV-1, KV-2, KV-9)."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from polymem.contracts.kv import MAX_INTEGER, Item, KVFeatures, Record
from polymem.contracts.query import is_document
from polymem.core.clock import Clock
from polymem.core.page import Page
from polymem.core.text import prefix_end
from polymem.engines.postgres._runner import Runner
from polymem.engines.postgres._schema_events import CLEARED
from polymem.engines.postgres._traffic import DELETE, GET, INSERT, LIVE, PUT, Put, Traffic, is_live, put_many
from polymem.errors import StorageDataError

_COLUMNS: Final = "body, data, codec, version, created_at, updated_at, expires_at"
_ENTRY: Final = f"select {_COLUMNS} from pm_kv where namespace = $1 and key = $2 and {LIVE.format('$3')}"
# each key is looked up by itself, whatever the planner thinks of the table
_GET_MANY: Final = f"""
select wanted.key, found.* from unnest($2::text[]) as wanted(key) cross join lateral (
    select body, data, codec from pm_kv where namespace = $1 and key = wanted.key and {LIVE.format("$3")} limit 1
) as found"""
_CREATE: Final = f"{INSERT}excluded.updated_at where pm_kv.expires_at <= excluded.updated_at returning 1"
_SET: Final = "update pm_kv set body = $3, data = $4, codec = $5, version = $6, updated_at = $7"
_UPDATE: Final = f"{_SET} where namespace = $1 and key = $2 and {LIVE.format('$7')} returning 1"
_REPLACE: Final = (
    f"{_SET}, expires_at = $8 where namespace = $1 and key = $2 and version = $9 and {LIVE.format('$7')} returning 1"
)
_TOUCH: Final = (
    f"update pm_kv set expires_at = $4 where namespace = $1 and key = $2 and {LIVE.format('$3')} returning 1"
)
_GONE: Final = f"returning expires_at) select count(*) from gone where {LIVE.format('$2')}"
_CLEAR: Final = (
    f"with mark as materialized ({CLEARED}), gone as (delete from pm_kv using mark where namespace = $1 {_GONE}"
)
_DELETE_MANY: Final = f"with gone as (delete from pm_kv where namespace = $1 and key = any($3) {_GONE}"
_OLD: Final = "(case when pm_kv.expires_at <= $5 then 0 else pm_kv.body::numeric end)"
_INTEGER: Final = "(pm_kv.codec = 'json' and pm_kv.body ~ '^-?[0-9]+$')"
_INCREMENT: Final = f"""
insert into pm_kv(namespace, key, body, codec, version, created_at, updated_at)
values ($1, $2, $3::bigint::text, 'json', $4, $5, $5) on conflict (namespace, key) do update set
body = ({_OLD} + $3)::text, data = null, codec = 'json', version = $4, updated_at = $5,
created_at = case when pm_kv.expires_at <= $5 then $5 else pm_kv.created_at end,
expires_at = case when pm_kv.expires_at <= $5 then null else pm_kv.expires_at end
where pm_kv.expires_at <= $5
or case when {_INTEGER} then {_OLD} + $3 between {-MAX_INTEGER - 1} and {MAX_INTEGER} else false end
returning body"""
_ESCAPED: Final = ("\\u0000", "\\ud", "\\uD")
"""What PostgreSQL cannot read in JSON, or only in pairs; our own codec writes none of it."""


class PostgresKV:
    """One namespace of `pm_kv`. Outside transactions single gets, puts and deletes share batches."""

    features = KVFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str, traffic: Callable[[], Traffic] | None) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace
        self._traffic = traffic
        self._fetch = runner.fetch

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        name = (self._namespace, key)
        if self._traffic is not None:
            row = await self._traffic().get(name)
        else:
            row = next(iter(await self._fetch(GET, *name)), None)
        if row is None:
            return None
        body, data, codec, expires_at = row
        if expires_at is not None and expires_at <= self._clock.now():
            return None
        return body.encode() if data is None else data, codec

    async def entry(self, key: str, /) -> Record | None:
        rows = await self._fetch(_ENTRY, self._namespace, key, self._clock.now())
        return _record(rows[0]) if rows else None

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        rows = await self._fetch(_GET_MANY, self._namespace, keys, self._clock.now())
        return {key: (_bytes(body, data), codec) for key, body, data, codec in rows}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        row = self._row(key, body, codec, version, expires_at)
        if self._traffic is not None:
            await self._traffic().write(row)
        else:
            await self._fetch(PUT, *row)

    async def put_many(self, items: Sequence[Item], /) -> None:
        await self._fetch(*put_many(self._row(*item) for item in items))

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        return bool(await self._fetch(_CREATE, *self._row(key, body, codec, version, expires_at)))

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return bool(await self._fetch(_UPDATE, *self._row(key, body, codec, version, None)[:7]))

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        return bool(await self._fetch(_REPLACE, *self._row(key, body, codec, version, expires_at), expected))

    async def delete(self, key: str, /) -> bool:
        if self._traffic is not None:
            return bool(await self._traffic().write((self._namespace, key)))
        rows = await self._fetch(DELETE, self._namespace, key)
        return any(is_live(row[0], self._clock.now()) for row in rows)

    async def delete_many(self, keys: Sequence[str], /) -> int:
        return int((await self._fetch(_DELETE_MANY, self._namespace, self._clock.now(), keys))[0][0])

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        rows = await self._fetch(_INCREMENT, self._namespace, key, delta, version, self._clock.now())
        if rows:
            return int(rows[0][0])
        found = await self.get(key)
        if found is not None and found[1] == "json" and found[0].removeprefix(b"-").isdigit():
            raise StorageDataError("the result is beyond 64 bits", field="delta")
        raise StorageDataError("the stored value is not an integer", field="key")

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        return bool(await self._fetch(_TOUCH, self._namespace, key, self._clock.now(), expires_at))

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        condition, values = self._range(prefix)
        if after is not None:
            condition, values = f"{condition} and key > ${len(values) + 1}", [*values, after]
        query = f"select key, {_COLUMNS} from pm_kv where {condition} order by key limit ${len(values) + 1}"
        rows = await self._fetch(query, *values, limit)
        return Page([(row[0], _record(row[1:])) for row in rows], rows[-1][0] if len(rows) == limit else None)

    async def count(self, prefix: str, /) -> int:
        condition, values = self._range(prefix)
        return int((await self._fetch(f"select count(*) from pm_kv where {condition}", *values))[0][0])

    async def clear(self) -> int:
        return int((await self._fetch(_CLEAR, self._namespace, self._clock.now()))[0][0])

    def _row(self, key: str, body: bytes, codec: str, version: int, expires_at: int | None) -> Put:
        text = _document(body, codec)
        data = body if text is None else None
        return self._namespace, key, text, data, codec, version, self._clock.now(), expires_at

    def _range(self, prefix: str) -> tuple[str, list[Any]]:
        """The live records whose keys start with `prefix`."""
        condition, values = f"namespace = $1 and {LIVE.format('$2')}", [self._namespace, self._clock.now()]
        if prefix:
            condition, values = f"{condition} and key >= $3", [*values, prefix]
        if prefix and (end := prefix_end(prefix)) is not None:
            condition, values = f"{condition} and key < $4", [*values, end]
        return condition, values


def _document(body: bytes, codec: str) -> str | None:
    """The text of a JSON document that the server can look into, None for anything else."""
    if not is_document(codec):
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    if "\x00" in text or ("\\" in text and any(escape in text for escape in _ESCAPED)):
        return None
    return text


def _bytes(body: str | None, data: bytes | None) -> bytes:
    return data if body is None else body.encode()  # type: ignore[return-value]  # one of the two is there


def _record(row: Any) -> Record:
    body, data, *facts = row
    return Record(_bytes(body, data), *facts)
