"""The redis engine: Redis 6.2 or later, single, behind Sentinels or a Cluster."""

from collections.abc import Mapping
from typing import Any, Final

from polymem.contracts.drivers import Drivers
from polymem.core.clock import MICROSECONDS, Clock
from polymem.core.engine import Health, Hearer
from polymem.core.page import Page
from polymem.engines.redis._address import OPTIONS, Address, TurnOptions, parse, turn_options
from polymem.engines.redis._errors import translate
from polymem.engines.redis._keys import lease, names, registry
from polymem.engines.redis._line import Word
from polymem.engines.redis._scripts import LEASE, SWEEP
from polymem.engines.redis._server import Server
from polymem.engines.redis._tracking import Tracking
from polymem.engines.redis._turn_scripts import SWEEP_TURNS
from polymem.engines.redis.events import RedisEvents
from polymem.engines.redis.kv import RedisKV
from polymem.engines.redis.transactions import RedisTransactions
from polymem.engines.redis.turns import RedisTurns
from polymem.errors import StorageDataError, StorageError

_PAGE: Final = 500


def from_url(url: str, **options: Any) -> "RedisEngine":
    """`redis://`, `rediss://` (TLS), `redis+cluster://` and `redis+sentinel://host,host/service`; options as in the
    engine's documentation, in the URL's query or by name.
    """
    address, rest = parse(url, options)
    turns = turn_options(rest)
    unknown = rest.keys() - {"clock", "prefix"}
    if unknown:
        name = min(unknown)
        known = "it is for rediss:// only" if name in OPTIONS else f"there are {', '.join(sorted(OPTIONS))}"
        raise StorageDataError(f"unknown option {name}; {known}", field=name)
    return RedisEngine(address, turns=turns, **rest)


class RedisEngine:
    """Many stores may share a server, and a database of it, if their `prefix` differs."""

    name = "redis"
    remote = True

    def __init__(
        self,
        address: Address,
        *,
        prefix: str = "polymem",
        turns: TurnOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(prefix, str) or not prefix or {"{", "}"} & set(prefix):
            raise StorageDataError("expected some text without braces", field="prefix")
        self._prefix = prefix
        self._turn_options = turns or TurnOptions()
        self._server = Server(address, clock, prefix)
        self._cluster = address.is_cluster
        self.clock: Clock = self._server.clock

    async def open(self) -> None:
        await self._server.open()

    async def close(self) -> None:
        await self._server.close()

    def drivers(self, namespace: str, /) -> Drivers:
        server, prefix = self._server, self._prefix
        return Drivers(
            kv=RedisKV(server, prefix, namespace),
            turns=RedisTurns(server, prefix, namespace, self._turn_options),
            events=RedisEvents(server, prefix, namespace),
            transactions=None if self._cluster else RedisTransactions(server, self._turn_options),
        )

    def translate(self, error: Exception, /) -> StorageError | None:
        return translate(error)

    def pool_status(self) -> Mapping[str, int] | None:
        return self._server.status()

    def details(self) -> Mapping[str, Any] | None:
        if self._server.status() is None:
            return None
        version = self._server.info["redis_version"]
        return {"server_version": version, "mode": self._mode, "durable": self._server.durable}

    async def follow_changes(self, hearer: Hearer, within: float, /) -> Tracking:
        return await self._server.track(hearer, within).open()

    async def probe(self) -> str:
        return await self._server.version_alone()

    async def lease(self, name: str, holder: str, seconds: float, /) -> bool:
        """Every open store asks now and then, and sets its clock right by the way."""
        await self._server.refresh()
        now = self.clock.now()
        until = now + round(seconds * MICROSECONDS)
        arguments: list[Word] = [holder, now, until, self._server.life([until], now)]
        return bool(await self._server.run(LEASE, [lease(self._prefix, name)], arguments))

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        found: list[str] = []
        while True:
            listed = await self._registered(prefix, after, _PAGE)
            for name in await self._holding(listed):
                if len(found) == limit:
                    return Page(found, found[-1] if found else None)
                found.append(name)
            if len(listed) < _PAGE:
                return Page(found, None)
            after = listed[-1]

    async def drop_namespace(self, prefix: str, /) -> int:
        """One namespace after the other; each of up to 1,000 records at once."""
        return sum([await self._clear(name) for name in await self._all_registered(prefix)])

    async def delete_expired(self, limit: int, /) -> int:
        """Redis removes what has expired by itself; this removes it from the indexes too, and counts it."""
        await self._server.refresh()
        removed = 0
        for name in await self._ripe(await self._all_registered("")):
            removed += await self._sweep(name, limit - removed)
            if removed >= limit:
                break
        return removed

    async def purge(self) -> None:
        """Rewrite the append-only file where there is one; replicas and snapshots are the operator's."""
        await self._server.forget()

    async def check(self) -> Health:
        version = await self._server.version()
        info = self._server.info
        problems = _problems(info)
        details = {
            "mode": self._mode,
            "memory_bytes": int(info.get("used_memory", 0)),
            "durable": self._server.durable,
            "pool": dict(self._server.status() or {}),
        }
        return Health(self.name, version, not problems, problems, details)

    @property
    def _mode(self) -> str:
        return "cluster" if self._cluster else self._server.info.get("redis_mode", "standalone")

    async def _clear(self, namespace: str) -> int:
        turns = RedisTurns(self._server, self._prefix, namespace, self._turn_options)
        return await RedisKV(self._server, self._prefix, namespace).clear() + await turns.clear_all()

    async def _ripe(self, namespaces: list[str]) -> list[str]:
        """Those with something expired, found out for many at once."""
        now, found = self.clock.now(), []
        for at in range(0, len(namespaces), _PAGE):
            some = namespaces[at : at + _PAGE]
            held = [names(self._prefix, name) for name in some]
            counts = await self._server.calls(
                [("ZCOUNT", key, "-inf", now) for one in held for key in (one.expiries, one.expiring)]
            )
            found += [name for number, name in enumerate(some) if any(counts[2 * number : 2 * number + 2])]
        return found

    async def _sweep(self, namespace: str, limit: int) -> int:
        held, now = names(self._prefix, namespace), self.clock.now()
        records = await self._server.run(SWEEP, [held.keys, held.expiries, held.log], [now, held.records, limit])
        if records >= limit:
            return int(records)
        left = limit - records
        return int(
            records + await self._server.run(SWEEP_TURNS, [held.sessions, held.expiring], [now, held.turns, left])
        )

    async def _all_registered(self, prefix: str) -> list[str]:
        found: list[str] = []
        while True:
            listed = await self._registered(prefix, found[-1] if found else None, _PAGE)
            found += listed
            if len(listed) < _PAGE:
                return found

    async def _registered(self, prefix: str, after: str | None, limit: int) -> list[str]:
        low = b"(" + after.encode() if after is not None and after >= prefix else b"[" + prefix.encode()
        high = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
        listed = await self._server.call("ZRANGEBYLEX", registry(self._prefix), low, high, "LIMIT", 0, limit)
        return [name.decode() for name in listed]

    async def _holding(self, namespaces: list[str]) -> list[str]:
        """Those that have a record."""
        held = [names(self._prefix, name) for name in namespaces]
        counts = await self._server.calls([("EXISTS", one.keys, one.sessions) for one in held]) if held else []
        return [name for name, count in zip(namespaces, counts, strict=True) if count]


def _problems(info: Mapping[str, str]) -> list[str]:
    found = {
        "the last snapshot failed": info.get("rdb_last_bgsave_status", "ok") != "ok",
        "the last write to the append-only file failed": info.get("aof_last_write_status", "ok") != "ok",
        "the server may evict any key when its memory is full (maxmemory-policy)": info.get(
            "maxmemory_policy", ""
        ).startswith("allkeys"),
    }
    return [problem for problem, is_so in found.items() if is_so]
