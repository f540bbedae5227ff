"""What a near cache keeps, for how long, and when a write reaches the engine (CCH-1)."""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from polymem.core.clock import MICROSECONDS, Clock
from polymem.errors import StorageDataError, StorageUnsupportedError

Kind = Literal["lru", "lfu", "ttl"]
Mode = Literal["write_through", "write_back", "write_around"]


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How `polymem.open(url, cache=...)` caches key-value records; the defaults never give a stale value.

    `StorageDataError` names the first field that makes no sense.
    """

    kind: Kind = "lru"
    """What goes first when there is no room: the least recently used, the least frequently used, or ("ttl") the
    least recently used, where nothing stays longer than `ttl` seconds."""
    max_entries: int | None = 10_000
    max_bytes: int | None = None
    """Of the values, and 300 for each entry with its key; the limit that is reached first counts."""
    ttl: float | None = None
    """Seconds, for kind "ttl" only. A record leaves the cache at its own expiry in any case."""
    mode: Mode = "write_through"
    """"write_through" writes to the engine, then to the cache; "write_around" to the engine only; "write_back"
    acknowledges a put before the engine has it."""
    negative: bool | float = True
    """Remember that a key is absent: for as long as anything else, or for so many seconds."""
    max_staleness: float | None = None
    """For how many seconds a value may be served after another process has overwritten it. 0: never. More saves
    asking the engine; infinity is for databases that nobody else writes to. None: 0 where the engine can be asked,
    1 where its server tells of changes (as a rule within milliseconds on Redis, a third of this on PostgreSQL)."""
    max_pending: int = 1000
    """write_back: at most so many puts are acknowledged and not yet in the engine."""
    max_delay: float = 0.1
    """write_back: seconds after which a put is on its way to the engine."""

    def __post_init__(self) -> None:
        _one_of(self.kind, Kind, "kind")
        _one_of(self.mode, Mode, "mode")
        for name in ("max_entries", "max_bytes"):
            _whole(getattr(self, name), name, optional=True)
        _whole(self.max_pending, "max_pending")
        if self.max_entries is None and self.max_bytes is None:
            raise StorageDataError("expected max_entries, max_bytes or both", field="max_entries")
        if (self.kind == "ttl") != (self.ttl is not None):
            raise StorageDataError('expected seconds with kind="ttl", and with no other', field="ttl")
        self._check_seconds()

    def _check_seconds(self) -> None:
        if self.ttl is not None:
            _seconds(self.ttl, "ttl", above_zero=True)
        if not isinstance(self.negative, bool):
            _seconds(self.negative, "negative", above_zero=True)
        if self.max_staleness is not None:
            _seconds(self.max_staleness, "max_staleness", infinite=True)
        _seconds(self.max_delay, "max_delay", above_zero=True)


def cache_policy(given: "CachePolicy | int") -> CachePolicy:
    """The policy; a whole number is `CachePolicy(max_entries=...)`, True is `CachePolicy()`."""
    if isinstance(given, CachePolicy):
        return given
    if given is True:
        return CachePolicy()
    if type(given) is not int or given < 1:
        raise StorageDataError("expected a CachePolicy, a number of entries, True or False", field="cache")
    return CachePolicy(max_entries=given)


def make_entries(policy: CachePolicy, clock: Clock, weigh: Any, evicted: Any) -> Any:
    """A mapping of `cachetools` that keeps to the policy and calls `evicted(key)` for each entry it throws out."""
    try:
        import cachetools  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise StorageUnsupportedError("cachetools is missing: pip install 'polymem[cache]'") from error
    kinds: dict[str, Any] = {"lru": cachetools.LRUCache, "lfu": cachetools.LFUCache, "ttl": cachetools.TTLCache}
    kind: Any = kinds[policy.kind]

    class Entries(kind):  # type: ignore[misc]
        """The library says nothing when it makes room."""

        def popitem(self) -> Any:
            slot, item = super().popitem()
            evicted(slot)
            return slot, item

        def __setitem__(self, slot: Any, item: Any) -> None:
            super().__setitem__(slot, item)
            while policy.max_entries is not None and len(self) > policy.max_entries:
                self.popitem()

    size: Any = policy.max_entries if policy.max_bytes is None else policy.max_bytes
    options: dict[str, Any] = {} if policy.max_bytes is None else {"getsizeof": weigh}
    if policy.kind == "ttl":
        return Entries(size, policy.ttl, timer=lambda: clock.now() / MICROSECONDS, **options)
    return Entries(size, **options)


_LONGEST: Final = 3e9
"""About a century."""


def _one_of(value: object, allowed: Any, field: str) -> None:
    if value not in get_args(allowed):
        raise StorageDataError(f"expected one of {', '.join(get_args(allowed))}", field=field)


def _whole(value: object, field: str, *, optional: bool = False) -> None:
    if (value is None and optional) or (type(value) is int and value >= 1):
        return
    raise StorageDataError("expected a whole number of at least 1", field=field)


def _seconds(value: object, field: str, *, above_zero: bool = False, infinite: bool = False) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least = 1e-6 if above_zero else 0  # less than a microsecond is none
        if least <= value <= _LONGEST or (infinite and value == float("inf")):
            return
    raise StorageDataError("expected seconds above 0" if above_zero else "expected seconds", field=field)
