"""Polymem on its engines and through its layers, and the drivers below them used by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiosqlite
import apsw
from compare_contestant import Described, Kind
from durable import replaced
from sqlite_kv import GET, PUT, TABLE, decode, encode

import polymem

LESS = "no checks, versions, instants or expiry, and what a put replaces is not overwritten in the file"


class Polymem:
    """Any engine by its URL, with `{folder}` where a file goes, through any layers."""

    kind: Kind = "polymem"
    why = ""

    def __init__(self, name: str, url: str, note: str = "", **layers: Any) -> None:
        self.name, self.note = name, note
        self._url, self._layers = url, layers

    async def open(self, folder: Path) -> None:
        url = self._url.format(folder=folder)
        self._store = await polymem.open(url, sweep_every=None, **self._layers)
        kv = self._store.namespace("compare").kv
        self.get, self.put, self.get_many, self.put_many = kv.get, kv.put, kv.get_many, kv.put_many

    async def close(self) -> None:
        await self._store.drop_namespace("compare")  # a server keeps it otherwise
        await self._store.close()


class PlainDict(Described):
    """The floor of everything in memory that does not hand out its own objects."""

    name = "dict of JSON bytes"
    kind: Kind = "raw"
    note = "by hand, msgspec; no expiry, no checks"
    why = "nothing but a dict: no checks of keys and values, no expiry, versions, instants or metrics"

    async def open(self, folder: Path) -> None:
        self._rows: dict[str, bytes] = {}

    async def get(self, key: str) -> Any:
        return decode(self._rows[key])

    async def put(self, key: str, value: dict[str, Any]) -> None:
        self._rows[key] = encode(value)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: decode(self._rows[key]) for key in keys}

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        self._rows |= {key: encode(value) for key, value in items.items()}


class Apsw(Described):
    """The raw driver in the event loop's own thread: the quickest call there is, and everybody else waits for it."""

    name = "apsw, inline"
    kind: Kind = "raw"
    note = "raw driver, msgspec; the event loop stands still during every call, its fsync included"
    why = f"no thread: the event loop and every other task stand still until the disk has answered; {LESS}"

    def __init__(self, synchronous: str) -> None:
        self._synchronous = synchronous

    async def open(self, folder: Path) -> None:
        self._connection = apsw.Connection(str(folder / "apsw.db"))
        for pragma in ("journal_mode=wal", f"synchronous={self._synchronous}"):
            self._connection.execute(f"pragma {pragma}").fetchall()
        self._connection.execute(TABLE)

    async def close(self) -> None:
        self._connection.close()

    async def get(self, key: str) -> Any:
        return decode(self._connection.execute(GET, (key,)).get)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        self._connection.execute(PUT, (key, encode(value).decode()))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: decode(self._connection.execute(GET, (key,)).get) for key in keys}

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        with self._connection:
            self._connection.executemany(PUT, [(key, encode(value).decode()) for key, value in items.items()])


class AioSqlite(Described):
    """The usual asyncio driver, in its quickest form: one hop to its thread for each call."""

    name = "aiosqlite"
    kind: Kind = "raw"
    note = "raw driver, msgspec; a thread of its own, autocommit, one hop a call"
    why = LESS

    def __init__(self, synchronous: str) -> None:
        self._synchronous = synchronous

    async def open(self, folder: Path) -> None:
        self._connection = await aiosqlite.connect(folder / "aiosqlite.db", isolation_level=None)
        for pragma in ("journal_mode=wal", f"synchronous={self._synchronous}"):
            await self._connection.execute_fetchall(f"pragma {pragma}")
        await self._connection.execute_fetchall(TABLE)

    async def close(self) -> None:
        await self._connection.close()

    async def get(self, key: str) -> Any:
        ((text,),) = await self._connection.execute_fetchall(GET, (key,))
        return decode(text)

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._connection.execute_fetchall(PUT, (key, encode(value).decode()))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        found = f"select key, value from kv where key in ({','.join('?' * len(keys))})"
        return {key: decode(text) for key, text in await self._connection.execute_fetchall(found, keys)}

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        await self._connection.execute("begin")
        await self._connection.executemany(PUT, [(key, encode(value).decode()) for key, value in items.items()])
        await self._connection.commit()


class JsonByHand(Described):
    """What one writes for a JSON file that must survive a power cut: dump, fsync, rename, fsync of the folder."""

    name = "JSON file by hand"
    kind: Kind = "raw"
    note = "`json` in memory, temporary file, fsync, rename; inline"
    why = "compact text by `json`, without versions, instants, a last good copy or a look at what others changed"

    async def open(self, folder: Path) -> None:
        self._path, self._rows = folder / "data.json", dict[str, Any]()

    async def get(self, key: str) -> Any:
        return json.loads(json.dumps(self._rows[key]))  # a copy, as every other side gives one

    async def put(self, key: str, value: dict[str, Any]) -> None:
        self._rows[key] = value
        self._save()

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        self._rows |= items
        self._save()

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: await self.get(key) for key in keys}

    def _save(self) -> None:
        with replaced(self._path) as file:
            json.dump(self._rows, file)
