"""Encryption with `hide_keys` (LAY-2): no name is readable, and what that costs is refused."""

import asyncio
from typing import Any

import pytest
from layers.layered import NAMES, NEW, OLD, opened

from polymem.core.registry import create_engine
from polymem.errors import StorageCorruptError, StorageUnsupportedError
from polymem.layers.encryption import Encryption, Key, Keyring, rotate
from polymem.testing.clause import clauses
from polymem.testing.harness import EngineHarness, capabilities
from polymem.testing.run import run_clause

pytestmark = pytest.mark.anyio


HIDING = Keyring(Key("old", OLD), names=NAMES)


def _sealing(ring: Keyring = HIDING, **options: Any) -> Encryption:
    return Encryption(ring, **options)


async def test_hidden_names(engine: Any) -> None:
    """Neither keys nor ids are readable; each record still says its own name."""
    store = await opened(_sealing(hide_keys=True), engine=engine)
    for room in (store, store.namespace("n")):
        await room.kv.put_many({"user/ada-lovelace": 1, "user/bob": 2})
        await room.turns.append("session-ada-lovelace", "user", "x", id="turn-ada-lovelace")
        await room.blobs().put("blob-ada-lovelace", b"x")
        await room.blobs("other").put("blob-ada-lovelace", b"x")
    snapshot = await engine.snapshot()
    assert b"ada-lovelace" not in snapshot
    assert b"user/" not in snapshot
    assert sorted([key async for key in store.kv.scan()]) == ["user/ada-lovelace", "user/bob"]
    assert [blob.key async for blob in store.blobs().scan()] == ["blob-ada-lovelace"]
    assert [session async for session in store.turns.sessions()] == ["session-ada-lovelace"]
    turn = await store.turns.get("session-ada-lovelace", 1)
    assert turn is not None
    assert (turn.id, turn.session_id) == ("turn-ada-lovelace", "session-ada-lovelace")
    names = {
        key for page in [await engine.drivers(ns).kv.page("", None, 9) for ns in ("", "n/")] for key, _ in page.items
    }
    assert len(names) == 4, "the same key in two namespaces must not be recognisable"
    assert not store.kv.features.ordered
    assert not store.turns.features.ordered
    assert not store.blobs().features.ordered


async def test_hidden_names_have_no_prefix() -> None:
    store = await opened(_sealing(hide_keys=True))
    await store.kv.put("ab", 1)
    for call in (
        store.kv.count("a"), store.kv.page("a"), _listed(store.kv.scan("a")), _listed(store.kv.entries("a")),
        _listed(store.blobs().scan("a")), store.blobs().count("a"),
    ):  # fmt: skip
        with pytest.raises(StorageUnsupportedError, match="hide_keys"):
            await call
    assert await store.kv.count() == 1


async def _listed(items: Any) -> list[Any]:
    return [item async for item in items]


async def test_hidden_pages_go_on_from_their_cursor() -> None:
    store = await opened(_sealing(hide_keys=True))
    await store.kv.put_many({f"{n}": n for n in range(25)})
    found, cursor = [], None
    while True:
        entries, cursor = await store.kv.page(limit=10, cursor=cursor)
        found += [entry.value for entry in entries]
        if cursor is None:
            break
    assert sorted(found) == list(range(25))


async def test_hidden_and_shown_names_do_not_mix() -> None:
    engine = create_engine("memory:")
    hidden = await opened(_sealing(hide_keys=True), engine=engine)
    shown = await opened(_sealing(), engine=engine)
    await hidden.kv.put("a", 1)
    with pytest.raises(StorageCorruptError, match="hide_keys"):
        await _listed(shown.kv.entries())
    await hidden.kv.clear()
    await shown.kv.put("a", 1)
    with pytest.raises(StorageCorruptError, match="hide_keys"):
        await _listed(hidden.kv.entries())


async def test_hidden_names_outlive_a_rotation() -> None:
    engine = create_engine("memory:")
    old = await opened(_sealing(hide_keys=True), engine=engine)
    await old.kv.put("a", 1)
    await old.turns.append("s", "user", "x")
    await old.blobs().put("b", b"x")
    both = Keyring(Key("new", NEW), [Key("old", OLD)], names=NAMES)
    assert (await rotate(old, both)).rewritten == 3
    new = await opened(_sealing(Keyring(Key("new", NEW), names=NAMES), hide_keys=True), engine=engine)
    assert (await new.kv.get("a"), await new.turns.count("s"), await new.blobs().get("b")) == (1, 1, b"x")


FIND_BY_PREFIX = {
    "kv.count-and-scan-by-prefix",
    "kv.expired-is-absent-to-everything",
    "kv.hostile-prefixes",
    "kv.deleting-by-prefix",
    "kv.many-readers-and-writers",
}
EXPECT_ORDER = {
    "blobs.listing-by-prefix",
    "turns.sessions-in-order",
    *(
        f"transactions.{contract}-{what}"
        for contract in ("kv", "turns", "blobs")
        for what in ("rollback", "savepoints")
    ),
}


def test_the_suite_with_hidden_names() -> None:
    """Every clause holds but the ones that find by prefix, which is refused, or expect an order, of which there is none."""
    from polymem.engines.memory.engine import MemoryEngine

    layer = _sealing(hide_keys=True)
    harness = EngineHarness(lambda _, clock: MemoryEngine(clock), layers=[layer])
    chosen = [c for c in clauses(asyncio.run(capabilities(harness))) if c.id not in EXPECT_ORDER]
    assert {clause.id for clause in chosen} >= FIND_BY_PREFIX
    for clause in chosen:
        if clause.id in FIND_BY_PREFIX:
            with pytest.raises(StorageUnsupportedError, match="hide_keys"):
                asyncio.run(run_clause(clause, harness))
        else:
            asyncio.run(run_clause(clause, harness))
