"""The peers, each as its own documentation uses it; `pip install 'polymem[peers]'`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiosqlite
from compare_contestant import Described, Kind

SPACE = ("compare",)
FILES = "values over 32 kB in files of their own"
LARGE = (
    "values over 32 kB go to plain files outside the database, written once and never synced, where Polymem writes them to "
    "its log and then to the database; what a put replaces is not overwritten"
)


class PyKeyValue:
    """A store of py-key-value-aio, made by `build(folder)`; `json` encodes."""

    kind: Kind = "peer"

    def __init__(self, name: str, build: Callable[[Path], Any], note: str, why: str = "") -> None:
        self.name, self.note, self.why, self._build = f"py-key-value {name}", note, why, build

    async def open(self, folder: Path) -> None:
        self._store = self._build(folder)
        self.get, self.put = self._store.get, self._store.put

    async def close(self) -> None:
        if hasattr(self._store, "close"):  # the others close what they hold when they are thrown away
            await self._store.close()

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return dict(zip(keys, await self._store.get_many(keys), strict=True))

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        await self._store.put_many(list(items), list(items.values()))


def memory_store(_: Path) -> Any:
    from key_value.aio.stores.memory import MemoryStore

    return MemoryStore()


def disk_store(folder: Path) -> Any:
    from key_value.aio.stores.disk import DiskStore

    return DiskStore(directory=folder)


def file_tree(folder: Path) -> Any:
    import warnings

    from key_value.aio.stores.filetree import FileTreeStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that its format may change
        return FileTreeStore(data_directory=folder)


def cached_disk(folder: Path) -> Any:
    from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper

    return PassthroughCacheWrapper(disk_store(folder), memory_store(folder))


def compressed_disk(folder: Path) -> Any:
    from key_value.aio.wrappers.compression import CompressionWrapper

    return CompressionWrapper(disk_store(folder))


def encrypted_disk(folder: Path) -> Any:
    from cryptography.fernet import Fernet
    from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

    return FernetEncryptionWrapper(disk_store(folder), fernet=Fernet(Fernet.generate_key()))


class DiskCache(Described):
    """In a thread, as its documentation says for asyncio."""

    name = "diskcache"
    note = f"pickles; a pool of threads (`asyncio.to_thread`); {FILES}"
    why = LARGE

    async def open(self, folder: Path) -> None:
        from diskcache import Cache

        self._cache = Cache(str(folder), eviction_policy="none")

    async def close(self) -> None:
        self._cache.close()

    async def get(self, key: str) -> Any:
        return await asyncio.to_thread(self._cache.get, key)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await asyncio.to_thread(self._cache.set, key, value)


class DiskCacheInline(DiskCache):
    name = "diskcache, inline"
    note = f"pickles; the event loop stands still during every call; {FILES}"
    why = f"no thread: the event loop stands still during every call; {LARGE}"

    async def get(self, key: str) -> Any:
        return self._cache.get(key)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        self._cache.set(key, value)


class AioCache(Described):
    name = "aiocache memory, JSON"
    note = "`json` encodes"
    why = "values are not checked, versions and instants not kept"

    async def open(self, folder: Path) -> None:
        from aiocache import SimpleMemoryCache
        from aiocache.serializers import JsonSerializer

        self._cache = SimpleMemoryCache(serializer=JsonSerializer())
        self.get, self.put = self._cache.get, self._cache.set

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return dict(zip(keys, await self._cache.multi_get(keys), strict=True))

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        await self._cache.multi_set(list(items.items()))


class AioCacheObjects(AioCache):
    name = "aiocache memory, objects"
    note = "keeps the caller's objects: no encoding, no isolation"
    why = "keeps the caller's object and hands it out: nothing is copied, and a change by one reader is seen by all"

    async def open(self, folder: Path) -> None:
        from aiocache import SimpleMemoryCache

        self._cache = SimpleMemoryCache()
        self.get, self.put = self._cache.get, self._cache.set


class LangGraph(Described):
    """LangGraph's stores have one form of calls."""

    _store: Any

    async def get(self, key: str) -> Any:
        return (await self._store.aget(SPACE, key)).value

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._store.aput(SPACE, key, value)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        from langgraph.store.base import GetOp

        return {item.key: item.value for item in await self._store.abatch([GetOp(SPACE, key) for key in keys])}

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        from langgraph.store.base import PutOp

        await self._store.abatch([PutOp(SPACE, key, value) for key, value in items.items()])


class LangGraphMemory(LangGraph):
    name = "LangGraph InMemoryStore"
    note = "keeps the caller's objects: no encoding, no isolation"
    why = "keeps the caller's object and hands it out: nothing is copied, and a change by one reader is seen by all"

    async def open(self, folder: Path) -> None:
        from langgraph.store.memory import InMemoryStore

        self._store = InMemoryStore()


class LangGraphSqlite(LangGraph):
    """As its `from_conn_string` opens a file: a rollback journal, synced at every commit."""

    name = "LangGraph AsyncSqliteStore"
    note = "orjson; a thread of its own; calls of one moment share a transaction, equal keys in it are done once"
    why = "of several puts of one key that wait together it writes the last; what it replaces is not overwritten in the file"
    _pragmas: tuple[str, ...] = ()

    async def open(self, folder: Path) -> None:
        from langgraph.store.sqlite.aio import AsyncSqliteStore

        self._connection = await aiosqlite.connect(folder / "store.db", isolation_level=None)
        for pragma in self._pragmas:
            await self._connection.execute_fetchall(f"pragma {pragma}")
        self._store = AsyncSqliteStore(self._connection)
        await self._store.setup()

    async def close(self) -> None:
        self._store._task.cancel()
        await self._connection.close()


class LangGraphWal(LangGraphSqlite):
    """The quickest durable form, which it does not choose by itself."""

    name = "LangGraph AsyncSqliteStore, WAL"
    _pragmas = ("journal_mode=wal", "synchronous=full")
