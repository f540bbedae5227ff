"""Encryption (LAY-2): nothing readable is stored, and no secret is shown."""

import asyncio
import hashlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from layers.layered import NAMES, NEW, OLD, OLD_RING, WORD, opened, sealing

import polymem
from polymem import Memory, Store
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.errors import StorageCorruptError, StorageDataError, StorageUnsupportedError
from polymem.layers.compression import Compression
from polymem.layers.encryption import Encryption, Key, Keyring

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("hide", [False, True])
async def test_no_plaintext_in_the_file(tmp_path: Path, hide: bool) -> None:
    """The bytes of the SQLite file hold nothing of values, turns, roles, metadata, blobs or codec names."""
    encryption = sealing(Keyring(Key("old", OLD), names=NAMES), hide_keys=hide)
    async with polymem.open(f"sqlite:///{tmp_path}/a.db", encryption=encryption, sweep_every=None) as store:
        room = store.namespace("acme")
        await room.kv.put("readable-key", {WORD: WORD})
        await room.kv.typed(Secretive).put("typed", Secretive(WORD))
        await room.turns.append("readable-session", f"role-{WORD}", WORD, metadata={WORD: 1}, id="readable-id")
        await room.blobs().put("readable-blob", WORD.encode() * 20_000, metadata={WORD: 1}, content_type=f"x/{WORD}")
        await room.blobs().copy("readable-blob", "readable-copy")
        async with store.transaction() as tx:
            await tx.kv.put("readable-tx", WORD)
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for secret in (WORD.encode(), b"Secretive", OLD, NAMES):
        assert secret not in stored
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


async def test_reads_what_it_wrote_and_says_what_is_gone(encrypted: Store) -> None:
    await encrypted.kv.put("a", {"n": 1})
    assert await encrypted.kv.get("a") == {"n": 1}
    assert set(encrypted.features()) == {"kv", "turns", "blobs", "transactions", "events"}
    for refused in (
        lambda: encrypted.vectors("v", dimensions=3),
        lambda: encrypted.text("t"),
        encrypted.graph,
        lambda: encrypted.sql,
    ):
        with pytest.raises(StorageUnsupportedError):
            refused()
    with pytest.raises(StorageUnsupportedError):
        await encrypted.kv.count(where={"n": 1})


async def test_same_value_never_looks_the_same(engine: Any, encrypted: Store) -> None:
    raw, seen = engine.drivers("").kv, set()
    for _ in range(50):
        await encrypted.kv.put("a", 1)
        seen.add((await raw.get("a"))[0])
    assert len(seen) == 50


async def test_checksums_are_of_the_plain_bytes_and_not_stored(engine: Any, encrypted: Store) -> None:
    """A stored checksum would tell whoever knows a text that it is there."""
    made = await encrypted.blobs().put("a", WORD.encode())
    assert made.checksum == hashlib.sha256(WORD.encode()).hexdigest()
    assert made.checksum.encode() not in await engine.snapshot()


async def test_a_version_survives_what_callers_do_with_it(encrypted: Store) -> None:
    made = await encrypted.blobs().put("a", b"1")
    found = await encrypted.blobs().info("a")
    assert found is not None
    assert found == made
    assert json.loads(json.dumps(found.version)) == made.version
    assert pickle.loads(pickle.dumps(found)) == found


async def test_plain_and_sealed_stores_do_not_mix() -> None:
    engine = create_engine("memory:")
    plain, sealed = await opened(engine=engine), await opened(sealing(), engine=engine)
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


async def test_increment_loses_nothing_and_keeps_the_expiry(tmp_path: Path) -> None:
    """The engine cannot add to ciphertext, so the layer reads, adds, compares and sets."""
    url, clock = f"sqlite:///{tmp_path}/a.db", ManualClock()
    first, second = (polymem.open(url, encryption=OLD_RING, clock=clock) for _ in range(2))
    async with first as one, second as two:
        await one.kv.put("n", 0, ttl=10)
        await asyncio.gather(*(store.kv.increment("n") for store in (one, two) for _ in range(40)))
        assert await two.kv.get("n") == 80
        assert await two.kv.ttl("n") == 10


async def test_transactions_are_sealed_too(engine: Any, encrypted: Store) -> None:
    async with encrypted.transaction() as tx:
        await tx.kv.put("a", WORD)
        await tx.kv.increment("n")
        await tx.turns.append("s", "user", WORD)
        await tx.blobs().put("b", WORD.encode())
        assert await tx.kv.get("a") == WORD
        assert not tx.supports("vectors")
    assert WORD.encode() not in await engine.snapshot()
    assert (await encrypted.kv.get("n"), await encrypted.blobs().get("b")) == (1, WORD.encode())


async def test_compressed_then_sealed() -> None:
    """The library orders the layers: what is stored is short and unreadable."""
    async with polymem.open("memory:", compression=True, encryption=OLD_RING) as store:
        await store.kv.put("a", WORD * 1000)
        body, tag = await store.engine.drivers("").kv.get("a")
        assert tag == "aes-gcm"
        assert len(body) < 300
        assert await store.kv.get("a") == WORD * 1000


async def test_secrets_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not in repr, str, errors, logs, nor where a debugger looks first."""
    secret, names = bytes(range(32, 64)), bytes(range(64, 96))
    ring = Keyring(Key("k1", secret), [Key("k0", NEW)], names=names)

    with caplog.at_level(logging.DEBUG):
        engine = create_engine("memory:")
        store = await opened(Encryption(ring, hide_keys=True), engine=engine)
        await store.kv.put("a", WORD)
        other = await opened(Encryption(Keyring(Key("k1", NEW), names=names), hide_keys=True), engine=engine)
        with pytest.raises(StorageCorruptError) as caught:
            await other.kv.get("a")
        shown = [repr(store), str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
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
