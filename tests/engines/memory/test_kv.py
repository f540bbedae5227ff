"""KV-1, KV-2, KV-4, G-6 on the driver."""

import pytest

from polymem.contracts.kv import KeyValueDriver
from polymem.core.clock import MICROSECONDS, ManualClock
from polymem.core.page import Page
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageDataError

pytestmark = pytest.mark.anyio


@pytest.fixture
def kv(engine: MemoryEngine) -> KeyValueDriver:
    driver = engine.drivers("a/").kv
    assert driver is not None
    return driver


async def put(
    kv: KeyValueDriver, key: str, body: bytes = b"1", version: int = 1, expires_at: int | None = None
) -> None:
    await kv.put(key, body, "json", version=version, expires_at=expires_at)


async def keys(kv: KeyValueDriver, prefix: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
    page = await kv.page(prefix, after, limit)
    return [key for key, _ in page.items], page.after


async def test_put_keeps_creation_and_clears_expiry(kv: KeyValueDriver, clock: ManualClock) -> None:
    start = clock.now()
    await put(kv, "k", b"1", 1, start + 5)
    clock.advance(1e-6)
    await put(kv, "k", b"2", 2)
    entry = await kv.entry("k")
    assert entry == (b"2", "json", 2, start, start + 1, None)
    assert await kv.get("k") == (b"2", "json")
    assert await kv.get_many(["k", "absent"]) == {"k": (b"2", "json")}


async def test_expired_is_absent_to_everything_at_once(kv: KeyValueDriver, clock: ManualClock) -> None:
    for key in ("get", "create", "update", "replace", "delete", "touch", "count"):
        await put(kv, key, b"7", 1, clock.now() + 1)
    clock.advance(1e-6)  # expires_at <= now is expired
    assert await kv.get("get") is None
    assert await kv.entry("get") is None
    assert await kv.get_many(["get"]) == {}
    assert not await kv.update("update", b"2", "json", version=2)
    assert not await kv.replace("replace", b"2", "json", expected=1, version=2, expires_at=None)
    assert not await kv.delete("delete")
    assert not await kv.touch("touch", expires_at=None)
    assert await kv.count("") == 0
    assert await kv.count("c") == 0
    assert await kv.page("", None, 10) == Page([], None)
    assert await kv.create("create", b"2", "json", version=2, expires_at=None)
    created = await kv.entry("create")
    assert created is not None
    assert created.created_at == clock.now()
    assert await kv.increment("get", 3, version=3) == 3
    assert await kv.clear() == 2


async def test_counting_between_two_expiries(kv: KeyValueDriver, clock: ManualClock) -> None:
    await put(kv, "soon", expires_at=clock.now() + 10)
    await put(kv, "later", expires_at=clock.now() + 20)
    clock.advance(15e-6)
    assert await kv.count("") == 1
    assert await kv.delete_many(["soon", "later"]) == 1


async def test_absent(kv: KeyValueDriver) -> None:
    assert await kv.get("k") is None
    assert not await kv.update("k", b"1", "json", version=1)
    assert not await kv.replace("k", b"1", "json", expected=0, version=1, expires_at=None)
    assert not await kv.touch("k", expires_at=None)
    assert await kv.delete_many(["k"]) == 0
    assert await kv.clear() == 0
    assert await kv.page("", None, 1) == Page([], None)


async def test_conditional_writes(kv: KeyValueDriver, clock: ManualClock) -> None:
    later = clock.now() + MICROSECONDS
    assert await kv.create("k", b"1", "json", version=1, expires_at=later)
    assert not await kv.create("k", b"2", "json", version=2, expires_at=None)
    assert not await kv.replace("k", b"2", "json", expected=9, version=2, expires_at=None)
    assert await kv.update("k", b"3", "json", version=3)
    entry = await kv.entry("k")
    assert entry is not None
    assert (entry.version, entry.expires_at) == (3, later)
    assert await kv.replace("k", b"4", "json", expected=3, version=4, expires_at=None)
    assert await kv.touch("k", expires_at=later)
    entry = await kv.entry("k")
    assert entry is not None
    assert (entry.body, entry.version, entry.expires_at) == (b"4", 4, later)
    assert await kv.delete_many(["k", "k", "absent"]) == 1


async def test_increment(kv: KeyValueDriver, clock: ManualClock) -> None:
    later = clock.now() + 5
    await put(kv, "n", b"-3", 1, later)
    assert await kv.increment("n", 10, version=2) == 7
    entry = await kv.entry("n")
    assert entry is not None
    assert (entry.body, entry.version, entry.expires_at) == (b"7", 2, later)
    assert await kv.increment("new", 2**63 - 1, version=1) == 2**63 - 1
    with pytest.raises(StorageDataError) as caught:
        await kv.increment("new", 1, version=2)
    assert caught.value.field == "delta"
    assert await kv.get("new") == (b"%d" % (2**63 - 1), "json")


@pytest.mark.parametrize("body", [b"1.0", b'"1"', b"true", b"null", b"1e3", b" 1", b"[1]", b"9" * 30, b"\xd9\xa1"])
async def test_increment_needs_an_integer(kv: KeyValueDriver, body: bytes) -> None:
    await put(kv, "k", body)
    with pytest.raises(StorageDataError):
        await kv.increment("k", 1, version=2)
    assert await kv.get("k") == (body, "json")


async def test_increment_needs_the_json_codec(kv: KeyValueDriver) -> None:
    await kv.put("k", b"1", "model:x.Y", version=1, expires_at=None)
    with pytest.raises(StorageDataError):
        await kv.increment("k", 1, version=2)


async def test_pages_in_code_point_order_under_mutation(kv: KeyValueDriver) -> None:
    for key in ("b%", "b", "a", "b_", "é", "ba", "😀", "c"):
        await put(kv, key)
    assert await keys(kv, "", None, 99) == (["a", "b", "b%", "b_", "ba", "c", "é", "😀"], None)
    assert await keys(kv, "b", None, 2) == (["b", "b%"], "b%")
    await kv.delete("b%")
    await put(kv, "bb")
    assert await keys(kv, "b", "b%", 2) == (["b_", "ba"], "ba")
    assert await keys(kv, "b", "ba", 2) == (["bb"], None)
    assert await keys(kv, "b", "a", 9) == (["b", "b_", "ba", "bb"], None)
    assert await kv.count("b") == 4


async def test_put_many_last_wins(kv: KeyValueDriver) -> None:
    await kv.put_many([("a", b"1", "json", 1, None), ("b", b"2", "json", 2, None), ("a", b"3", "json", 3, None)])
    assert await kv.get_many(["a", "b"]) == {"a": (b"3", "json"), "b": (b"2", "json")}


async def test_namespaces_are_disjoint(engine: MemoryEngine, kv: KeyValueDriver) -> None:
    root, below = engine.drivers("").kv, engine.drivers("a/b/").kv
    assert root is not None and below is not None
    await put(kv, "k", b"1")
    await put(below, "k", b"2")
    assert await root.get("k") is None
    assert await kv.count("") == 1
    assert await kv.clear() == 1
    assert await below.get("k") == (b"2", "json")
