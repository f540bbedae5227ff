"""What a user of the cache holds: statistics, and invalidation by key, prefix and tag (CCH-1, CCH-2)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from polymem.core.text import check_key, check_text
from polymem.errors import StorageDataError, StorageFullError
from polymem.layers._cache_near import NearCache, Slot

MAX_TAGGED: Final = 100_000


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counted since the store was made; `entries`, `size_bytes` and `pending` are what there is now."""

    hits: int
    negative_hits: int
    """Answers that a key is absent."""
    misses: int
    shared_loads: int
    """Misses that waited for a read that was under way already (single flight)."""
    evictions: int
    """Entries that went because there was no room."""
    invalidations: int
    """Entries that went because they were overwritten behind a write-back or `invalidate` said so."""
    foreign_changes: int
    """How often everything was dropped because somebody else had written to the database; where the server tells
    which keys are written, entries that went for it (own writes are told too)."""
    entries: int
    size_bytes: int | None
    """None unless the policy has `max_bytes`."""
    pending: int
    flushes: int
    flushed: int
    flush_errors: int

    @property
    def hit_rate(self) -> float | None:
        """The part of reads that the cache answered, 0 to 1; None where there was none."""
        answered = self.hits + self.negative_hits
        return answered / (answered + self.misses) if answered + self.misses else None


class Tags:
    """Which keys carry which tags; kept whether a key is cached or not, so a key loaded anew still has them."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str], set[Slot]] = {}
        self._count = 0

    def add(self, slot: Slot, tags: tuple[str, ...]) -> None:
        marks = [(slot[0], check_key(tag, field="tags")) for tag in tags]
        new = {mark for mark in marks if slot not in self._slots.get(mark, ())}
        if self._count + len(new) > MAX_TAGGED:
            raise StorageFullError(f"there are {self._count} tagged keys; invalidate tags to forget them")
        for mark in new:
            self._slots.setdefault(mark, set()).add(slot)
        self._count += len(new)

    def take(self, namespace: str, tag: str) -> set[Slot]:
        slots = self._slots.pop((namespace, tag), set())
        self._count -= len(slots)
        return slots

    def clear(self) -> None:
        self._slots, self._count = {}, 0


class Cache:
    """The near cache of one namespace. Invalidating forgets what was read, never what was written."""

    def __init__(
        self,
        near: NearCache,
        tags: Tags,
        statistics: Callable[[], CacheStatistics],
        flush: Callable[[], Awaitable[None]],
        namespace: str = "",
    ) -> None:
        self._near, self._tags, self._namespace = near, tags, namespace
        self._statistics, self._flush = statistics, flush

    def tag(self, key: str, *tags: str) -> None:
        """Let `invalidate(tag=...)` reach a key. A key keeps its tags until one of them is invalidated (that one
        goes) or the store is closed; `StorageFullError` beyond 100,000 of them.
        """
        if not tags:
            raise StorageDataError("expected at least one tag", field="tags")
        self._tags.add((self._namespace, check_key(key)), tags)

    def invalidate(self, *, key: str | None = None, prefix: str | None = None, tag: str | None = None) -> int:
        """Forget a key, the keys with a prefix ("": all of this namespace) or those with a tag; how many were cached.

        Reads that are under way keep their answers and leave nothing behind.
        """
        if sum(given is not None for given in (key, prefix, tag)) != 1:
            raise StorageDataError("expected one of key, prefix and tag", field="key")
        namespace = self._namespace
        if key is not None:
            return self._near.invalidate_one((namespace, check_key(key)))
        if tag is not None:
            slots = self._tags.take(namespace, check_key(tag, field="tag"))
            return sum(self._near.invalidate_one(slot) for slot in slots)
        start = check_text(prefix or "", field="prefix")
        return self._near.invalidate(lambda slot: slot[0] == namespace and slot[1].startswith(start))

    def clear(self) -> int:
        """Forget everything of this namespace and those below it, in the cache only; how much was cached."""
        return self._near.invalidate(lambda slot: slot[0].startswith(self._namespace))

    async def flush(self) -> None:
        """write_back: return when the engine has every put made until now; raises what kept it from it."""
        await self._flush()

    def statistics(self) -> CacheStatistics:
        """Of all namespaces together."""
        return self._statistics()
