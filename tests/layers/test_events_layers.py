"""Watching and listening through cache, compression and encryption (EVT-1, LAY-1, LAY-2, CCH-1)."""

from pathlib import Path

import pytest

import polymem
from polymem.contracts._events_types import Event
from polymem.errors import StorageUnsupportedError
from polymem.layers.cache import CachePolicy
from polymem.layers.encryption import Encryption, Key, Keyring

pytestmark = pytest.mark.anyio
SECRET = "a-confidential-value"  # noqa: S105 - of the test
KEYRING = Keyring(Key("test", bytes(range(32))), names=bytes(32))


async def test_events_show_plain_values_and_the_file_does_not(tmp_path: Path) -> None:
    heard: list[Event] = []

    async def hear(event: Event) -> None:
        heard.append(event)

    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with polymem.open(url, encryption=KEYRING, compression=True, cache=10) as store:
        subscription = store.on(["after:put", "after:get"], hear)
        async with store.kv.watch("k") as watch:
            await store.kv.put("k", SECRET)
            await store.kv.get("k")
            await subscription.drain()
            assert [(event.key, event.value) for event in heard] == [("k", SECRET)] * 2
            assert [(change.op, change.key) for change in await watch.read()] == [("put", "k")]
        for file in tmp_path.iterdir():
            assert SECRET.encode() not in file.read_bytes()


async def test_hidden_keys_cannot_be_watched_but_listened_to(tmp_path: Path) -> None:
    """The log of the file knows hashes only, which tell nobody which key it was."""
    heard: list[str | None] = []

    async def hear(event: Event) -> None:
        heard.append(event.key)

    layer = Encryption(KEYRING, hide_keys=True)
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", encryption=layer) as store:
        with pytest.raises(StorageUnsupportedError, match="events.*store.on"):
            store.kv.watch()
        assert not store.supports("events")
        subscription = store.on("after:put", hear)
        await store.kv.put("k", 1)
        await subscription.drain()
        assert heard == ["k"]


async def test_write_back_tells_readers_when_it_writes(tmp_path: Path) -> None:
    policy = CachePolicy(mode="write_back", max_delay=60)
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", cache=policy) as store, store.kv.watch() as watch:
        await store.kv.put("a", 1)
        assert await watch.read() == []
        await store.kv.count()  # what the engine must know is written first
        assert [change.key for change in await watch.read()] == ["a"]
