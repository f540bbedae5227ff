"""Key-value storage: hostile names and bad input (G-2, G-4)."""

from decimal import Decimal
from typing import Any, Final

from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import HOSTILE, NOT_TEXT, TOO_LONG
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit

_NOT_JSON: Final[tuple[Any, ...]] = (
    float("nan"), float("inf"), -float("inf"), b"bytes", {1: 2}, {None: 1}, {"a": {2: 3}}, [float("nan")], {"a": {1, 2}},
    object(), Decimal(1), "a\x00", "\ud800", {"a\x00": 1}, {"\udfff": 1}, ["\udc00"], 1j,
)  # fmt: skip


@clause("kv")
async def hostile_keys(kit: Kit) -> None:
    """Every key of 1 to 512 bytes is its own key: patterns, quotes, separators, case and normal forms mean nothing."""
    kv = kit.store.kv
    await kv.put_many({key: number for number, key in enumerate(HOSTILE)})
    assert await kv.get_many(HOSTILE) == {key: number for number, key in enumerate(HOSTILE)}
    assert sorted(await listed(kv.scan())) == sorted(HOSTILE)
    for number, key in enumerate(HOSTILE):
        assert await kv.get(key) == number
        assert await kv.delete(key)
        assert not await kv.exists(key)
        assert await kv.count() == len(HOSTILE) - number - 1


@clause("kv")
async def hostile_prefixes(kit: Kit) -> None:
    """A prefix is taken literally, whatever characters it holds."""
    kv = kit.store.kv
    await kv.put_many(dict.fromkeys(HOSTILE, 0))
    for prefix in {key[:length] for key in HOSTILE for length in (1, 2, 3)}:
        wanted = sorted(key for key in HOSTILE if key.startswith(prefix))
        assert sorted(await listed(kv.scan(prefix))) == wanted, ascii(prefix)
        assert await kv.count(prefix) == len(wanted), ascii(prefix)


@clause("kv")
async def keys_next_to_each_other(kit: Kit) -> None:
    """Touching, deleting and incrementing one key leaves those that look like it alone."""
    kv = kit.store.kv
    for key in ("a", "A", "a ", "a\u0301", "\u00e1", "a%", "a_", "ab"):
        await kv.put(key, 0)
    await kv.increment("a")
    await kv.touch("A", ttl=1)
    await kv.delete("a_")
    kit.clock.advance(1)
    left = {key: await kv.get(key) for key in ("a", "A", "a ", "a\u0301", "\u00e1", "a%", "a_", "ab")}
    assert left == {"a": 1, "A": None, "a ": 0, "a\u0301": 0, "\u00e1": 0, "a%": 0, "a_": None, "ab": 0}


@clause("kv")
async def bad_keys(kit: Kit) -> None:
    """What is not 1 to 512 bytes of text is refused by every operation, naming `key`, and nothing is written."""
    kv: Any = kit.store.kv
    for key in (*NOT_TEXT, *TOO_LONG):
        for call in (
            kv.get, kv.entry, kv.exists, kv.delete, kv.ttl, kv.increment,
            lambda k: kv.put(k, 1), lambda k: kv.create(k, 1), lambda k: kv.update(k, 1), lambda k: kv.touch(k, ttl=1),
            lambda k: kv.compare_and_set(k, None, 1), lambda k: kv.get_many([k]), lambda k: kv.delete_many([k]),
        ):  # fmt: skip
            with refused(StorageDataError, field="key"):
                await call(key)
    assert await kv.count() == 0


@clause("kv")
async def bad_values(kit: Kit) -> None:
    """What JSON cannot hold is refused, naming the place inside the value, and what was stored stays."""
    kv: Any = kit.store.kv
    await kv.put("a", "old")
    for value in _NOT_JSON:
        for call in (kv.put, kv.create, kv.update):
            with refused(StorageDataError, field="value"):
                await call("a", value)
        with refused(StorageDataError, field="value"):
            await kv.compare_and_set("a", None, value)
        with refused(StorageDataError, field="value"):
            await kv.put_many({"b": 1, "a": value})
    assert await kv.get("a") == "old"
    assert await kv.count() == 1


@clause("kv")
async def bad_batch_writes_nothing(kit: Kit) -> None:
    """One bad item of put_many stops all of them (KV-1)."""
    kv: Any = kit.store.kv
    for items in ({"a": 1, "": 2}, {"a": 1, "b": float("nan")}):
        with refused(StorageDataError):
            await kv.put_many(items)
    for wrong in ([("a", 1)], "a", None, 1):
        with refused(StorageDataError, field="items"):
            await kv.put_many(wrong)
    for keys in ("a", None, 1):
        with refused(StorageDataError, field="keys"):
            await kv.get_many(keys)
        with refused(StorageDataError, field="keys"):
            await kv.delete_many(keys)
    assert await kv.count() == 0


@clause("kv")
async def bad_options(kit: Kit) -> None:
    """A ttl, delta, version or prefix of the wrong kind is refused by its name, and nothing is written."""
    kv: Any = kit.store.kv
    for ttl in ("1", True, float("nan"), float("inf"), [1], 1e30):
        for call in (kv.put, kv.create):
            with refused(StorageDataError, field="ttl"):
                await call("a", 1, ttl=ttl)
        with refused(StorageDataError, field="ttl"):
            await kv.touch("a", ttl=ttl)
    for delta in (1.0, True, "1", None, 2**63, -(2**63)):
        with refused(StorageDataError, field="delta"):
            await kv.increment("a", delta)
    for version in ("1", 1.0, True):
        with refused(StorageDataError, field="expected_version"):
            await kv.compare_and_set("a", version, 1)
    for prefix in (None, 1, b"a", "\ud800"):
        with refused(StorageDataError, field="prefix"):
            await kv.count(prefix)
        with refused(StorageDataError, field="prefix"):
            await listed(kv.scan(prefix))
    assert await kv.count() == 0
