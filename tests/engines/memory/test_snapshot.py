"""KV-7: snapshot and restore, to bytes and to a file."""

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest

from polymem.contracts.blobs import PART_BYTES, BlobInfo
from polymem.contracts.graph import Edge, Node
from polymem.contracts.text import Document, TextCollection, TextQuery
from polymem.contracts.turns import TurnRow
from polymem.contracts.vectors import VectorRecord, VectorSpace
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageCorruptError, StorageFullError, StorageNotFoundError, StorageQueryError

pytestmark = pytest.mark.anyio
SPACE, NOTES = VectorSpace("s", 2, "l2", "m"), TextCollection("notes", "german")
BIG = 10**40


async def fill(engine: MemoryEngine, namespace: str = "a/") -> None:
    d = engine.drivers(namespace)
    assert d.kv and d.turns and d.vectors and d.text and d.graph and d.blobs
    await d.kv.put("k", b"1", "json", version=2**63 - 1, expires_at=None)
    await d.kv.put("gone", b"1", "json", version=1, expires_at=engine.clock.now() + 1)
    await d.turns.append([TurnRow("i", "s", 7, "user", '"😀"', "{}", 3, None)], replace=False)
    await d.vectors.put_many(SPACE, [VectorRecord("v", np.array([1, 0.1], np.float32), {"big": BIG})])
    await d.vectors.put_many(VectorSpace("ran empty", 5), [VectorRecord("v", np.zeros(5, np.float32), {})])
    await d.vectors.delete_many(VectorSpace("ran empty", 5), ["v"])
    await d.text.put_many(NOTES, [Document("t", {"text": "zwei Häuser"}, {"big": BIG})])
    await d.graph.create_nodes("g", [Node("P", "a", {"big": BIG}), Node("P", "b", {})])
    a, b = Node("P", "a", {}).ref, Node("P", "b", {}).ref
    await d.graph.create_edges("g", [Edge("e", a, b, "T", {"x": [1.5]}, 1, None)])
    upload = await d.blobs.begin("c")
    await d.blobs.write_part("c", upload, 0, b"x" * PART_BYTES)
    await d.blobs.write_part("c", upload, 1, b"end")
    await d.blobs.commit("c", upload, BlobInfo("b", PART_BYTES + 3, "sum", "t", {"big": BIG}, 4, "v1"))


async def contents(engine: MemoryEngine, namespace: str = "a/") -> list[object]:
    d = engine.drivers(namespace)
    assert d.kv and d.turns and d.vectors and d.text and d.graph and d.blobs
    vectors = await d.vectors.get_many(SPACE, ["v"])
    query = TextQuery(words=("haus",))
    refs = [node.ref for node in (await d.graph.page("g", None, None, 9)).items]
    return [
        await d.kv.page("", None, 9),
        await d.turns.recent("s", limit=9, offset=0, include_expired=True),
        [(r.vector.tolist(), r.payload) for r in vectors.values()],
        await d.vectors.search(SPACE, np.array([1, 0], np.float32), limit=9, where=None, min_score=None),
        await d.text.search(NOTES, query, limit=9, offset=0, where=None, highlight=None),
        await d.graph.page("g", None, None, 9),
        await d.graph.expand("g", refs, direction="both", types=[], as_of=None),
        await d.blobs.page("c", "", None, 9),
        await d.blobs.read("c", "v1", PART_BYTES - 1, 9),
        await engine.namespaces("", None, 9),
    ]


async def test_everything_comes_back(engine: MemoryEngine, clock: ManualClock) -> None:
    await fill(engine)
    sql = engine.drivers("").sql
    assert sql
    await sql.execute("create table t (x)", ())
    await sql.execute("insert into t values (?)", (b"\x00",))
    before = await contents(engine)
    other = MemoryEngine(clock)
    await other.open()
    await fill(other, "replaced/")
    await other.restore(await engine.snapshot())
    assert await contents(other) == before
    restored = other.drivers("").sql
    assert restored
    assert await restored.query("select x from t", ()) == [(b"\x00",)]
    await restored.execute("insert into t values (2)", ())
    assert (await other.check()).problems == []
    turns = other.drivers("a/").turns
    assert turns
    assert await turns.append([TurnRow("j", "s", None, "user", '""', "{}", 3, None)], replace=False) == [8]
    clock.advance(1)
    assert await other.delete_expired(9) == 1
    await other.close()


async def test_a_snapshot_is_independent_of_later_writes(engine: MemoryEngine) -> None:
    await fill(engine)
    before, snapshot = await contents(engine), await engine.snapshot()
    await engine.drop_namespace("")
    await engine.restore(snapshot)
    assert await contents(engine) == before


async def test_the_empty_state(engine: MemoryEngine) -> None:
    empty = await engine.snapshot()
    await fill(engine)
    await engine.restore(empty)
    assert (await engine.namespaces("", None, 9)).items == []


async def test_foreign_damaged_and_newer_snapshots_change_nothing(engine: MemoryEngine) -> None:
    await fill(engine)
    before, good = await contents(engine), await engine.snapshot()
    start = good.index(b"\n") + 1
    newer = good[:start] + (2).to_bytes(2, "big") + good[start + 2 :]
    flipped = [
        good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in (0, start, start + 5, start + 40, len(good) - 1)
    ]
    nonsense = good[: start + 2] + hashlib.sha256(b"x").digest() + b"x"
    for bad in [
        b"",
        nonsense,
        b"SQLite format 3\0",
        good[: start + 1],
        good[:-1],
        good + b"x",
        newer,
        *flipped,
    ]:
        with pytest.raises(StorageCorruptError):
            await engine.restore(bad)
    with pytest.raises(StorageCorruptError, match="format 2, this version reads format 1"):
        await engine.restore(newer)
    assert await contents(engine) == before


async def test_restore_waits_for_the_open_transaction(engine: MemoryEngine) -> None:
    empty = await engine.snapshot()
    await fill(engine)
    transactions = engine.drivers("").transactions
    assert transactions
    transaction = await transactions.begin(timeout=5)
    kv = transaction.drivers("a/").kv
    assert kv
    restoring = asyncio.create_task(engine.restore(empty))
    await asyncio.sleep(0)
    await kv.put("k", b"2", "json", version=2, expires_at=None)
    await transaction.commit()
    await restoring
    assert (await engine.namespaces("", None, 9)).items == []


async def test_files(engine: MemoryEngine, tmp_path: Path) -> None:
    await fill(engine)
    before, path = await contents(engine), tmp_path / "state"
    path.write_bytes(b"an earlier one")
    await engine.snapshot_to(path)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    await engine.drop_namespace("")
    await engine.restore_from(str(path))
    assert await contents(engine) == before
    with pytest.raises(StorageNotFoundError):
        await engine.restore_from(tmp_path / "none")
    with pytest.raises(StorageNotFoundError):
        await engine.snapshot_to(tmp_path / "none" / "state")
    with pytest.raises(StorageQueryError):
        await engine.restore_from(tmp_path)
    with pytest.raises(StorageQueryError):
        await engine.snapshot_to(path / "below a file")


async def test_a_failed_write_leaves_the_file(
    engine: MemoryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"an earlier one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFullError):
        await engine.snapshot_to(path)
    assert path.read_bytes() == b"an earlier one"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
