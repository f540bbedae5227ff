"""Who is compared with whom: only sides that promise the same. The first of each group is what the ratios are over."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from compare_contestant import Contestant
from compare_peers import (
    FILES,
    LARGE,
    AioCache,
    AioCacheObjects,
    DiskCache,
    DiskCacheInline,
    LangGraphMemory,
    LangGraphSqlite,
    LangGraphWal,
    PyKeyValue,
    cached_disk,
    compressed_disk,
    disk_store,
    encrypted_disk,
    file_tree,
    memory_store,
)
from compare_polymem import AioSqlite, Apsw, JsonByHand, PlainDict, Polymem
from compare_servers import fresh_database, fresh_keys, on_postgres, on_redis
from server_kv import own_postgres, own_redis

ALONE = float("inf")
INLINE = f"`json`; the event loop stands still during every call; {FILES}"
NO_THREAD = f"no thread: the event loop and every other task stand still until the call is over; {LARGE}"


@dataclass(frozen=True, slots=True)
class Group:
    """Sides that promise the same."""

    name: str
    promise: str
    sides: Callable[[str], Sequence[Contestant]]
    """Given the URL of their server, if they need one."""
    tasks: Sequence[int] = (1, 16, 64, 256)
    largest: int = 1_000_000
    server: Callable[[], AbstractContextManager[str]] | None = None
    """Starts one of their own."""
    fresh: Callable[[str], AbstractAsyncContextManager[str]] = nullcontext
    """The URL of an empty place on that server."""
    url: str = ""


def memory(_: str) -> Sequence[Contestant]:
    return (
        Polymem("polymem memory", "memory:", "msgspec; every reader gets a copy of its own"),
        Polymem("polymem json_file, autosave=False", "file:{folder}/a.json?autosave=false", "the same, until `save`"),
        PlainDict(),
        PyKeyValue("MemoryStore", memory_store, "`json`"),
        AioCache(),
        AioCacheObjects(),
        LangGraphMemory(),
    )


def unsynced(_: str) -> Sequence[Contestant]:
    return (
        Polymem("polymem sqlite, normal", "sqlite:///{folder}/a.db?durability=normal", "msgspec; a writer thread"),
        Apsw("normal"),
        AioSqlite("normal"),
        PyKeyValue("DiskStore", disk_store, INLINE, NO_THREAD),
        PyKeyValue("FileTreeStore", file_tree, "`json`; a file for each key, threads"),
        DiskCache(),
        DiskCacheInline(),
    )


def durable(_: str) -> Sequence[Contestant]:
    return (
        Polymem("polymem sqlite", "sqlite:///{folder}/a.db", "msgspec; a writer thread, group commit"),
        Apsw("full"),
        AioSqlite("full"),
        LangGraphSqlite(),
        LangGraphWal(),
    )


def json_file(_: str) -> Sequence[Contestant]:
    return (
        Polymem("polymem json_file", "file:{folder}/a.json", "readable text, a last good copy, writers share a save"),
        JsonByHand(),
    )


def cached(_: str) -> Sequence[Contestant]:
    from polymem.layers.cache import CachePolicy

    url = "sqlite:///{folder}/a.db?durability=normal"
    return (
        Polymem("polymem sqlite, cache", url, "of a file nobody else writes", cache=CachePolicy(max_staleness=ALONE)),
        Polymem("polymem sqlite, strict cache", url, "asks at every hit who wrote", cache=CachePolicy()),
        PyKeyValue("PassthroughCache(Disk, Memory)", cached_disk, f"never asks; disk {INLINE}", NO_THREAD),
    )


def compressed(_: str) -> Sequence[Contestant]:
    return (
        layered("compression", "zstd", compression=True),
        PyKeyValue("Compression(Disk)", compressed_disk, f"gzip, base64 in JSON; disk {INLINE}", NO_THREAD),
    )


def encrypted(_: str) -> Sequence[Contestant]:
    from polymem.layers.encryption import Key, Keyring

    keys = Keyring(Key("bench", os.urandom(32)))
    return (
        layered("encryption", "AES-GCM, bound to key and namespace", encryption=keys),
        PyKeyValue("Fernet(Disk)", encrypted_disk, f"Fernet, base64 in JSON; disk {INLINE}", NO_THREAD),
    )


def layered(what: str, note: str, **layers: Any) -> Polymem:
    return Polymem(f"polymem sqlite, {what}", "sqlite:///{folder}/a.db?durability=normal", note, **layers)


FEW = (1, 64)
SETTINGS = ("fsync=on", "synchronous_commit=on", "autovacuum=off", "max_wal_size=8GB", "checkpoint_timeout=1h")
"""What PostgreSQL does now and then must not fall into one side's turn."""
GROUPS = (
    Group("memory", "Gone with the process.", memory),
    Group("unsynced", "Survives a crash of the process; a power cut may take the last writes.", unsynced),
    Group("durable", "A put that has returned survives a power cut.", durable),
    Group("json_file", "Durable, in one file of JSON.", json_file, FEW, 10_000),
    Group("cache", "A cache in memory over an unsynced disk store.", cached, FEW),
    Group("compression", "Compressed in an unsynced disk store.", compressed, FEW),
    Group("encryption", "Encrypted in an unsynced disk store.", encrypted, FEW),
    Group(
        "postgres", "On a PostgreSQL server: a put that has returned survives a power cut.", on_postgres,
        server=partial(own_postgres, "bench-compare", *SETTINGS), fresh=fresh_database,
    ),
    Group(
        "redis", "On a Redis server without persistence: gone with the server.", on_redis, server=own_redis,
        fresh=fresh_keys,
    ),
)  # fmt: skip
