"""Single gets, puts and deletes of all namespaces, sent together when there are many (core/batch.py).

Writes have one batcher, so that a key keeps its order; a batch that both puts and deletes is one transaction.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from secrets import token_hex
from typing import Any, Final

from polymem.core.batch import Batcher
from polymem.core.clock import Clock
from polymem.engines.postgres._errors import translate
from polymem.engines.postgres._runner import PoolRunner

LIVE: Final = "(expires_at is null or expires_at > {})"
GET: Final = "select body, data, codec, expires_at from pm_kv where namespace = $1 and key = $2"
# several texts travel as one, separated by $1 (see `joined`)
# each name is looked up by itself, whatever the planner thinks of the table
_GET_MANY: Final = """
select wanted.number, found.* from unnest(string_to_array($2, $1), string_to_array($3, $1))
with ordinality as wanted(namespace, key, number)
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
insert into pm_kv({_COLUMNS})
select namespace, key, body, {{}}, codec, version::bigint, $2::bigint, $2, expires_at::bigint
from unnest(string_to_array($3, $1), string_to_array($4, $1), string_to_array($5, $1), string_to_array($6, $1),
string_to_array($7, $1, ''), {{}}) as given(namespace, key, codec, version, expires_at, body{{}}){_OVER}{_AGED}"""
_PUT_DOCUMENTS: Final = _PUT_MANY.format("null", "string_to_array($8, $1)", "")
_PUT_ANYTHING: Final = _PUT_MANY.format("data", "$8::text[], $9::bytea[]", ", data")
DELETE: Final = "delete from pm_kv where namespace = $1 and key = $2 returning expires_at"
_DELETE_MANY: Final = """
delete from pm_kv using unnest($1::text[], $2::text[]) with ordinality as given(namespace, key, number)
where pm_kv.namespace = given.namespace and pm_kv.key = given.key returning given.number, pm_kv.expires_at"""
_PARTS: Final = 2
"""Of a name."""
_FLIGHTS: Final = 2
"""Batches under way at once, each on a connection of its own."""
_LARGE: Final = 50_000
"""Bytes of a record that is written by itself: the server works longer for it than a round trip and a sync take."""
_SEPARATOR: Final = "\x1f"
_OVERHEAD: Final = 100
"""Bytes of a record besides its key and body."""

Name = tuple[str, str]
"""Namespace and key."""
Put = tuple[str, str, str | None, bytes | None, str, int, int, int | None]
"""A record to write: namespace, key, body, data, codec, version, now, expires_at, the parameters of `PUT`."""
Write = Put | Name
"""A name is to be deleted."""


class Traffic:
    """The two batchers of an open engine."""

    def __init__(self, runner: PoolRunner, clock: Clock) -> None:
        self._runner, self._pool, self._clock = runner, runner.pool, clock
        self._point = runner.point
        flights = min(_FLIGHTS, self._pool.figures()["max_size"])
        self._reads: Batcher[Name, Any] = Batcher(
            self._get, self._get_many, size=len, translate=translate, flights=flights
        )
        self._writes: Batcher[Write, Any] = Batcher(
            self._write,
            self._write_many,
            size=_size_of_write,
            translate=translate,
            flights=flights,
            keys=_names,
            syncs=True,
            large=_LARGE,
            singles=max(self._pool.figures()["max_size"] - flights, 1),
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
        found: dict[Name, Any] = dict.fromkeys(names)
        if len(found) == 1:
            return [await self._get(names[0])] * len(names)
        wanted = [*found]
        for row in await self._point(_GET_MANY, *joined(*zip(*wanted, strict=True))):
            found[wanted[row[0] - 1]] = row[1:]
        return [found[name] for name in names]

    def _write(self, write: Write) -> Awaitable[Any]:
        return self._delete(write) if len(write) == _PARTS else self._point(PUT, *write)

    async def _delete(self, name: Name) -> bool:
        rows = await self._point(DELETE, *name)
        return any(is_live(row[0], self._clock.now()) for row in rows)

    async def _write_many(self, writes: Sequence[Write]) -> Sequence[bool]:
        """Of each delete, whether something was there."""
        puts = [write for write in writes if len(write) != _PARTS]
        if len(puts) == len(writes):
            await self._point(*put_many(puts))
            return [True] * len(writes)
        waves, done = list(_waves(writes)), [False] * len(writes)
        if len(waves) == 1 and not waves[0].puts:
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
        if name in (self.puts if len(write) == _PARTS else self.deletes):
            return False
        if len(write) == _PARTS:
            self.deletes.setdefault(name, place)
        else:
            self.puts[name] = write
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
    """The statement that writes the last of each key, and its parameters.

    Keys come in order, so that two batches never wait for each other in a circle.
    """
    last = {put[:2]: put for put in puts}
    rows = [last[name] for name in sorted(last)]
    if len(rows) == 1:
        return (PUT, *rows[0])
    namespaces, keys, bodies, data, codecs, versions, nows, expiries = zip(*rows, strict=True)
    ends = ["" if one is None else str(one) for one in expiries]
    texts = [namespaces, keys, codecs, [*map(str, versions)], ends]
    if data.count(None) == len(data) and max(map(len, bodies)) < _LARGE:  # the server is slow to take large texts apart
        separator, *given = joined(*texts, bodies)
        return (_PUT_DOCUMENTS, separator, max(nows), *given)
    separator, *given = joined(*texts)
    return (_PUT_ANYTHING, separator, max(nows), *given, bodies, data)


def joined(*columns: Sequence[str]) -> list[str]:
    """A separator, and each column as one string, which costs the client a fifth of an array.

    There must be two texts at least: nothing and one empty text would look alike.
    """
    separator = _SEPARATOR
    while True:
        texts = [separator.join(column) for column in columns]
        if all(text.count(separator) < len(columns[0]) for text in texts):
            return [separator, *texts]
        separator = _SEPARATOR + token_hex(8)  # one of them contains it


def is_live(expires_at: int | None, now: int) -> bool:
    return expires_at is None or expires_at > now


def _names(write: Write) -> tuple[Name]:
    return (write[:2],)


def _size_of_write(write: Write) -> int:
    return _OVERHEAD if len(write) == _PARTS else _OVERHEAD + len(write[2] or write[3] or b"")
