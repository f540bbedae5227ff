"""Encryption (LAY-2): nothing readable is stored, nothing forged or moved is read, keys rotate."""

import asyncio
import hashlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

import polymem
from polymem import Memory, Store
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.errors import (
    StorageAuthError,
    StorageCorruptError,
    StorageDataError,
    StorageUnsupportedError,
)
from polymem.layers._keyring import OVERHEAD
from polymem.layers.compression import Compression
from polymem.layers.encryption import Encryption, Key, Keyring, rotate
from polymem.opened import Session

OLD, NEW, NAMES = b"o" * 32, b"n" * 32, b"h" * 32
OLD_RING = Keyring(Key("old", OLD))
WORD = "confidential-plaintext"
PART = 256 * 1024 - OVERHEAD


def _run(scenario: Any) -> None:
    asyncio.run(scenario())


async def _open(*layers: Any, engine: Any = None) -> Store:
    """Stores over one engine; opening it twice is harmless."""
    return await Store(Session(engine or create_engine("memory:"), sweep_every=None, layers=layers))


def _sealing(ring: Keyring = OLD_RING, **options: Any) -> Encryption:
    return Encryption(ring, **options)


def test_no_plaintext_in_the_file(tmp_path: Path) -> None:
    """The bytes of the SQLite file hold nothing of values, turns, roles, metadata, blobs or codec names."""

    async def scenario(hide: bool, path: Path) -> None:
        encryption = _sealing(Keyring(Key("old", OLD), names=NAMES), hide_keys=hide)
        async with polymem.open(f"sqlite:///{path}", encryption=encryption, sweep_every=None) as store:
            room = store.namespace("acme")
            await room.kv.put("readable-key", {WORD: WORD})
            await room.kv.typed(Secretive).put("typed", Secretive(WORD))
            await room.turns.append("readable-session", f"role-{WORD}", WORD, metadata={WORD: 1}, id="readable-id")
            await room.blobs().put(
                "readable-blob", WORD.encode() * 20_000, metadata={WORD: 1}, content_type=f"x/{WORD}"
            )
            await room.blobs().copy("readable-blob", "readable-copy")
            async with store.transaction() as tx:
                await tx.kv.put("readable-tx", WORD)

    for hide in (False, True):
        path = tmp_path / f"{hide}.db"
        asyncio.run(scenario(hide, path))
        stored = b"".join(file.read_bytes() for file in tmp_path.glob(f"{hide}.db*"))
        assert WORD.encode() not in stored
        assert b"Secretive" not in stored
        assert OLD not in stored
        assert NAMES not in stored
        assert (b"readable" in stored) is not hide


class Secretive:
    """A type whose name is nobody's business."""

    __slots__ = ("word",)

    def __init__(self, word: str) -> None:
        self.word = word

    @classmethod
    def model_validate_json(cls, body: bytes) -> "Secretive":
        return cls(json.loads(body))

    def model_dump_json(self, **_options: object) -> str:
        return json.dumps(self.word)


def test_reads_what_it_wrote_and_says_what_is_gone() -> None:
    async def scenario() -> None:
        store = await _open(_sealing())
        await store.kv.put("a", {"n": 1})
        assert await store.kv.get("a") == {"n": 1}
        assert set(store.features()) == {"kv", "turns", "blobs", "transactions", "events"}
        for refused in (
            lambda: store.vectors("v", dimensions=3),
            lambda: store.text("t"),
            store.graph,
            lambda: store.sql,
        ):
            with pytest.raises(StorageUnsupportedError):
                refused()
        with pytest.raises(StorageUnsupportedError):
            await store.kv.count(where={"n": 1})

    _run(scenario)


def test_nothing_unknown_passes() -> None:
    """Fails closed: only transactions, and events, which tell of keys, are handed on as they are."""
    from dataclasses import fields

    from polymem.contracts.drivers import Drivers

    known = {"kv", "turns", "blobs"}
    everything: Any = Drivers(**{field.name: object() for field in fields(Drivers) if field.name not in known})
    passed = {name for name in everything.__slots__ if getattr(_sealing()(everything, ""), name) is not None}
    assert passed == {"transactions", "events"}


def test_same_value_never_looks_the_same() -> None:
    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        raw, seen = engine.drivers("").kv, set()
        for _ in range(50):
            await store.kv.put("a", 1)
            seen.add((await raw.get("a"))[0])
        assert len(seen) == 50

    _run(scenario)


def test_changed_values_are_refused() -> None:
    """Every single byte counts: header, nonce, ciphertext and tag. Nothing is changed by the attempt to read."""

    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        raw = engine.drivers("").kv
        await store.kv.put("a", 7)
        body, tag = await raw.get("a")
        changed = [body[:i] + bytes([body[i] ^ 1]) + body[i + 1 :] for i in range(len(body))]
        for bad in [*changed, b"", body[:-1], body + b"x", b'{"plain": 1}']:
            await raw.put("a", bad, tag, version=1, expires_at=None)
            for call in (store.kv.get, store.kv.entry, store.kv.increment, lambda k: store.kv.get_many([k])):
                with pytest.raises((StorageCorruptError, StorageAuthError)):
                    await call("a")
            assert await raw.get("a") == (bad, tag)
        await raw.put("a", body, tag, version=1, expires_at=None)
        assert await store.kv.increment("a") == 8

    _run(scenario)


def test_moved_values_are_refused() -> None:
    """A sealed value belongs to its key, namespace and contract."""

    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        await store.kv.put_many({"a": 1, "b": 2})
        body, tag = await engine.drivers("").kv.get("a")
        await engine.drivers("").kv.put("b", body, tag, version=1, expires_at=None)
        await engine.drivers("n/").kv.put("a", body, tag, version=1, expires_at=None)
        for kv in (store.kv, store.namespace("n").kv):
            with pytest.raises(StorageCorruptError, match="changed or moved"):
                [entry async for entry in kv.entries()]
        assert await store.kv.get("a") == 1
        with pytest.raises(StorageCorruptError):
            await store.kv.get("b")

    _run(scenario)


def test_changed_and_moved_turns_are_refused() -> None:
    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        raw = engine.drivers("").turns
        await store.turns.append("s", "user", "first")
        await store.turns.append("s", "user", "second", turn_id=5)
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
                await store.turns.get(row.session_id, row.turn_id)
            await raw.delete(row.session_id, [row.turn_id])
            await raw.append([first, second], replace=True)
        assert [turn.content async for turn in store.turns.scan("s")] == ["first", "second"]

    _run(scenario)


def test_changed_and_moved_blobs_are_refused() -> None:
    """Parts belong to their blob and number, what is known of a blob to its key; a range read notices too."""

    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        blobs, raw = store.blobs(), engine.drivers("").blobs
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

    _run(scenario)


async def _stored(raw: Any, key: str) -> bytes:
    info = await raw.info("default", key)
    return bytes(await raw.read("default", info.version, 0, info.size))


async def _forge(raw: Any, key: str, content: bytes) -> None:
    """Replace the parts of a stored blob behind everybody's back."""
    from polymem.engines.memory.blobs import ContentTable

    info, size = await raw.info("default", key), PART + OVERHEAD
    parts = tuple(content[start : start + size] for start in range(0, len(content), size))
    raw._view.table(ContentTable, "", "default").put(info.version, parts)


def test_ranges_of_blobs_open_their_parts_only() -> None:
    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        data = bytes(range(256)) * 4000
        await store.blobs().put("a", data)
        await store.blobs().copy("a", "b")
        for start, length in (
            (0, 1),
            (PART - 1, 2),
            (PART, PART),
            (PART - 3, 2 * PART),
            (len(data) - 1, 9),
            (10**7, 1),
        ):
            for key in "ab":
                assert await store.blobs().read(key, start, length) == data[start : start + length]
        await _forge(
            engine.drivers("").blobs,
            "a",
            b"\0" * (PART + OVERHEAD) + (await _stored(engine.drivers("").blobs, "b"))[PART + OVERHEAD :],
        )
        assert await store.blobs().read("a", PART, 9) == data[PART : PART + 9]

    _run(scenario)


def test_checksums_are_of_the_plain_bytes_and_not_stored() -> None:
    """A stored checksum would tell whoever knows a text that it is there."""

    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        made = await store.blobs().put("a", WORD.encode())
        assert made.checksum == hashlib.sha256(WORD.encode()).hexdigest()
        assert made.checksum.encode() not in await engine.snapshot()

    _run(scenario)


def test_a_version_survives_what_callers_do_with_it() -> None:
    async def scenario() -> None:
        store = await _open(_sealing())
        made = await store.blobs().put("a", b"1")
        found = await store.blobs().info("a")
        assert found == made
        assert json.loads(json.dumps(found.version)) == made.version
        assert pickle.loads(pickle.dumps(found)) == found

    _run(scenario)


def test_wrong_and_missing_keys() -> None:
    """A missing key is named by its id; a wrong one looks like a change. Nothing is written in either case."""

    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        await store.kv.put("a", 1)
        await store.turns.append("s", "user", "x")
        await store.blobs().put("b", b"x")
        before = await engine.snapshot()
        missing, wrong = Keyring(Key("new", NEW)), Keyring(Key("old", NEW))
        for ring, kind, says in ((missing, StorageAuthError, "old"), (wrong, StorageCorruptError, "another one")):
            other = await _open(_sealing(ring), engine=engine)
            for call in (
                other.kv.get("a"), other.kv.increment("a"), other.turns.get("s", 1), other.blobs().get("b"),
                other.blobs().copy("b", "c"), rotate(other, Keyring(Key("newer", NAMES), [ring._current])),
            ):  # fmt: skip
                with pytest.raises(kind, match=says):
                    await call
        assert await engine.snapshot() == before

    _run(scenario)


def test_plain_and_sealed_stores_do_not_mix() -> None:
    async def scenario() -> None:
        engine = create_engine("memory:")
        plain, sealed = await _open(engine=engine), await _open(_sealing(), engine=engine)
        await plain.kv.put("plain", 1)
        await plain.turns.append("plain", "user", "x")
        await plain.blobs().put("plain", b"x")
        for call in (sealed.kv.get("plain"), sealed.turns.get("plain", 1), sealed.blobs().get("plain")):
            with pytest.raises(StorageCorruptError, match="without encryption"):
                await call
        await sealed.kv.put("sealed", 1)
        await sealed.turns.append("sealed", "user", "x")
        await sealed.blobs().put("sealed", b"x")
        with pytest.raises(StorageDataError, match="written as 'aes-gcm'.*encryption="):
            await plain.kv.get("sealed")
        with pytest.raises(StorageDataError, match="aes-gcm"):
            await plain.turns.get("sealed", 1)
        with pytest.raises(StorageCorruptError):
            await plain.blobs().get("sealed")

    _run(scenario)


def test_increment_loses_nothing_and_keeps_the_expiry(tmp_path: Path) -> None:
    """The engine cannot add to ciphertext, so the layer reads, adds, compares and sets."""

    async def scenario() -> None:
        url, clock = f"sqlite:///{tmp_path}/a.db", ManualClock()
        first, second = (polymem.open(url, encryption=OLD_RING, clock=clock) for _ in range(2))
        async with first as one, second as two:
            await one.kv.put("n", 0, ttl=10)
            await asyncio.gather(*(store.kv.increment("n") for store in (one, two) for _ in range(40)))
            assert await two.kv.get("n") == 80
            assert await two.kv.ttl("n") == 10

    _run(scenario)


def test_transactions_are_sealed_too() -> None:
    async def scenario() -> None:
        engine = create_engine("memory:")
        store = await _open(_sealing(), engine=engine)
        async with store.transaction() as tx:
            await tx.kv.put("a", WORD)
            await tx.kv.increment("n")
            await tx.turns.append("s", "user", WORD)
            await tx.blobs().put("b", WORD.encode())
            assert await tx.kv.get("a") == WORD
            assert not tx.supports("vectors")
        assert WORD.encode() not in await engine.snapshot()
        assert (await store.kv.get("n"), await store.blobs().get("b")) == (1, WORD.encode())

    _run(scenario)


def test_compressed_then_sealed() -> None:
    """The library orders the layers: what is stored is short and unreadable."""

    async def scenario() -> None:
        async with polymem.open("memory:", compression=True, encryption=OLD_RING) as store:
            await store.kv.put("a", WORD * 1000)
            body, tag = await store.engine.drivers("").kv.get("a")
            assert tag == "aes-gcm"
            assert len(body) < 300
            assert await store.kv.get("a") == WORD * 1000

    _run(scenario)


def test_secrets_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not in repr, str, errors, logs, nor where a debugger looks first."""
    secret, names = bytes(range(32, 64)), bytes(range(64, 96))
    ring = Keyring(Key("k1", secret), [Key("k0", NEW)], names=names)

    async def scenario() -> list[str]:
        engine = create_engine("memory:")
        store = await _open(Encryption(ring, hide_keys=True), engine=engine)
        await store.kv.put("a", WORD)
        other = await _open(Encryption(Keyring(Key("k1", NEW), names=names), hide_keys=True), engine=engine)
        with pytest.raises(StorageCorruptError) as caught:
            await other.kv.get("a")
        return [repr(store), str(caught.value), repr(caught.value), repr(caught.value.__cause__)]

    with caplog.at_level(logging.DEBUG):
        shown = asyncio.run(scenario())
    encryption = Encryption(ring, hide_keys=True)
    shown += [repr(thing) for thing in (ring, ring._current, encryption, vars(encryption))]
    shown += [str(ring), f"{encryption}", caplog.text]
    for hidden in (secret, names, WORD.encode()):
        for form in (hidden.decode("ascii"), hidden.hex(), repr(hidden)[2:-1]):
            assert not any(form in text for text in shown)
    assert repr(ring) == "<Keyring k1, k0>"


def test_bad_keys() -> None:
    for secret in (b"", b"x" * 31, b"x" * 16, "x" * 32, None):
        with pytest.raises(StorageDataError) as caught:
            Key("a", secret)  # type: ignore[arg-type]
        assert caught.value.field == "secret"
    for id in ("", "x" * 17, "a b", "\u00e9", None, 1):
        with pytest.raises(StorageDataError) as caught:
            Key(id, NEW)  # type: ignore[arg-type]
        assert caught.value.field == "id"
    with pytest.raises(StorageDataError, match="same id"):
        Keyring(Key("a", OLD), [Key("a", NEW)])
    for given, field in (
        ((NEW,), "current"),
        ((Key("a", NEW), [OLD]), "previous"),
        ((Key("a", NEW), Key("b", OLD)), "previous"),
    ):
        with pytest.raises(StorageDataError) as caught:
            Keyring(*given)  # type: ignore[arg-type]
        assert caught.value.field == field
    with pytest.raises(StorageDataError) as caught:
        Encryption(OLD_RING, hide_keys=True)
    assert caught.value.field == "names"
    for wrong in ("secret", NEW, True, Key("a", NEW)):
        with pytest.raises(StorageDataError) as caught:
            polymem.open("memory:", encryption=wrong)  # type: ignore[arg-type]
        assert caught.value.field == "encryption"


def test_a_memory_is_not_encrypted() -> None:
    """It is searched, so it is refused with the remedy."""
    with pytest.raises(StorageUnsupportedError, match="cipher.*disk"):
        Memory.open("memory:", encryption=OLD_RING)
    with pytest.raises(StorageUnsupportedError):
        Memory(polymem.open("memory:", encryption=OLD_RING))
    Memory.open("memory:", compression=Compression(), embed=None)


def test_the_documented_code_runs(tmp_path: Path) -> None:
    """docs/encryption.md, as it stands (DOC-1)."""
    import re
    import subprocess
    import sys

    page = (Path(__file__).parents[2] / "docs" / "encryption.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "2 records have the new key\n{'dark': True}\n"
