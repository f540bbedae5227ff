"""Key-value storage (KV-1 to KV-4)."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import getrandbits
from time import perf_counter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, final, overload

from msgspec import DecodeError

from polymem.contracts._bulk_api import BulkApi
from polymem.contracts._events_api import Watchable
from polymem.contracts._events_kv import Observation
from polymem.contracts._input import Where, stream
from polymem.contracts._query_api import Queries
from polymem.contracts.events import EventsDriver
from polymem.contracts.query import QueryDriver, is_document
from polymem.core.clock import MICROSECONDS, Clock, Ttl, expiry, to_datetime
from polymem.core.codec import REMEDIES, Codec, ModelCodec
from polymem.core.cursor import decode_cursor, encode_cursor
from polymem.core.guard import within
from polymem.core.page import Page
from polymem.core.text import check_key, check_limit, check_text
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageCorruptError,
    StorageDataError,
    StorageError,
    StorageNotFoundError,
    StorageTimeoutError,
)

T = TypeVar("T")
D = TypeVar("D")
Model = TypeVar("Model")
PAGE: Final = 500
MAX_INTEGER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class KVFeatures:
    """What a key-value cell can do; an option it can't honour raises `StorageUnsupportedError`."""

    ttl_resolution: float = 1e-6
    """Seconds; a ttl is rounded up to it."""
    atomic_batches: bool = True
    """`put_many` is all or nothing; otherwise each item has its own outcome."""
    ordered: bool = True
    """`scan` is in key order and sees a key that is present throughout exactly once."""
    durable: bool = True
    """An acknowledged write survives a crash."""


class Record(NamedTuple):
    """A stored value: its bytes, the tag of the codec that wrote them, and its instants in microseconds."""

    body: bytes
    codec: str
    version: int
    created_at: int
    updated_at: int
    expires_at: int | None


Item = tuple[str, bytes, str, int, int | None]
"""What `put_many` writes: key, body, codec tag, version, expiry in microseconds."""


class KeyValueDriver(Protocol):
    """One namespace of key-value records. Expired records are absent to every operation."""

    @property
    def features(self) -> KVFeatures: ...

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        """Body and codec tag: the hot path."""
        ...

    async def entry(self, key: str, /) -> Record | None: ...

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        """Only the keys found."""
        ...

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None: ...

    async def put_many(self, items: Sequence[Item], /) -> None: ...

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        """Write only where the key is absent; whether it was written."""
        ...

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        """Write only where the key is present, keeping its expiry; whether it was written."""
        ...

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        """Write only where the stored version is `expected`; whether it was written."""
        ...

    async def delete(self, key: str, /) -> bool: ...

    async def delete_many(self, keys: Sequence[str], /) -> int: ...

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        """Add to an integer (an absent key counts as 0), keeping its expiry; the new value.

        A stored value that is not a JSON integer, or a result beyond 64 bits, is a `StorageDataError`.
        """
        ...

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        """Set the expiry and nothing else; whether the key was there."""
        ...

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        """Records whose keys start with `prefix`, in key order where `features.ordered`."""
        ...

    async def count(self, prefix: str, /) -> int: ...

    async def clear(self) -> int:
        """Remove every record of this namespace, children excepted; how many were live."""
        ...


class Entry(NamedTuple, Generic[T]):
    """A value with its record: tells a stored null from absence."""

    key: str
    value: T
    version: int
    """Unique per write; only equality means anything."""
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


@final
class KeyValue(Queries[T], BulkApi[T], Watchable):
    """What users hold: `store.kv` for any JSON value, `store.kv.typed(Model)` for one type.

    Every key is 1 to 512 bytes of UTF-8. `ttl` is seconds, a timedelta or an aware datetime; `put` without a ttl
    never expires. Writes return the new version.

    `timeout` is in seconds, retries included: then a `StorageTimeoutError` (also a `TimeoutError`) ends the call,
    which disturbs no other. Its `outcome` is not_applied for a read and unknown for a write, which may still be
    carried out. Without one the engine's own limits hold. A stream such as `scan` has none: use `asyncio.timeout`.
    """

    def __init__(
        self,
        driver: KeyValueDriver,
        clock: Clock,
        codec: Codec[T],
        *,
        scope: str = "",
        queries: QueryDriver | None = None,
        events: EventsDriver | None = None,
        observation: Observation | None = None,
    ) -> None:
        self._driver, self._clock, self._codec = driver, clock, codec
        self._scope, self._queries, self._events = scope, queries, events
        self._read, self._decode, self._tag = driver.get, codec.decode, codec.tag
        self._be_observed(observation)

    @property
    def features(self) -> KVFeatures:
        return self._driver.features

    @overload
    def typed(self, model: type[Model]) -> "KeyValue[Model]": ...
    @overload
    def typed(self, model: object) -> "KeyValue[Any]": ...  # a union or Literal, which is no type to type checkers
    def typed(self, model: Any) -> "KeyValue[Any]":
        """The same keys holding values of one msgspec, dataclass, typed-dict or pydantic type."""
        return KeyValue(
            self._unobserved, self._clock, ModelCodec(model), scope=self._scope, queries=self._queries,
            events=self._events, observation=self._observation,
        )  # fmt: skip

    @overload
    async def get(self, key: str, *, timeout: float | None = None) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, timeout: float | None = None) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, timeout: float | None = None) -> Any:
        """The value, or `default` where the key is absent or expired."""
        check_key(key)
        found = await (self._read(key) if timeout is None else within(self._driver, timeout).get(key))
        if found is None:
            return default
        body, tag = found
        if tag != self._tag:
            self._check_codec(tag)
        try:
            return self._decode(body)
        except DecodeError as error:
            raise _damaged() from error

    async def get_many(self, keys: Iterable[str], *, timeout: float | None = None) -> dict[str, T]:
        """The values of the keys that are present."""
        found = await self._by(timeout).get_many(_keys(keys))
        return {key: self._value(body, tag) for key, (body, tag) in found.items()}

    async def entry(self, key: str, *, timeout: float | None = None) -> Entry[T] | None:
        """The value with its version and instants, None where absent."""
        record = await self._by(timeout).entry(check_key(key))
        return None if record is None else self._entry(key, record)

    async def exists(self, key: str, *, timeout: float | None = None) -> bool:
        return await self._by(timeout).entry(check_key(key)) is not None

    async def put(self, key: str, value: T, *, ttl: Ttl | None = None, timeout: float | None = None) -> int:
        """Write whatever was there before; the new version."""
        version, body = new_version(), self._codec.encode(value)
        expires_at = None if ttl is None else expiry(ttl, self._clock)
        driver = self._driver if timeout is None else within(self._driver, timeout)
        await driver.put(check_key(key), body, self._tag, version=version, expires_at=expires_at)
        return version

    async def put_many(
        self, items: Mapping[str, T], *, ttl: Ttl | None = None, timeout: float | None = None
    ) -> dict[str, int]:
        """Write all or nothing; the new versions."""
        if not isinstance(items, Mapping):
            raise StorageDataError("expected a mapping of keys to values", field="items")
        encode, tag, expires_at = self._codec.encode, self._tag, expiry(ttl, self._clock)
        rows = [(check_key(key), encode(value), tag, new_version(), expires_at) for key, value in items.items()]
        if rows:
            await self._by(timeout).put_many(rows)
        return {row[0]: row[3] for row in rows}

    async def create(self, key: str, value: T, *, ttl: Ttl | None = None, timeout: float | None = None) -> int:
        """Write only where the key is absent; otherwise `StorageConflictError`."""
        return await self._write_once(key, value, None, expiry(ttl, self._clock), timeout)

    async def compare_and_set(
        self, key: str, expected_version: int | None, value: T, *, ttl: Ttl | None = None, timeout: float | None = None
    ) -> int:
        """Write only where the stored version is the expected one (None: the key is absent).

        Otherwise `StorageConflictError` and nothing is written. A ttl not given clears the expiry, as `put` does.
        """
        if expected_version is not None and type(expected_version) is not int:
            raise StorageDataError("expected a version or None", field="expected_version")
        return await self._write_once(key, value, expected_version, expiry(ttl, self._clock), timeout)

    async def update(self, key: str, value: T, *, timeout: float | None = None) -> int:
        """Write only where the key is present, keeping its expiry; otherwise `StorageNotFoundError`."""
        version = new_version()
        body = self._codec.encode(value)
        if not await self._by(timeout).update(check_key(key), body, self._tag, version=version):
            raise StorageNotFoundError("no such key; use put or create", field="key")
        return version

    async def increment(self, key: str, delta: int = 1, *, timeout: float | None = None) -> int:
        """Add to an integer (absent counts as 0) without losing a concurrent update; the new value."""
        if type(delta) is not int or not -MAX_INTEGER <= delta <= MAX_INTEGER:
            raise StorageDataError("expected a 64-bit integer", field="delta")
        return await self._by(timeout).increment(check_key(key), delta, version=new_version())

    async def touch(self, key: str, *, ttl: Ttl | None, timeout: float | None = None) -> bool:
        """Set the expiry (None: never) and keep value and version; whether the key was there."""
        return await self._by(timeout).touch(check_key(key), expires_at=expiry(ttl, self._clock))

    async def ttl(self, key: str, *, timeout: float | None = None) -> float | None:
        """Seconds left, None where it never expires; `StorageNotFoundError` where the key is absent."""
        record = await self._by(timeout).entry(check_key(key))
        if record is None:
            raise StorageNotFoundError("no such key", field="key")
        if record.expires_at is None:
            return None
        return max(record.expires_at - self._clock.now(), 0) / MICROSECONDS

    async def delete(self, key: str, *, timeout: float | None = None) -> bool:
        """Remove; whether something was there."""
        return await self._by(timeout).delete(check_key(key))

    async def delete_many(self, keys: Iterable[str], *, timeout: float | None = None) -> int:
        """Remove; how many were there."""
        return await self._by(timeout).delete_many(_keys(keys))

    async def count(self, prefix: str = "", *, where: Where | None = None, timeout: float | None = None) -> int:
        """How many keys start with `prefix`; with a filter, how many documents among them satisfy it."""
        if where is not None:
            return await self._count(prefix, where, timeout)
        return await self._by(timeout).count(check_text(prefix, field="prefix"))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys that start with `prefix`. No snapshot: concurrent writes may or may not be seen."""
        async for key, _ in self._records(prefix):
            yield key

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry[T]]:
        """The entries whose keys start with `prefix`, as `scan` lists them."""
        async for key, record in self._records(prefix):
            yield self._entry(key, record)

    async def page(
        self, prefix: str = "", *, limit: int = 100, cursor: str | None = None, timeout: float | None = None
    ) -> "tuple[list[Entry[T]], str | None]":
        """Up to `limit` entries and the cursor to continue with, None at the end.

        A cursor may be kept and used later, in another process too, for the same prefix and namespace.
        """
        check_text(prefix, field="prefix")
        if not check_limit(limit):
            raise StorageDataError("expected at least 1", field="limit")
        listing = f"{self._scope}\0{prefix}"
        after = None if cursor is None else decode_cursor(listing, cursor)
        page = await self._by(timeout).page(prefix, after, limit)
        following = None if page.after is None else encode_cursor(listing, page.after)
        return [self._entry(key, record) for key, record in page.items], following

    async def clear(self, *, timeout: float | None = None) -> int:
        """Remove every key of this namespace, its children excepted; how many there were."""
        return await self._by(timeout).clear()

    def _records(self, prefix: str) -> AsyncIterator[tuple[str, Record]]:
        check_text(prefix, field="prefix")
        return stream(lambda after: self._driver.page(prefix, after, PAGE))

    def _by(self, timeout: float | None) -> KeyValueDriver:
        return self._driver if timeout is None else within(self._driver, timeout)

    async def _write_once(
        self, key: str, value: T, expected: int | None, expires_at: int | None, timeout: float | None
    ) -> int:
        version, began = new_version(), perf_counter()
        body, tag, driver = self._codec.encode(value), self._tag, self._by(timeout)
        try:
            if expected is None:
                done = await driver.create(check_key(key), body, tag, version=version, expires_at=expires_at)
            else:
                done = await driver.replace(
                    check_key(key), body, tag, expected=expected, version=version, expires_at=expires_at
                )
        except StorageError as error:
            too_late = timeout is not None and isinstance(error, StorageTimeoutError)
            if too_late or error.outcome is not Outcome.UNKNOWN:
                raise
            left = None if timeout is None else max(timeout - (perf_counter() - began), 1e-6)
            done = await self._was_ours(key, version, error, left)
        if not done:
            what = "the key exists already" if expected is None else "the stored version is another one"
            raise StorageConflictError(what, field="key" if expected is None else "expected_version")
        return version

    async def _was_ours(self, key: str, version: int, error: StorageError, timeout: float | None) -> bool:
        """After a lost reply: our own version in place proves success, anything else proves nothing."""
        try:
            record = await self._by(timeout).entry(key)
        except StorageError as unread:
            raise error from unread
        if record is not None and record.version == version:
            return True
        what = f"the reply was lost and {'nothing' if record is None else 'another value'} is stored"
        raise StorageConflictError(what, field="key", outcome=Outcome.UNKNOWN) from error

    def _entry(self, key: str, record: Record, decode: Callable[[bytes], Any] | None = None) -> Entry[Any]:
        body, tag, version, created_at, updated_at, expires_at = record
        created = to_datetime(created_at)
        updated = created if updated_at == created_at else to_datetime(updated_at)
        expires = None if expires_at is None else to_datetime(expires_at)
        value = self._value(body, tag) if decode is None else decode(body)
        return Entry(key, value, version, created, updated, expires)

    def _value(self, body: bytes, tag: str) -> T:
        if tag != self._tag:
            self._check_codec(tag)
        try:
            return self._decode(body)
        except DecodeError as error:
            raise _damaged() from error

    def _check_codec(self, tag: str) -> None:
        if is_document(tag) and is_document(self._tag):  # whatever type wrote it: what fits is read
            return
        remedy = next((f"; {text}" for start, text in REMEDIES.items() if tag.startswith(start)), "")
        raise StorageDataError(f"the value was written as {tag!r} and is read as {self._tag!r}{remedy}", field="key")


def new_version() -> int:
    """An opaque 63-bit token, unique per write for all practical purposes."""
    return getrandbits(63)


def _damaged() -> StorageCorruptError:
    return StorageCorruptError("a stored value is not valid JSON")


def _keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise StorageDataError("expected several keys, not one string", field="keys")
    return list(dict.fromkeys(check_key(key) for key in keys))
