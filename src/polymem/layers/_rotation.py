"""Bring everything that previous keys sealed under the current key."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from polymem.contracts._input import stream
from polymem.contracts.blobs import BlobDriver, BlobInfo
from polymem.contracts.drivers import Drivers
from polymem.contracts.kv import KeyValueDriver
from polymem.contracts.turns import TurnDriver
from polymem.core.engine import Engine
from polymem.core.guard import in_transaction
from polymem.errors import StorageDataError, StorageError, StorageQueryError, StorageUnsupportedError
from polymem.layers import _encrypted_blobs, _encrypted_kv, _encrypted_turns
from polymem.layers._keyring import Keyring
from polymem.layers._room import Room

_SECONDS: Final = 60.0
"""How long the transaction of one page may take."""
_LISTED: Final = 500


@dataclass(slots=True)
class Progress:
    """Where a rotation is, and what it has done so far."""

    namespace: str = ""
    """Encoded, as in `acme/notes/`."""
    contract: str = ""
    seen: int = 0
    rewritten: int = 0


Report = Callable[[Progress], None]


class Opened(Protocol):
    """What is needed of an open store."""

    @property
    def engine(self) -> Engine: ...


class _Turn(NamedTuple):
    """A page of rotation has seen so many records, rewritten so many, and goes on after a position."""

    seen: int
    rewritten: int
    after: str | None


async def rotate(
    store: Opened,
    keyring: Keyring,
    *,
    batch: int = 100,
    progress: Report | None = None,
) -> Progress:
    """Seal with the current key whatever a previous one sealed, in every namespace of the database; what was done.

    A page of `batch` records is one transaction, between two of which others write. Interrupted, it is simply
    started again: what is done already is read and left alone. `progress` is called after each page. Values keep
    versions and expiry, blobs get new versions. A record that no key of the ring opens stops it with the error that a
    read would give. Raises `StorageUnsupportedError` where the engine has no transactions.
    """
    if not isinstance(keyring, Keyring):
        raise StorageDataError("expected Keyring(current, previous)", field="keyring")
    if type(batch) is not int or batch < 1:
        raise StorageDataError("expected a whole number of at least 1", field="batch")
    if in_transaction.get() is not None:
        raise StorageQueryError("a transaction is open in this task: rotate outside of it")
    rotation = _Rotation(store.engine, keyring, batch, progress or (lambda _: None))
    async with _translated(store.engine):
        await rotation.run()
    return rotation.progress


class _Rotation:
    def __init__(self, engine: Engine, keyring: Keyring, batch: int, report: Report) -> None:
        self._engine, self._keyring, self._batch, self._report = engine, keyring, batch, report
        self.progress = Progress()

    async def run(self) -> None:
        while await self._engine.delete_expired(1000):
            pass  # what nobody can read needs no new key
        async for namespace in stream(lambda after: self._engine.namespaces("", after, _LISTED)):
            self.progress.namespace, room = namespace, Room(self._keyring, namespace, hides=False)
            drivers: Drivers = self._engine.drivers(namespace)
            if drivers.kv is not None:
                await self._values(room)
            if drivers.turns is not None:
                await self._turns(room, drivers.turns)
            if drivers.blobs is not None:
                await self._containers(room, drivers.blobs)

    async def _values(self, room: Room) -> None:
        after: str | None = None
        while True:
            async with self._transaction(room.namespace) as inside:
                assert inside.kv is not None  # noqa: S101 - it was there outside
                done = await _rotate_values(inside.kv, room, after, self._batch)
            self._count("kv", done)
            after = done.after
            if after is None:
                return

    async def _turns(self, room: Room, turns: TurnDriver) -> None:
        async for session in stream(lambda after: turns.sessions(after, _LISTED)):
            await self._session(room, session)

    async def _session(self, room: Room, session: str) -> None:
        after: str | None = None
        while True:
            async with self._transaction(room.namespace) as inside:
                assert inside.turns is not None  # noqa: S101 - it was there outside
                done = await _rotate_turns(inside.turns, room, session, after, self._batch)
            self._count("turns", done)
            after = done.after
            if after is None:
                return

    async def _containers(self, room: Room, blobs: BlobDriver) -> None:
        async for container in stream(lambda after: blobs.containers(after, _LISTED)):
            await self._blobs(room, blobs, container)

    async def _blobs(self, room: Room, blobs: BlobDriver, container: str) -> None:
        after: str | None = None
        while True:
            page = await blobs.page(container, "", after, self._batch)
            rewritten = [await self._blob(room, blobs, container, info) for info in page.items]
            self._count("blobs", _Turn(len(rewritten), sum(rewritten), page.after))
            after = page.after
            if after is None:
                return

    async def _blob(self, room: Room, blobs: BlobDriver, container: str, info: BlobInfo) -> bool:
        """Write it anew under the current key, then show it unless the blob was replaced meanwhile."""
        if not await _encrypted_blobs.is_stale(blobs, room, container, info):
            return False
        upload = await blobs.begin(container)
        try:
            resealed = await _encrypted_blobs.rewrite(blobs, room, container, info, upload)
            async with self._transaction(room.namespace) as inside:
                assert inside.blobs is not None  # noqa: S101 - it was there outside
                present = await inside.blobs.info(container, info.key)
                if present is not None and present.version == info.version:
                    await inside.blobs.commit(container, upload, resealed)
                    return True
        finally:
            await blobs.abort(container, upload)  # harmless once it is committed
        return False

    @asynccontextmanager
    async def _transaction(self, namespace: str) -> AsyncIterator[Drivers]:
        transactions = self._engine.drivers(namespace).transactions
        if transactions is None:
            raise StorageUnsupportedError("rotation needs transactions", engine=self._engine.name, operation="rotate")
        opened = await transactions.begin(timeout=_SECONDS)
        try:
            yield opened.drivers(namespace)
            await opened.commit()
        finally:
            await opened.rollback()  # harmless once it is committed

    def _count(self, contract: str, done: _Turn) -> None:
        self.progress.contract = contract
        self.progress.seen += done.seen
        self.progress.rewritten += done.rewritten
        self._report(self.progress)


async def _rotate_values(kv: KeyValueDriver, room: Room, after: str | None, limit: int) -> _Turn:
    page, rewritten = await kv.page("", after, limit), 0
    for key, record in page.items:
        body = _encrypted_kv.resealed(room, key, record)
        if body is not None:
            await kv.update(key, body, record.codec, version=record.version)
            rewritten += 1
    return _Turn(len(page.items), rewritten, page.after)


async def _rotate_turns(turns: TurnDriver, room: Room, session: str, after: str | None, limit: int) -> _Turn:
    start = None if after is None else int(after)
    rows = await turns.page(session, start, limit, include_expired=False)
    stale = [row for row in (_encrypted_turns.resealed(room, row) for row in rows) if row is not None]
    if stale:
        await turns.append(stale, replace=True)
    return _Turn(len(rows), len(stale), str(rows[-1].turn_id) if len(rows) == limit else None)


@asynccontextmanager
async def _translated(engine: Engine) -> AsyncIterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        translated = engine.translate(error)
        if translated is None:
            raise
        raise translated from error
