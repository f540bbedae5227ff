"""Single gets, puts and deletes of all namespaces, sent together when there are many (core/batch.py).

Writes have one batcher, so that a key keeps its order; a batch that both puts and deletes is one transaction.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from polymem.core.batch import Batcher
from polymem.core.clock import Clock
from polymem.engines.postgres._errors import translate
from polymem.engines.postgres._runner import PoolRunner

LIVE: Final = "(expires_at is null or expires_at > {})"
GET: Final = "select body, data, codec, expires_at from pm_kv where namespace = $1 and key = $2"
# each name is looked up by itself, whatever the planner thinks of the table
_GET_MANY: Final = """
select wanted.number, found.* from unnest($1::text[], $2::text[]) with ordinality as wanted(namespace, key, number)
cross join lateral (
    select body, data, codec, expires_at from pm_kv where namespace = wanted.namespace and key = wanted.key limit 1
) as found"""
_COLUMNS: Final = "namespace, key, body, data, codec, version, created_at, updated_at, expires_at"
_OVER: Final = """ on conflict (namespace, key) do update set body = excluded.body, data = excluded.data,
codec = excluded.codec, version = excluded.version, updated_at = excluded.updated_at, expires_at = excluded.expires_at,
created_at = """
_AGED: Final = "case when pm_kv.expires_at <= excluded.updated_at then excluded.updated_at else pm_kv.created_at end"
INSERT: Final = f"insert into pm_kv({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $7, $8){_OVER}"
PUT: Final = INSERT + _AGED
_PUT_MANY: Final = f"""
insert into pm_kv({_COLUMNS}) select namespace, key, body, {{}}, codec, version, $1, $1, expires_at
from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]{{}})
as given(namespace, key, body, codec, version, expires_at{{}}){_OVER}{_AGED}"""
_PUT_DOCUMENTS: Final = _PUT_MANY.format("null", "", "")
_PUT_ANYTHING: Final = _PUT_MANY.format("data", ", $8::bytea[]", ", data")
DELETE: Final = "delete from pm_kv where namespace = $1 and key = $2 returning expires_at"
_DELETE_MANY: Final = """
delete from pm_kv using unnest($1::text[], $2::text[]) with ordinality as given(namespace, key, number)
where pm_kv.namespace = given.namespace and pm_kv.key = given.key returning given.number, pm_kv.expires_at"""
_OVERHEAD: Final = 100
"""Bytes of a record besides its key and body."""

Name = tuple[str, str]
"""Namespace and key."""
Found = tuple[str | None, bytes | None, str, int | None]
"""Body, data, codec, expiry."""


class Put(NamedTuple):
    """A record to write, in the order of the parameters of `PUT`."""

    namespace: str
    key: str
    body: str | None
    data: bytes | None
    codec: str
    version: int
    now: int
    expires_at: int | None


Write = Put | Name
_name: Final = itemgetter(0, 1)


class Traffic:
    """The two batchers of an open engine."""

    def __init__(self, runner: PoolRunner, clock: Clock) -> None:
        self._runner, self._pool, self._clock = runner, runner.pool, clock
        self._point = runner.point
        self._reads: Batcher[Name, Any] = Batcher(self._get, self._get_many, size=len, translate=translate)
        self._writes: Batcher[Write, bool] = Batcher(
            self._write, self._write_many, size=_size_of_write, translate=translate
        )
        self.get, self.write = self._reads.submit, self._writes.submit

    async def close(self) -> None:
        """When every call already submitted is done."""
        await self._writes.close()
        await self._reads.close()

    async def _get(self, name: Name) -> Any:
        pool = self._pool
        link = pool.take() or await pool.acquire()
        try:
            rows = await link.point(GET, *name)
        except BaseException as error:
            await pool.settle(link, error)
            raise
        pool.release(link)
        return rows[0] if rows else None

    async def _get_many(self, names: Sequence[Name]) -> Sequence[Any]:
        places = dict.fromkeys(names)
        namespaces, keys = zip(*places, strict=True)
        wanted = list(places)
        for number, *found in await self._point(_GET_MANY, namespaces, keys):
            places[wanted[number - 1]] = found
        return [places[name] for name in names]

    async def _write(self, write: Write) -> bool:
        if isinstance(write, Put):
            await self._point(PUT, *write)
            return True
        rows = await self._point(DELETE, *write)
        return any(is_live(row[0], self._clock.now()) for row in rows)

    async def _write_many(self, writes: Sequence[Write]) -> Sequence[bool]:
        waves = list(_waves(writes))
        done = [isinstance(write, Put) for write in writes]
        if len(waves) == 1 and not (waves[0].puts and waves[0].deletes):
            await self._flush(waves[0], self._point, done)
        else:
            async with self._runner.unit() as link:
                for wave in waves:
                    await self._flush(wave, link.point, done)
        return done

    async def _flush(self, wave: "_Wave", fetch: Callable[..., Awaitable[list[Any]]], done: list[bool]) -> None:
        """Carry out a wave, and note which of its deletes removed something."""
        if wave.puts:
            await fetch(*put_many(wave.puts.values()))
        if wave.deletes:
            names, now = sorted(wave.deletes), self._clock.now()
            for number, expires_at in await fetch(_DELETE_MANY, *zip(*names, strict=True)):
                done[wave.deletes[names[number - 1]]] = is_live(expires_at, now)


class _Wave:
    """Writes that may be carried out at once, because no key is both put and deleted."""

    def __init__(self) -> None:
        self.puts: dict[Name, Put] = {}
        """The last of each key."""
        self.deletes: dict[Name, int] = {}
        """The place of the first of each key."""

    def add(self, place: int, write: Write) -> bool:
        name = write[:2]
        if name in (self.deletes if isinstance(write, Put) else self.puts):
            return False
        if isinstance(write, Put):
            self.puts[name] = write
        else:
            self.deletes.setdefault(name, place)
        return True


def _waves(writes: Sequence[Write]) -> Iterator[_Wave]:
    wave = _Wave()
    for place, write in enumerate(writes):
        if not wave.add(place, write):
            yield wave
            wave = _Wave()
            wave.add(place, write)
    yield wave


def put_many(puts: Iterable[Put]) -> tuple[Any, ...]:
    """The statement that writes them all, and its parameters; each costs the driver as much again, so they are few.

    Keys come in order, so that two batches never wait for each other in a circle.
    """
    namespaces, keys, bodies, data, codecs, versions, nows, expiries = zip(*sorted(puts, key=_name), strict=True)
    parameters = (max(nows), namespaces, keys, bodies, codecs, versions, expiries)
    return (_PUT_ANYTHING, *parameters, data) if any(one is not None for one in data) else (_PUT_DOCUMENTS, *parameters)


def is_live(expires_at: int | None, now: int) -> bool:
    return expires_at is None or expires_at > now


def _size_of_write(write: Write) -> int:
    if not isinstance(write, Put):
        return _OVERHEAD
    return _OVERHEAD + len(write.body if write.data is None and write.body is not None else write.data or b"")
