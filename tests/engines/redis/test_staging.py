"""Large records, which wait as values of their own until a script takes them (KV-1, KV-4, G-8)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import servers
from engines.redis.marks import integration
from hiredis import pack_command
from redis.asyncio import Redis

from polymem.engines.redis import _line
from polymem.engines.redis._keys import registry
from polymem.engines.redis._line import Command
from polymem.engines.redis._record import LARGE
from polymem.errors import StorageConflictError
from polymem.store import Store

SIZES = (1, LARGE - 100, LARGE - 3, LARGE - 2, 3 * LARGE, 100_000)
"""Characters; with the quotes of the JSON text two of these are the last small one and the first large one."""


def server(store: Store) -> Any:
    return store.engine._server  # type: ignore[attr-defined]


async def keys(prefix: str) -> set[bytes]:
    """Every key of the test."""
    async with Redis.from_url(servers.url("redis")) as client:
        return {key async for key in client.scan_iter(f"{prefix}:*", count=1000)}


@pytest.fixture
def sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """What the store says to the server from now on."""
    said: list[Command] = []

    def noted(command: Command) -> Command:
        said.append(command)
        return command

    intercept(store, monkeypatch, noted)
    return said


def intercept(store: Store, monkeypatch: pytest.MonkeyPatch, change: Callable[[Command], Command]) -> None:
    """Have each command changed before it is sent."""
    calls = server(store).link.calls

    async def changed(commands: Sequence[Command], *, finish: bool) -> list[Any]:
        return list(await calls([change(command) for command in commands], finish=finish))

    monkeypatch.setattr(server(store).link, "calls", changed)


@integration
@pytest.mark.parametrize("old", [None, *SIZES])
@pytest.mark.parametrize("new", SIZES)
@pytest.mark.parametrize("lasts", [True, False])
async def test_records_of_every_size_replace_each_other(
    store: Store, prefix: str, old: int | None, new: int, lasts: bool
) -> None:
    driver: Any = store.engine.drivers("").kv
    now = server(store).clock.now()
    ends = None if lasts else now + 900_000_000
    if old is not None:
        await driver.put("k", b'"%b"' % (b"o" * old), "json", version=1, expires_at=now + 10**9)
    first = await driver.entry("k")
    await driver.put("k", b'"%b"' % (b"n" * new), "json", version=2, expires_at=ends)
    found = await driver.entry("k")
    assert found[:3] == (b'"%b"' % (b"n" * new), "json", 2)
    assert found.expires_at == ends
    assert found.created_at == (first or found).created_at
    life = await server(store).call("PTTL", driver._prefix + b"k")
    assert life == -1 if lasts else 800_000 < life <= 901_000
    await driver.delete("k")
    assert await keys(prefix) <= {registry(prefix)}, "nothing is left to wait"


@integration
async def test_no_script_is_given_a_large_record(store: Store, sent: list[Command], prefix: str) -> None:
    values = {f"k{number}": "x" * size for number, size in enumerate(SIZES)}
    await store.kv.put_many(values)
    await asyncio.gather(*(store.kv.put(key, value + "y") for key, value in values.items()))
    version = (await store.kv.entry("k5")).version  # type: ignore[union-attr]
    await store.kv.compare_and_set("k5", version, "z" * 50_000, ttl=900)
    await store.kv.create("new", "n" * 50_000)
    scripts = [command for command in sent if command[0] in {"EVAL", "EVALSHA"}]
    assert max(len(word) for command in scripts for word in command[3:] if isinstance(word, bytes)) < LARGE + 100
    expected = {key: value + "y" for key, value in values.items()} | {"k5": "z" * 50_000, "new": "n" * 50_000}
    assert await store.kv.get_many(expected) == expected
    assert len(await keys(prefix)) == len(expected) + 3, "the registry and two indexes, and nothing that waits"


@integration
async def test_an_update_keeps_the_expiry(store: Store) -> None:
    driver: Any = store.engine.drivers("").kv
    ends = server(store).clock.now() + 900_000_000
    for size in SIZES:
        await driver.put("k", b'"small"', "json", version=1, expires_at=ends)
        before = await driver.entry("k")
        assert await driver.update("k", b'"%b"' % (b"x" * size), "json", version=2)
        after = await driver.entry("k")
        assert after[:4] == (b'"%b"' % (b"x" * size), "json", 2, before.created_at)
        assert after.expires_at == ends
        assert 800_000 < await server(store).call("PTTL", driver._prefix + b"k") <= 901_000


@integration
async def test_what_a_condition_refuses_waits_no_longer(store: Store, prefix: str) -> None:
    await store.kv.put("k", "x" * 10_000)
    before = await keys(prefix)
    for call in (store.kv.create("k", "y" * 10_000), store.kv.compare_and_set("k", 1, "y" * 10_000)):
        with pytest.raises(StorageConflictError):
            await call
    assert await keys(prefix) == before
    assert await store.kv.get("k") == "x" * 10_000


@integration
async def test_what_is_lost_before_the_script_comes_is_sent_with_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be evicted, or a slot of a Cluster may move in between. Either all of a call is written or nothing."""

    def lost(command: Command) -> Command:
        return ("PING",) if command[0] == "SET" and b"51" in bytes(command[2]) else command  # type: ignore[arg-type]

    intercept(store, monkeypatch, lost)
    values = {"first": "4" * 10_000, "lost": "51" * 5_000, "small": 1}
    await store.kv.put_many(values)
    await store.kv.put("alone", "51" * 5_000)
    await store.kv.create("new", "51" * 6_000, ttl=900)
    assert await store.kv.get_many([*values, "alone", "new"]) == values | {"alone": "51" * 5_000, "new": "51" * 6_000}
    assert (await store.kv.entry("new")).expires_at is not None  # type: ignore[union-attr]
    assert await store.kv.count() == 5


@integration
async def test_a_server_that_forgot_its_scripts_takes_what_waits(store: Store, prefix: str) -> None:
    await store.kv.put("k", "x" * 10_000)
    before = await keys(prefix)
    await server(store).call("SCRIPT", "FLUSH")
    await store.kv.put("k", "y" * 20_000)
    assert await store.kv.get("k") == "y" * 20_000
    assert await keys(prefix) == before


@integration
async def test_a_transaction_conflicts_with_a_large_record(store: Store) -> None:
    """TXN-3: what is renamed to a key changes it."""
    await store.kv.put("k", 1)
    another: Any = store.engine.drivers("").kv
    with pytest.raises(StorageConflictError):
        async with store.transaction() as tx:
            await tx.kv.get("k")
            await another.put("k", b'"%b"' % (b"x" * 10_000), "json", version=2, expires_at=None)
            await tx.kv.put("k", 2)
    assert await store.kv.get("k") == "x" * 10_000


class Heard:
    """Who is told of writes."""

    def __init__(self) -> None:
        self.names: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def changed(self, namespace: str, key: str) -> None:
        self.names.put_nowait((namespace, key))

    def drop(self) -> None: ...


@integration
async def test_a_near_cache_hears_of_a_large_record(store: Store) -> None:
    """CCH-2."""
    heard: Any = Heard()
    tracking = await server(store).track(heard, 10).open()
    await store.kv.put("k", "x" * 10_000)
    async with asyncio.timeout(30):
        assert await heard.names.get() == ("", "k")
    await tracking.close()


@pytest.mark.parametrize("size", [0, 5, 40_000])
@pytest.mark.parametrize("key", [b"k", b"$0\r\n\r\n"])
def test_a_large_value_is_not_copied_and_the_bytes_are_the_same(size: int, key: bytes) -> None:
    value = bytes(size)
    commands: list[Command] = [("GET", "a"), ("SET", key, value, "PX", 5), ("SET", key, value), ("DEL", key)]
    pieces = _line._pieces(commands)
    assert b"".join(pieces) == b"".join(map(pack_command, commands))  # type: ignore[arg-type]
    assert [piece is value for piece in pieces].count(True) == (2 if size == 40_000 else 0)
