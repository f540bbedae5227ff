"""The cache itself: what is known of which key, and when that may be believed.

A value may enter only while nothing can have overtaken it. Every write fences its keys from before it is sent until
after it is answered; a load that was under way before, during or beside a write, an invalidation or a change by
another process gives its readers what it read and leaves no trace. After a write whose outcome nobody knows its keys
stay out for a minute, for it may still happen.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from polymem.contracts.kv import Record
from polymem.core.clock import MICROSECONDS, Clock
from polymem.core.engine import Following
from polymem.errors import Outcome, StorageError
from polymem.layers._cache_policy import CachePolicy, make_entries

Slot = tuple[str, str]
"""Encoded namespace and key."""
Concerns = Callable[[Slot], bool]
DOUBT: Final = 60.0
"""Seconds that a key stays out of the cache after a write of unknown outcome."""
_MAX_DOUBTS: Final = 10_000
_OVERHEAD: Final = 300
_YIELD_MASK: Final = 31


def everything(_: Slot) -> bool:
    return True


class Known(NamedTuple):
    """What is known of one key."""

    found: tuple[bytes, str] | None
    """What the driver's `get` gives; None: the key is absent."""
    record: Record | None
    """What its `entry` gives, where that is known too."""
    until: int | None
    """The instant from which it is known no longer."""


class Load:
    """One read of the engine that several callers wait for."""

    def __init__(self) -> None:
        self._followers: list[asyncio.Future[Known | None]] = []

    def follow(self) -> "asyncio.Future[Known | None]":
        """What the leader reads, or None when it was cancelled and somebody else must read."""
        future: asyncio.Future[Known | None] = asyncio.get_running_loop().create_future()
        self._followers.append(future)
        return future

    def tell(self, known: Known | None, error: Exception | None = None) -> None:
        for future in self._followers:
            if future.done():
                continue
            if error is None:
                future.set_result(known)
            else:
                future.set_exception(error)


class NearCache:
    """One cache for all namespaces of an engine; plain calls, so nothing happens between two lines."""

    def __init__(
        self,
        policy: CachePolicy,
        clock: Clock,
        changes_elsewhere: Callable[[], int] | None,
        translate: Callable[[Exception], StorageError | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy, self._now, self._elsewhere = policy, clock.now, changes_elsewhere
        self._clock, self._translate, self._monotonic = clock, translate, monotonic
        forever = policy.max_staleness == float("inf")
        self._staleness = 0 if forever else round((policy.max_staleness or 0) * MICROSECONDS)
        self._asks = changes_elsewhere is not None and not forever
        self._asked_at, self._seen = 0, 0
        self._ages = not self._asks and not forever
        """The engine can't tell of other writers, so what is known grows old by itself."""
        self._following: Following | None = None
        self._loads: dict[Slot, Load] = {}
        self._writing: dict[Slot, int] = {}
        self._contended: set[Slot] = set()
        self._sealed = 0
        self._doubts: dict[Slot, float] = {}
        self._off_until = 0.0
        self.calls = self.hits = self.negative_hits = self.misses = self.shared = 0
        self.evictions = self.invalidations = self.foreign = 0
        self.on_evict: Callable[[str, str], None] | None = None
        self._entries = self._new()

    def _new(self) -> Any:
        return make_entries(self.policy, self._clock, _weight, self._evicted)

    def _evicted(self, slot: Slot) -> None:
        self.evictions += 1
        if self.on_evict is not None:
            self.on_evict(*slot)

    # reading

    async def turn(self) -> None:
        """Hits never suspend, which would starve the other tasks: every 32nd call lets them run."""
        self.calls += 1
        if not self.calls & _YIELD_MASK:
            await asyncio.sleep(0)

    def look(self, slot: Slot) -> Known | None:
        """What is known of a key, None where nothing is."""
        if self._asks:
            self._ask()
        elif self._following is not None and not self._following.current():
            self._forget(slot)  # nor is a read that is under way new enough
            return None
        try:
            known: Known = self._entries[slot]
        except KeyError:
            return None
        if known.until is not None and known.until <= self._now():
            self._entries.pop(slot, None)
            return None
        return known

    def count(self, known: Known | None) -> None:
        if known is None:
            self.misses += 1
        elif known.found is None:
            self.negative_hits += 1
        else:
            self.hits += 1

    async def load(self, slot: Slot, read: Callable[[str], Awaitable[Record | None]]) -> Known:
        """Read a key from the engine; those who want the same one meanwhile wait for the same read."""
        while (under_way := self._loads.get(slot)) is not None:
            self.shared += 1
            known = await under_way.follow()
            if known is not None:
                return known
        load = self._loads[slot] = Load()
        now = self._now()
        try:
            known = self.known(await read(slot[1]), now)
        except BaseException as error:
            self._end(slot, load)
            load.tell(None, error if isinstance(error, Exception) else None)
            raise
        if self._end(slot, load) and slot not in self._writing:
            self._install(slot, known)
        load.tell(known)
        return known

    def known(self, record: Record | None, now: int) -> Known:
        if record is None:
            return Known(None, None, self._until(None, now))
        return Known((record.body, record.codec), record, self._until(record.expires_at, now))

    def written(self, body: bytes, codec: str, expires_at: int | None) -> Known | None:
        """What is known after a put; its record isn't, the engine adds its instants. None: writes go around."""
        if self.policy.mode == "write_around":
            return None
        return Known((body, codec), None, self._until(expires_at, self._now()))

    def deleted(self) -> Known | None:
        return None if self.policy.mode == "write_around" else self.known(None, self._now())

    # writing

    def fence(self, slots: Iterable[Slot], known: Known | None = None) -> "Fence":
        """Around a write of these keys: `known` is what they are afterwards, if that is known."""
        return Fence(self, dict.fromkeys(slots, known), None)

    def fence_all(self, concerns: Concerns) -> "Fence":
        """Around a write of every key that `concerns` says."""
        return Fence(self, {}, concerns)

    def begin(self, slots: Collection[Slot], concerns: Concerns | None) -> None:
        for slot in slots:
            self._forget(slot)
            before = self._writing.get(slot, 0)
            self._writing[slot] = before + 1
            if before or self._sealed:
                self._contended.add(slot)
        if concerns is not None:
            self._sealed += 1
            self._forget_all(concerns)

    def end(self, slots: dict[Slot, Known | None], concerns: Concerns | None, error: BaseException | None) -> None:
        doubtful = error is not None and self._may_happen(error)
        for slot, known in slots.items():
            alone = self._leave(slot)
            if doubtful:
                self._doubt(slot)
            elif alone and known is not None and error is None:
                self._install(slot, known)
        if concerns is not None:
            self._sealed -= 1
            self._forget_all(concerns)
            if doubtful:
                self._off_until = self._monotonic() + DOUBT

    def _leave(self, slot: Slot) -> bool:
        """Take a write off; whether no other one touched the key meanwhile."""
        self._loads.pop(slot, None)  # no value entered since the write began
        left = self._writing[slot] - 1
        if left:
            self._writing[slot] = left
            return False
        del self._writing[slot]
        alone = slot not in self._contended
        self._contended.discard(slot)
        return alone

    # forgetting

    def invalidate(self, concerns: Concerns) -> int:
        """Forget those keys; how many were known."""
        forgotten = self._forget_all(concerns)
        self.invalidations += forgotten
        return forgotten

    def invalidate_one(self, slot: Slot) -> int:
        forgotten = self._forget(slot)
        if slot in self._writing:
            self._contended.add(slot)
        self.invalidations += forgotten
        return forgotten

    def follow(self, following: Following | None) -> None:
        """Believe what `changed` and `drop` have not taken back, while `following` is current; without it what is
        known grows old by itself.
        """
        self._following, self._ages = following, following is None

    def changed(self, namespace: str, key: str | None) -> None:
        """Somebody may have written a record, or any of a namespace: another process, or this one a moment ago."""
        if key is None:
            self.foreign += self._forget_all(lambda slot: slot[0] == namespace)
            return
        slot = namespace, key
        self.foreign += self._forget(slot)
        if slot in self._writing:
            self._contended.add(slot)

    def drop(self) -> None:
        """Forget everything, at a cost that does not grow with it."""
        self._entries = self._new()
        self._loads.clear()
        self._contended.update(self._writing)

    def _forget(self, slot: Slot) -> int:
        self._loads.pop(slot, None)
        try:
            del self._entries[slot]  # `pop` would look it up first, which counts as a use
        except KeyError:
            return 0
        return 1

    def _forget_all(self, concerns: Concerns) -> int:
        self._loads.clear()
        self._contended.update(self._writing)
        gone = [slot for slot in self._entries if concerns(slot)]
        for slot in gone:
            self._entries.pop(slot, None)
        return len(gone)

    # what may be kept

    def _ask(self) -> None:
        """Drop everything when somebody else has written since we last asked."""
        if self._staleness:
            now = self._now()
            if self._asked_at <= now < self._asked_at + self._staleness:
                return
            self._asked_at = now
        assert self._elsewhere is not None  # noqa: S101 - `_asks` says so
        seen = self._elsewhere()
        if seen != self._seen:
            self._seen = seen
            self.foreign += 1
            self.drop()

    def _until(self, expires_at: int | None, now: int) -> int | None:
        if not self._ages:
            return expires_at
        old = now + self._staleness
        return old if expires_at is None else min(old, expires_at)

    def _install(self, slot: Slot, known: Known) -> None:
        if self._sealed or (self._doubts and self._is_doubtful(slot)) or self._monotonic() < self._off_until:
            return
        if known.found is None:
            if self.policy.negative is False:
                return
            if self.policy.negative is not True:
                known = known._replace(until=self._soon(known.until, self.policy.negative))
        try:
            self._entries[slot] = known
        except ValueError:  # larger than the whole cache
            return

    def _soon(self, until: int | None, seconds: float) -> int:
        end = self._now() + round(seconds * MICROSECONDS)
        return end if until is None else min(end, until)

    def _end(self, slot: Slot, load: Load) -> bool:
        """Whether nothing came between the beginning of a load and now."""
        if self._loads.get(slot) is not load:
            return False
        del self._loads[slot]
        return True

    def _may_happen(self, error: BaseException) -> bool:
        if not isinstance(error, Exception):
            return True  # cancelled: the engine may go on with it
        failure = error if isinstance(error, StorageError) else self._translate(error)
        return failure is None or failure.outcome is not Outcome.NOT_APPLIED

    def _doubt(self, slot: Slot) -> None:
        now = self._monotonic()
        if len(self._doubts) >= _MAX_DOUBTS:
            self._doubts = {doubted: end for doubted, end in self._doubts.items() if end > now}
        if len(self._doubts) >= _MAX_DOUBTS:
            self._off_until = now + DOUBT
        else:
            self._doubts[slot] = now + DOUBT

    def _is_doubtful(self, slot: Slot) -> bool:
        end = self._doubts.get(slot)
        if end is not None and end <= self._monotonic():
            del self._doubts[slot]
            return False
        return end is not None

    @property
    def size(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int | None:
        """None where nothing limits it, for then nobody counts."""
        return None if self.policy.max_bytes is None else int(self._entries.currsize)


class Fence:
    """Keeps the keys of one write out of the cache while it is under way."""

    __slots__ = ("_concerns", "_near", "slots")

    def __init__(self, near: NearCache, slots: dict[Slot, Known | None], concerns: Concerns | None) -> None:
        self._near, self.slots, self._concerns = near, slots, concerns

    def __enter__(self) -> Self:
        self._near.begin(self.slots, self._concerns)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._near.end(self.slots, self._concerns, error)

    def add(self, slot: Slot, known: Known | None) -> None:
        """One more key of the same write."""
        if slot not in self.slots:
            self._near.begin([slot], None)
        self.slots[slot] = known

    def done(self, happened: bool) -> bool:
        """Whether the write happened; where it didn't, nothing is known of its keys."""
        if not happened:
            self.slots = dict.fromkeys(self.slots)
        return happened


def _weight(known: Known) -> int:
    return _OVERHEAD + (0 if known.found is None else len(known.found[0]) + len(known.found[1]))
