"""The index in memory and its stored records, kept in step: loading, refreshing, writing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, cast

from polymem.attribute_index.changes import Change, Unsaved, replay
from polymem.attribute_index.postings import Postings
from polymem.attribute_index.records import Records
from polymem.attribute_index.turns import EntityLocks
from polymem.attribute_index.values import Attributes, check_stored, same
from polymem.contracts.kv import Entry
from polymem.core.cancellation import to_the_end
from polymem.errors import StorageConflictError

_BATCH: Final = 500
_TURN: Final = 50
"""Entities indexed before other tasks get a turn: about a millisecond."""
_AT_ONCE: Final = 64
"""Entities written side by side: an engine that groups commits makes them durable together."""
_TOGETHER: Final = 4
"""Batches written side by side, for the same reason."""
Outcome = TypeVar("Outcome")
Seen = tuple[Attributes | None, int | None]
"""What is stored of an entity and its version; (None, None) where there is nothing."""


class Mirror:
    """Entities in memory as this instance last saw or wrote them, with unsaved changes on top.

    The stored version of an entity tells whether somebody else wrote it meanwhile.
    """

    def __init__(self, records: Records) -> None:
        self.postings = Postings()
        self.unsaved: dict[str, Unsaved] = {}
        self._records = records
        self._versions: dict[str, int] = {}
        self._locks = EntityLocks()
        self._scanning = asyncio.Lock()
        self._loaded = False
        self._fresh: set[str] | None = None
        """What was stored or read since the running scan began: what the scan has of it may be older."""
        self._doubtful: set[str] = set()
        """Entities whose write failed, perhaps after it was stored."""

    async def ready(self) -> None:
        """Load on first use; read again what a failed write left in doubt."""
        if not self._loaded:
            async with self._scanning:
                if not self._loaded:
                    await self._scan()
        if self._doubtful:
            await self._read_again(list(self._doubtful))

    async def refresh(self) -> int:
        """Take over what others stored; how many entities differed."""
        async with self._scanning:
            return await self._scan()

    def discard(self) -> None:
        """Forget the unsaved changes."""
        while self.unsaved:
            entity_id, unsaved = self.unsaved.popitem()
            self.postings.put(entity_id, unsaved.stored)

    async def clear(self) -> int:
        """Remove every entity, unsaved ones too; how many were stored."""
        await self._records.check_format()
        self.discard()
        removed = await self._records.entities.clear()
        await self.refresh()
        return removed

    def note(self, entity_id: str, change: Change) -> bool:
        """Make a change in memory; whether it made a difference there."""
        before = self.postings.attributes(entity_id)
        self.unsaved.setdefault(entity_id, Unsaved(before, [])).add(change)
        after = change.apply(before)
        self.postings.put(entity_id, after)
        return not same(before, after)

    async def note_all(self, entities: Mapping[str, Change]) -> None:
        """`note` for many."""
        for done, (entity_id, change) in enumerate(entities.items(), 1):
            self.note(entity_id, change)
            await self._pace(done)

    async def change(self, entity_id: str, changes: Sequence[Change]) -> bool:
        """Store changes on top of whatever is stored; whether they made a difference."""
        async with self._writing([entity_id]):
            return await to_the_end(self._change(entity_id, changes))

    async def replace(self, entities: Mapping[str, Attributes | None]) -> int:
        """Store these attributes whatever was there (None: delete); how many were deleted."""

        def store(ids: Sequence[str], turn: int) -> Awaitable[int]:
            return self._replace({entity_id: entities[entity_id] for entity_id in ids}, {}, turn)

        return await self._in_batches(list(entities), store)

    async def save(self) -> int:
        """Store the unsaved changes; how many entities were written. What fails stays unsaved."""
        dirty = list(self.unsaved)
        whole: list[str] = []
        others: list[str] = []
        for entity_id, unsaved in self.unsaved.items():
            (whole if unsaved.absolute else others).append(entity_id)
        await self._in_batches(whole, self._save_whole)
        for ids in _batches(others, _AT_ONCE):
            await _all([self._save_one(entity_id) for entity_id in ids])
        return len(dirty)

    async def _in_batches(self, ids: Sequence[str], store: Callable[[Sequence[str], int], Awaitable[int]]) -> int:
        """Store a batch of them at a time and several side by side; the sum of what `store` returns."""
        found = 0
        for some in _batches(ids, _BATCH * _TOGETHER):
            parts = enumerate(_batches(some, _BATCH))
            found += sum(await _all([self._one_batch(part, store, turn) for turn, part in parts]))
        return found

    async def _one_batch(
        self, ids: Sequence[str], store: Callable[[Sequence[str], int], Awaitable[int]], turn: int
    ) -> int:
        await _turns(turn)
        async with self._writing(ids):
            return await to_the_end(store(ids, turn))

    async def _save_whole(self, ids: Sequence[str], turn: int = 0) -> int:
        """Those of the entities whose unsaved changes start anew; while this waited, `load` may have dropped them."""
        found = {entity_id: self.unsaved[entity_id] for entity_id in ids if entity_id in self.unsaved}
        taken = {entity_id: list(one.changes) for entity_id, one in found.items() if one.absolute}
        wanted = {entity_id: replay(changes, None) for entity_id, changes in taken.items()}
        return await self._replace(wanted, taken, turn)

    async def _save_one(self, entity_id: str) -> None:
        async with self._writing([entity_id]):
            unsaved = self.unsaved.get(entity_id)
            if unsaved is not None and unsaved.absolute:
                await to_the_end(self._save_whole([entity_id]))
            elif unsaved is not None:
                await to_the_end(self._change(entity_id, list(unsaved.changes)))

    async def _change(self, entity_id: str, changes: Sequence[Change]) -> bool:
        """Compare and set until nobody came between; each failure means that another writer got on."""
        entities = self._records.entities
        unsaved = self.unsaved.get(entity_id)
        stored = self.postings.attributes(entity_id) if unsaved is None else unsaved.stored
        version = self._versions.get(entity_id)
        while True:
            wanted = replay(changes, stored)
            if same(stored, wanted):
                now = _seen(await entities.entry(entity_id))
                if now[1] == version:
                    self._hold_fresh(entity_id, now, changes)
                    return False
                stored, version = now
                continue
            try:
                version = await entities.compare_and_set(entity_id, version, wanted)
            except StorageConflictError:
                stored, version = _seen(await entities.entry(entity_id))
            else:
                self._hold_fresh(entity_id, (wanted, version), changes)
                return True

    async def _replace(
        self, batch: Mapping[str, Attributes | None], taken: Mapping[str, Sequence[Change]], turn: int = 0
    ) -> int:
        puts = {entity_id: attributes for entity_id, attributes in batch.items() if attributes is not None}
        versions = await self._records.entities.put_many(puts)
        await _turns(turn)
        for done, (entity_id, attributes) in enumerate(puts.items(), 1):
            await self._pace(done)
            self._hold_fresh(entity_id, (attributes, versions[entity_id]), taken.get(entity_id, ()))
        gone = [entity_id for entity_id in batch if entity_id not in puts]
        removed = await self._records.entities.delete_many(gone) if gone else 0
        for entity_id in gone:
            self._hold_fresh(entity_id, (None, None), taken.get(entity_id, ()))
        return removed

    @asynccontextmanager
    async def _writing(self, ids: Sequence[str]) -> AsyncIterator[None]:
        await self._records.mark_format()
        async with self._locks.hold(ids):
            try:
                yield
            except BaseException:
                self._doubtful.update(ids)
                raise

    async def _scan(self) -> int:
        await self._records.check_format()
        busy, self._fresh = self._locks.busy(), set()
        unseen, changed = set(self._versions), 0
        try:
            async for entry in self._records.entities.entries():
                unseen.discard(entry.key)
                if entry.key in self._fresh or self._versions.get(entry.key) == entry.version:
                    continue
                self._hold(entry.key, _seen(entry))
                changed += 1
                await self._pace(changed)
            for entity_id in unseen - self._fresh:
                self._hold(entity_id, (None, None))
                changed += 1
        finally:
            self._fresh = None
        await self._read_again(busy)  # their replies may have come after the scan and before newer writes of others
        self._loaded = True
        return changed

    async def _read_again(self, ids: Collection[str]) -> None:
        for entity_id in ids:
            async with self._locks.hold([entity_id]):
                self._hold_fresh(entity_id, _seen(await self._records.entities.entry(entity_id)))
                self._doubtful.discard(entity_id)

    async def _pace(self, done: int) -> None:
        """Between the steps of bulk work: other tasks get a turn, and sorting waits until the end."""
        if not done % _TURN:
            await asyncio.sleep(0)
        if done == _BATCH:
            self.postings.unsort()

    def _hold_fresh(self, entity_id: str, now: Seen, done: Sequence[Change] = ()) -> None:
        """Hold what was stored or read just now."""
        if self._fresh is not None:
            self._fresh.add(entity_id)
        self._hold(entity_id, now, done)

    def _hold(self, entity_id: str, now: Seen, done: Sequence[Change] = ()) -> None:
        """Hold what is stored now, and the unsaved changes that are not yet in it."""
        attributes, version = now
        if version is None:
            self._versions.pop(entity_id, None)
        else:
            self._versions[entity_id] = version
        unsaved = self.unsaved.get(entity_id)
        if unsaved is not None:
            unsaved.stored = attributes
            unsaved.settle(done)
            attributes = replay(unsaved.changes, attributes)
            if not unsaved.changes:
                del self.unsaved[entity_id]
        self.postings.put(entity_id, attributes)


def _seen(entry: Entry[Any] | None) -> Seen:
    return (None, None) if entry is None else (check_stored(entry.value), entry.version)


async def _all(works: Sequence[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """The outcomes of works side by side, once all have ended; the first failure is raised then."""
    if len(works) == 1:  # most changes are of one entity, and a task of its own would cost a turn of the loop
        return [await works[0]]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return cast("list[Outcome]", outcomes)


async def _turns(number: int) -> None:
    """Batches that are stored side by side are encoded, and indexed, in one turn of the loop each: others get theirs."""
    for _ in range(number):
        await asyncio.sleep(0)


def _batches(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
