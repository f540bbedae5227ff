"""Encryption (LAY-2): what was changed or moved, or sealed with another key, is not read."""

from typing import Any

import pytest
from layers.layered import NAMES, NEW, PART, opened, sealing

from polymem import Store
from polymem.errors import StorageAuthError, StorageCorruptError
from polymem.layers._keyring import OVERHEAD
from polymem.layers.encryption import Key, Keyring, rotate

pytestmark = pytest.mark.anyio


async def test_changed_values_are_refused(engine: Any, encrypted: Store) -> None:
    """Every single byte counts: header, nonce, ciphertext and tag. Nothing is changed by the attempt to read."""
    raw = engine.drivers("").kv
    await encrypted.kv.put("a", 7)
    body, tag = await raw.get("a")
    changed = [body[:i] + bytes([body[i] ^ 1]) + body[i + 1 :] for i in range(len(body))]
    for bad in [*changed, b"", body[:-1], body + b"x", b'{"plain": 1}']:
        await raw.put("a", bad, tag, version=1, expires_at=None)
        for call in (
            encrypted.kv.get,
            encrypted.kv.entry,
            encrypted.kv.increment,
            lambda k: encrypted.kv.get_many([k]),
        ):
            with pytest.raises((StorageCorruptError, StorageAuthError)):
                await call("a")
        assert await raw.get("a") == (bad, tag)
    await raw.put("a", body, tag, version=1, expires_at=None)
    assert await encrypted.kv.increment("a") == 8


async def test_moved_values_are_refused(engine: Any, encrypted: Store) -> None:
    """A sealed value belongs to its key, namespace and contract."""
    await encrypted.kv.put_many({"a": 1, "b": 2})
    body, tag = await engine.drivers("").kv.get("a")
    await engine.drivers("").kv.put("b", body, tag, version=1, expires_at=None)
    await engine.drivers("n/").kv.put("a", body, tag, version=1, expires_at=None)
    for kv in (encrypted.kv, encrypted.namespace("n").kv):
        with pytest.raises(StorageCorruptError, match="changed or moved"):
            [entry async for entry in kv.entries()]
    assert await encrypted.kv.get("a") == 1
    with pytest.raises(StorageCorruptError):
        await encrypted.kv.get("b")


async def test_changed_and_moved_turns_are_refused(engine: Any, encrypted: Store) -> None:
    raw = engine.drivers("").turns
    await encrypted.turns.append("s", "user", "first")
    await encrypted.turns.append("s", "user", "second", turn_id=5)
    first, second = await raw.page("s", None, 9, include_expired=False)
    bad = [
        first._replace(content=second.content),
        first._replace(id=second.id, content=second.content),
        first._replace(session_id="t"),
        first._replace(id="other"),
        first._replace(created_at=first.created_at + 1),
        second._replace(turn_id=6),
        first._replace(content='"plain"'),
        first._replace(content="aes-gcm:****"),
        first._replace(content=first.content[:-8]),
    ]
    for row in bad:
        await raw.append([row], replace=True)
        with pytest.raises(StorageCorruptError):
            await encrypted.turns.get(row.session_id, row.turn_id)
        await raw.delete(row.session_id, [row.turn_id])
        await raw.append([first, second], replace=True)
    assert [turn.content async for turn in encrypted.turns.scan("s")] == ["first", "second"]


async def test_changed_and_moved_blobs_are_refused(engine: Any, encrypted: Store) -> None:
    """Parts belong to their blob and number, what is known of a blob to its key; a range read notices too."""
    blobs, raw = encrypted.blobs(), engine.drivers("").blobs
    data = {key: bytes([65 + n]) * (2 * PART + 5) for n, key in enumerate("ab")}
    for key in "ab":
        await blobs.put(key, data[key])
    whole = {key: await _stored(raw, key) for key in "ab"}
    a, b, size = whole["a"], whole["b"], PART + OVERHEAD
    forged: list[tuple[bytes, int]] = [  # and where a range read must notice
        (b"\0" * len(a), 2 * PART),
        (b[:size] + a[size:], 0),
        (a[size : 2 * size] + a[:size] + a[2 * size :], PART),
        (a[:-1], 2 * PART),
        (a[: 2 * size], 2 * PART),
    ]
    for content, start in forged:
        await _forge(raw, "a", content)
        with pytest.raises(StorageCorruptError):
            await blobs.get("a")
        with pytest.raises(StorageCorruptError):
            await blobs.read("a", start, 5)
    info = await raw.info("default", "b")
    upload = await raw.begin("default")
    await raw.commit("default", upload, info._replace(key="c", version=upload))
    for call in (blobs.get, blobs.info, blobs.read, lambda k: blobs.copy(k, "d")):
        with pytest.raises(StorageCorruptError):
            await call("c")
    assert await blobs.get("b") == data["b"]


async def _stored(raw: Any, key: str) -> bytes:
    info = await raw.info("default", key)
    return bytes(await raw.read("default", info.version, 0, info.size))


async def _forge(raw: Any, key: str, content: bytes) -> None:
    """Replace the parts of a stored blob behind everybody's back."""
    from polymem.engines.memory.blobs import ContentTable

    info, size = await raw.info("default", key), PART + OVERHEAD
    parts = tuple(content[start : start + size] for start in range(0, len(content), size))
    raw._view.table(ContentTable, "", "default").put(info.version, parts)


async def test_ranges_of_blobs_open_their_parts_only(engine: Any, encrypted: Store) -> None:
    data = bytes(range(256)) * 4000
    await encrypted.blobs().put("a", data)
    await encrypted.blobs().copy("a", "b")
    for start, length in (
        (0, 1),
        (PART - 1, 2),
        (PART, PART),
        (PART - 3, 2 * PART),
        (len(data) - 1, 9),
        (10**7, 1),
    ):
        for key in "ab":
            assert await encrypted.blobs().read(key, start, length) == data[start : start + length]
    await _forge(
        engine.drivers("").blobs,
        "a",
        b"\0" * (PART + OVERHEAD) + (await _stored(engine.drivers("").blobs, "b"))[PART + OVERHEAD :],
    )
    assert await encrypted.blobs().read("a", PART, 9) == data[PART : PART + 9]


async def test_wrong_and_missing_keys(engine: Any, encrypted: Store) -> None:
    """A missing key is named by its id; a wrong one looks like a change. Nothing is written in either case."""
    await encrypted.kv.put("a", 1)
    await encrypted.turns.append("s", "user", "x")
    await encrypted.blobs().put("b", b"x")
    before = await engine.snapshot()
    missing, wrong = Keyring(Key("new", NEW)), Keyring(Key("old", NEW))
    for ring, kind, says in ((missing, StorageAuthError, "old"), (wrong, StorageCorruptError, "another one")):
        other = await opened(sealing(ring), engine=engine)
        for call in (
            other.kv.get("a"), other.kv.increment("a"), other.turns.get("s", 1), other.blobs().get("b"),
            other.blobs().copy("b", "c"), rotate(other, Keyring(Key("newer", NAMES), [ring._current])),
        ):  # fmt: skip
            with pytest.raises(kind, match=says):
                await call
    assert await engine.snapshot() == before
