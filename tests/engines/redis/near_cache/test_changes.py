"""The near cache over Redis: what others write is heard in time (CCH-2)."""

from typing import Any

import pytest
import servers
from engines import near_cache as scenes
from engines.near_cache import SCENES, NewStore
from engines.redis.marks import integration
from engines.redis.near_cache.told import told
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from polymem.engines.redis._keys import names
from polymem.engines.redis._tracking import records
from polymem.store import Store


@integration
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_what_every_server_tells(cached: Store, store: Store, scene: Any) -> None:
    await scene(cached, store, told)


@integration
async def test_as_it_is_without_a_policy(new_cached: NewStore, store: Store) -> None:
    async with new_cached(max_staleness=None) as cached:
        await scenes.namespaces_that_are_dropped(cached, store, told)


@integration
async def test_another_process(cached: Store, prefix: str) -> None:
    await scenes.another_process(cached, told, servers.url("redis"), f"prefix={prefix}")


@integration
async def test_own_writes(cached: Store) -> None:
    await scenes.own_writes(cached)


@integration
async def test_sealed_values_under_plain_keys(new_cached: NewStore, store: Store) -> None:
    """`store` removes what is left behind."""
    await scenes.sealed_values_under_plain_keys(new_cached, told)


@integration
async def test_what_is_not_possible(new_cached: NewStore) -> None:
    await scenes.what_is_not_possible(new_cached)


@integration
async def test_other_programs(cached: Store, prefix: str) -> None:
    """What redis-cli removes is told as well."""
    await cached.kv.put("a", 1)
    await told(cached)
    assert await cached.kv.get("a") == 1
    async with Redis.from_url(servers.url("redis")) as client:
        await client.delete(names(prefix, "").records + b"a")
    await told(cached)
    assert await cached.kv.get("a") is None


@integration
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_client_that_was_given(new_cached: NewStore, store: Store, protocol: int) -> None:
    client = Redis.from_url(servers.url("redis"), protocol=protocol)
    async with new_cached(options={"client": client}) as cached:
        await store.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        await store.kv.put("a", 2)
        await told(cached)
        assert await cached.kv.get("a") == 2
    await client.aclose()


@given(st.text(), st.text())
def test_what_a_key_may_be(namespace: str, key: str) -> None:
    """The record meant is always among those told."""
    held = names("p", namespace.encode("utf-8", "replace").decode())
    name = key.encode("utf-8", "replace")
    assert (namespace.encode("utf-8", "replace").decode(), name.decode()) in set(records(b"p:{/", held.records + name))


def test_keys_that_hold_no_record() -> None:
    held = names("p", "n")
    for key in (held.keys, held.log, held.turns + b"s", b"p:namespaces"):
        assert not list(records(b"p:{/", key))
