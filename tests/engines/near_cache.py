"""Scenes of a near cache whose server tells what others write (CCH-2), the same over every engine that does.

`cached` is a store with a near cache, `store` another client of the same records without one, and `told` returns when
the former has been told of everything that is acknowledged by then.
"""

import asyncio
import inspect
import math
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from polymem.errors import StorageConnectionError, StorageTimeoutError, StorageUnsupportedError
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.store import Store

Told = Callable[[Store], Awaitable[None]]
NewStore = Callable[..., Store]
PATIENCE = 30.0
KEYRING = Keyring(Key("k", bytes(32)), names=bytes(range(32)))


def listening(store: Store) -> Any:
    return store.engine._following  # type: ignore[attr-defined]


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; a server that is too busy to answer says no."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        with suppress(OSError):
            if holds():
                return
        await asyncio.sleep(0.005)
    pytest.fail(f"not within {PATIENCE:g} s: {inspect.getsource(holds)}")


async def hits(store: Store, read: Callable[[], Awaitable[Any]]) -> int:
    before = store.cache.statistics()
    await read()
    after = store.cache.statistics()
    return after.hits + after.negative_hits - before.hits - before.negative_hits


async def reads_are_hits_until_somebody_writes(cached: Store, store: Store, told: Told) -> None:
    """Each write of another client, absence and expiry included, is seen once it has been told."""
    kv, other = cached.kv, store.kv
    writes: list[tuple[Callable[[], Awaitable[Any]], Any]] = [
        (lambda: other.put("a", 1), 1),
        (lambda: other.put_many({"a": 2, "b": 2}), 2),
        (lambda: other.increment("a"), 3),
        (lambda: other.update("a", 4), 4),
        (lambda: other.delete("a"), None),
        (lambda: other.create("a", 5, ttl=900), 5),
        (lambda: other.clear(), None),
        (lambda: store.run_in_transaction(lambda tx: tx.kv.put("a", 6)), 6),
    ]
    await told(cached)
    for write, expected in writes:
        await kv.get("a")
        assert await hits(cached, lambda: kv.get("a")) == 1
        await write()
        await told(cached)
        assert await kv.get("a") == expected


async def namespaces_that_are_dropped(cached: Store, store: Store, told: Told) -> None:
    for step in range(5):
        await store.namespace("n").kv.put("a", step)
        await told(cached)
        assert await cached.namespace("n").kv.get("a") == step
    await store.drop_namespace("n")
    await told(cached)
    assert await cached.namespace("n").kv.get("a") is None


async def the_expiry_that_another_client_sets(cached: Store, store: Store, told: Told) -> None:
    await store.kv.put("a", 1)
    await told(cached)
    assert await cached.kv.ttl("a") is None
    await store.kv.touch("a", ttl=900)
    await told(cached)
    assert (await cached.kv.ttl("a") or 0) > 800


_OTHER = """
import asyncio, sys
import polymem

async def main():
    options = dict(option.split("=", 1) for option in sys.argv[2:])
    async with polymem.open(sys.argv[1], sweep_every=None, **options) as store:
        print("ready", flush=True)
        for line in sys.stdin:
            await store.namespace("n").kv.put("a", int(line))
            print("done", flush=True)

asyncio.run(main())
"""


async def another_process(cached: Store, told: Told, url: str, *options: str) -> None:
    """Options are texts such as `prefix=p`."""
    command = [sys.executable, "-c", _OTHER, url, *options]
    process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(number: int) -> None:
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    inside = cached.namespace("n").kv
    with process:
        assert process.stdout.readline() == "ready\n"
        for step in range(20):
            await inside.get("a")
            await asyncio.to_thread(say, step)
            await told(cached)
            assert await inside.get("a") == step
        process.stdin.close()


async def only_what_was_written_goes(cached: Store, store: Store, told: Told) -> None:
    for name in ("", "n", "n/m"):
        await store.namespace(*name.split("/")).kv.put("a", 1) if name else await store.kv.put("a", 1)
    await told(cached)
    spaces = [cached, cached.namespace("n"), cached.namespace("n", "m")]
    for space in spaces:
        await space.kv.get("a")
    await store.namespace("n").kv.put("a", 2)
    await store.turns.append("a", "user", "x")
    await told(cached)
    assert [await hits(cached, lambda space=space: space.kv.get("a")) for space in spaces] == [1, 0, 1]  # type: ignore[misc]


async def never_staler_than_told(cached: Store, store: Store, told: Told) -> None:
    """A store with a cache and one without write at random; what is read is never older than what was told."""
    chance = random.Random(11)
    keys = [f"k{number}" for number in range(4)]
    for step in range(300):
        key, writer = chance.choice(keys), chance.choice((cached, store))
        await asyncio.gather(*(cached.kv.get(key) for key in keys))
        await writer.kv.put(key, step)
        if writer is store:
            await told(cached) if step % 10 == 0 else await cached.kv.get(chance.choice(keys))
        if writer is cached or step % 10 == 0:
            assert await cached.kv.get(key) == step
    await told(cached)
    for key in keys:
        assert await cached.kv.get(key) == await store.kv.get(key)


SCENES = (
    reads_are_hits_until_somebody_writes,
    namespaces_that_are_dropped,
    the_expiry_that_another_client_sets,
    only_what_was_written_goes,
    never_staler_than_told,
)


async def own_writes(cached: Store) -> None:
    """They are told like anybody's: read once more, then cached."""
    for step in range(50):
        await cached.kv.put("a", step)
        assert await cached.kv.get("a") == step
        assert await cached.kv.get("a") == step


async def sealed_values_under_plain_keys(new_cached: NewStore, told: Told) -> None:
    layers = [Encryption(KEYRING)]
    async with new_cached(layers=layers) as cached, new_cached(layers=layers) as other:
        await other.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        await other.kv.put("a", 2)
        await told(cached)
        assert await cached.kv.get("a") == 2


async def what_is_not_possible(new_cached: NewStore) -> None:
    """To be told of hidden names, or at once; and nobody is told who is alone."""
    with pytest.raises(StorageUnsupportedError, match="max_staleness"):
        new_cached(max_staleness=0)
    hidden = [Encryption(KEYRING, hide_keys=True)]
    with pytest.raises(StorageUnsupportedError, match="max_staleness"):
        new_cached(layers=hidden, max_staleness=None)
    async with new_cached(layers=hidden, max_staleness=5) as aging:
        assert listening(aging) is None
    async with new_cached(max_staleness=math.inf) as alone:
        assert listening(alone) is None


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, once every connection is well again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await call()
            except (StorageConnectionError, StorageTimeoutError):
                await asyncio.sleep(0.05)
