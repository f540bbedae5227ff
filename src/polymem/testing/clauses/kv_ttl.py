"""Key-value storage: expiry by the engine's clock (KV-2, G-6)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from polymem.core.clock import to_datetime
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError
from polymem.testing.clause import clause
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit


@clause("kv")
async def ttl_expires(kit: Kit) -> None:
    """Expired means expires_at <= now: there until just before that instant, gone at it."""
    kv = kit.store.kv
    await kv.put("a", 1, ttl=10)
    kit.clock.advance(10 - kv.features.ttl_resolution)
    assert await kv.get("a") == 1
    kit.clock.advance(kv.features.ttl_resolution)
    assert await kv.get("a") is None


@clause("kv")
async def expired_is_absent_to_everything(kit: Kit) -> None:
    """Swept or not, no operation sees an expired record (G-6)."""
    kv = kit.store.kv
    version = await kv.put("a", 5, ttl=1)
    await kv.put("b", 0)
    kit.clock.advance(1)
    assert await kv.get("a", "gone") == "gone"
    assert await kv.entry("a") is None
    assert not await kv.exists("a")
    assert await kv.get_many(["a", "b"]) == {"b": 0}
    assert await kv.count() == await kv.count("") == 1
    assert await kv.count("a") == 0
    assert await listed(kv.scan()) == ["b"]
    assert [entry.key async for entry in kv.entries()] == ["b"]
    assert not await kv.touch("a", ttl=10)
    with refused(StorageNotFoundError):
        await kv.update("a", 1)
    with refused(StorageNotFoundError):
        await kv.ttl("a")
    with refused(StorageConflictError):
        await kv.compare_and_set("a", version, 1)
    assert not await kv.delete("a")
    assert await kv.delete_many(["a", "b"]) == 1


@clause("kv")
async def clear_counts_the_living(kit: Kit) -> None:
    """Clear counts what a reader would have seen."""
    await kit.store.kv.put("a", 1, ttl=1)
    await kit.store.kv.put("b", 1)
    kit.clock.advance(1)
    assert await kit.store.kv.clear() == 1


@clause("kv")
async def expired_keys_are_free(kit: Kit) -> None:
    """Where a record has expired, create, compare_and_set and increment start anew."""
    kv = kit.store.kv
    await kv.put_many({"a": 1, "b": 1, "c": 41, "d": 1}, ttl=1)
    kit.clock.advance(2)
    await kv.create("a", 2)
    await kv.compare_and_set("b", None, 3)
    assert await kv.increment("c") == 1
    await kv.put("d", 4)
    assert await kv.get_many(list("abcd")) == {"a": 2, "b": 3, "c": 1, "d": 4}
    for key in "abcd":
        entry = await kv.entry(key)
        assert entry is not None
        assert entry.expires_at is None
        assert entry.created_at == to_datetime(kit.clock.now()), key


@clause("kv")
async def past_expiry_is_legal(kit: Kit) -> None:
    """A ttl of 0 or less, or an instant gone by, stores a record that is expired already."""
    kv = kit.store.kv
    await kv.put("z", 1)
    past = to_datetime(kit.clock.now()) - timedelta(days=1)
    for ttl in (0, -1, timedelta(seconds=-5), past, datetime(1970, 1, 1, tzinfo=UTC)):
        await kv.put("z", 1)
        await kv.put("z", 2, ttl=ttl)
        assert await kv.get("z") is None
        assert await kv.count() == 0
        await kv.create("z", 3, ttl=ttl)
        assert not await kv.exists("z")


@clause("kv")
async def ttl_forms(kit: Kit) -> None:
    """Seconds, a timedelta and an aware instant mean the same; a naive one is refused (G-5)."""
    kv = kit.store.kv
    until = to_datetime(kit.clock.now()) + timedelta(seconds=30)
    forms: dict[str, Any] = {"a": 30, "b": 30.0, "c": timedelta(seconds=30), "d": until}
    for key, ttl in forms.items():
        await kv.put(key, 1, ttl=ttl)
        assert await kv.ttl(key) == 30
        entry = await kv.entry(key)
        assert entry is not None
        assert entry.expires_at == until
    with refused(StorageDataError, field="ttl"):
        await kv.put("e", 1, ttl=datetime(2099, 1, 1))  # noqa: DTZ001 - that is what is refused


@clause("kv")
async def who_keeps_the_expiry(kit: Kit) -> None:
    """Put and compare_and_set without a ttl clear it; update, increment and touch keep or set it."""
    kv = kit.store.kv
    version = await kv.put("a", 1, ttl=10)
    await kv.update("a", 2)
    assert await kv.ttl("a") == 10
    await kv.increment("a")
    assert await kv.ttl("a") == 10
    assert await kv.touch("a", ttl=20)
    assert await kv.ttl("a") == 20
    assert await kv.touch("a", ttl=None)
    assert await kv.ttl("a") is None
    await kv.touch("a", ttl=5)
    entry = await kv.entry("a")
    assert entry is not None
    assert entry.version != version
    await kv.compare_and_set("a", entry.version, 3)
    assert await kv.ttl("a") is None
    await kv.put("a", 1, ttl=10)
    await kv.put("a", 1)
    assert await kv.ttl("a") is None
    await kv.put("a", 1, ttl=10)
    await kv.put_many({"a": 1})
    assert await kv.ttl("a") is None


@clause("kv")
async def touch_changes_nothing_else(kit: Kit) -> None:
    """Touch keeps value, version and both instants; touching into the past expires at once."""
    kv = kit.store.kv
    await kv.put("a", 1)
    before = await kv.entry("a")
    kit.clock.advance(1)
    await kv.touch("a", ttl=7)
    after = await kv.entry("a")
    assert before is not None
    assert after is not None
    assert after == before._replace(expires_at=to_datetime(kit.clock.now()) + timedelta(seconds=7))
    assert await kv.touch("a", ttl=0)
    assert not await kv.exists("a")


@clause("kv", needs=lambda f: f.ttl_resolution <= 1e-6)
async def fractions_of_a_second(kit: Kit) -> None:
    """Sub-second lives end at their microsecond, rounded up (KV-2)."""
    kv = kit.store.kv
    await kv.put_many({"a": 1}, ttl=0.25)
    await kv.put("b", 1, ttl=1e-7)
    kit.clock.advance(0.249999)
    assert await kv.exists("a")
    assert not await kv.exists("b")
    kit.clock.advance(0.000001)
    assert not await kv.exists("a")


@clause("kv")
async def sweeping_removes_just_the_expired(kit: Kit) -> None:
    """delete_expired says how many went and leaves the living; what it takes was invisible before."""
    kv = kit.store.kv
    await kv.put_many({f"old{number}": number for number in range(30)}, ttl=1)
    await kv.put_many({"live": 1, "later": 2})
    await kv.touch("later", ttl=1000)
    kit.clock.advance(1)
    assert await kit.store.delete_expired() >= 30
    assert await kit.store.delete_expired() == 0
    assert sorted(await listed(kv.scan())) == ["later", "live"]


@clause("kv")
async def pages_skip_the_expired(kit: Kit) -> None:
    """A page full of expired keys is no end of the listing."""
    kv = kit.store.kv
    await kv.put_many({f"a{number:04}": 0 for number in range(1100)}, ttl=1)
    await kv.put_many({"b": 0, "a0000.5": 0})
    kit.clock.advance(1)
    assert sorted(await listed(kv.scan())) == ["a0000.5", "b"]
