"""TXN-2: one transaction at a time, isolated, always released."""

import asyncio

import numpy as np
import pytest

from polymem.contracts.blobs import BlobInfo
from polymem.contracts.drivers import Drivers
from polymem.contracts.graph import Edge, Node
from polymem.contracts.kv import KeyValueDriver
from polymem.contracts.text import Document, TextCollection, TextQuery
from polymem.contracts.transactions import Transaction
from polymem.contracts.turns import TurnRow
from polymem.contracts.vectors import VectorRecord, VectorSpace
from polymem.engines.memory._documents import DocumentTable
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.memory.vectors import VectorTable
from polymem.errors import StorageConnectionError, StorageDataError, StorageTimeoutError

pytestmark = pytest.mark.anyio
SPACE, NOTES = VectorSpace("s", 2), TextCollection("notes")


async def begin(engine: MemoryEngine, timeout: float = 5) -> Transaction:
    transactions = engine.drivers("").transactions
    assert transactions is not None
    return await transactions.begin(timeout=timeout)


def kv_of(drivers: Drivers) -> KeyValueDriver:
    assert drivers.kv is not None
    return drivers.kv


async def put(kv: KeyValueDriver, key: str, body: bytes) -> None:
    await kv.put(key, body, "json", version=1, expires_at=None)


async def read(kv: KeyValueDriver, key: str) -> bytes | None:
    found = await kv.get(key)
    return found and found[0]


async def write_everything(drivers: Drivers, id_: str) -> None:
    assert drivers.kv and drivers.turns and drivers.vectors and drivers.text and drivers.graph and drivers.blobs
    await put(drivers.kv, id_, b"1")
    await drivers.turns.append([TurnRow(id_, id_, None, "user", '""', "{}", 0, None)], replace=False)
    await drivers.vectors.put_many(SPACE, [VectorRecord(id_, np.array([1, 0], np.float32), {})])
    await drivers.text.put_many(NOTES, [Document(id_, {"text": "word"}, {})])
    await drivers.graph.create_nodes("g", [Node("P", id_, {})])
    node = Node("P", id_, {}).ref
    await drivers.graph.create_edges("g", [Edge(id_, node, node, "SELF", {}, None, None)])
    upload = await drivers.blobs.begin("c")
    await drivers.blobs.write_part("c", upload, 0, b"x")
    await drivers.blobs.commit("c", upload, BlobInfo(id_, 1, "", "text/plain", {}, 0, id_))


async def ids_everywhere(drivers: Drivers) -> list[list[str]]:
    """The ids each contract shows, by search where there is one."""
    assert drivers.kv and drivers.turns and drivers.vectors and drivers.text and drivers.graph and drivers.blobs
    hits = await drivers.vectors.search(SPACE, np.array([1, 0], np.float32), limit=9, where=None, min_score=None)
    query = TextQuery(words=("word",))
    found = await drivers.text.search(NOTES, query, limit=9, offset=0, where=None, highlight=None)
    nodes = (await drivers.graph.page("g", None, None, 9)).items
    steps = await drivers.graph.expand("g", [n.ref for n in nodes], direction="out", types=[], as_of=None)
    return [
        [key for key, _ in (await drivers.kv.page("", None, 9)).items],
        (await drivers.turns.sessions(None, 9)).items,
        [hit.id for hit in hits],
        [hit.id for hit in found],
        [node.id for node in nodes],
        [edge.id for edge, _ in steps],
        [info.key for info in (await drivers.blobs.page("c", "", None, 9)).items],
    ]


async def test_every_contract_is_isolated_and_committed(engine: MemoryEngine) -> None:
    outside = engine.drivers("a/")
    await write_everything(outside, "old")
    assert await ids_everywhere(outside) == [["old"]] * 7
    transaction = await begin(engine)
    inside = transaction.drivers("a/")
    assert inside.transactions is None
    await write_everything(inside, "new")
    assert await ids_everywhere(inside) == [["new", "old"]] * 7
    assert await ids_everywhere(outside) == [["old"]] * 7
    await transaction.commit()
    assert await ids_everywhere(outside) == [["new", "old"]] * 7


async def test_every_contract_is_rolled_back(engine: MemoryEngine) -> None:
    outside = engine.drivers("a/")
    await write_everything(outside, "old")
    transaction = await begin(engine)
    inside = transaction.drivers("a/")
    assert inside.kv and inside.turns and inside.vectors and inside.text and inside.graph and inside.blobs
    await inside.kv.clear()
    await inside.turns.clear("old")
    await inside.vectors.clear(SPACE)
    await inside.text.clear(NOTES)
    await inside.graph.clear("g")
    await inside.blobs.clear("c")
    assert await ids_everywhere(inside) == [[]] * 7
    await write_everything(inside, "new")
    assert await ids_everywhere(inside) == [["new"]] * 7
    await transaction.rollback()
    assert await ids_everywhere(outside) == [["old"]] * 7
    await write_everything(outside, "later")
    assert await ids_everywhere(outside) == [["later", "old"]] * 7


async def test_a_cleared_and_rewritten_collection_is_committed(engine: MemoryEngine) -> None:
    outside = engine.drivers("")
    await write_everything(outside, "old")
    await ids_everywhere(outside)  # the committed index exists and must not be taken over
    transaction = await begin(engine)
    inside = transaction.drivers("")
    assert inside.vectors and inside.text
    await inside.vectors.clear(SPACE)
    await inside.vectors.put_many(SPACE, [VectorRecord("new", np.array([1, 0], np.float32), {})])
    await inside.text.clear(NOTES)
    await inside.text.put_many(NOTES, [Document("new", {"text": "word"}, {})])
    await transaction.commit()
    assert (await ids_everywhere(outside))[2:4] == [["new"], ["new"]]


async def test_indexes_across_savepoints(engine: MemoryEngine) -> None:
    """The index a transaction built for itself is not mistaken for that of another state."""
    outside = engine.drivers("")
    assert outside.vectors
    await write_everything(outside, "old")
    await ids_everywhere(outside)
    transaction = await begin(engine)
    inside = transaction.drivers("")
    await write_everything(inside, "b")
    await ids_everywhere(inside)
    await transaction.savepoint("one")
    await write_everything(inside, "c")
    await ids_everywhere(inside)
    await transaction.rollback_to("one")
    assert await ids_everywhere(inside) == [["b", "old"]] * 7
    await write_everything(inside, "d")
    await transaction.savepoint("two")
    await write_everything(inside, "e")
    await transaction.commit()
    assert await ids_everywhere(outside) == [["b", "d", "e", "old"]] * 7


async def test_savepoints(engine: MemoryEngine) -> None:
    transaction = await begin(engine)
    kv = kv_of(transaction.drivers(""))
    await put(kv, "k", b"1")
    await transaction.savepoint("s")
    await put(kv, "k", b"2")
    await transaction.savepoint("s")
    await put(kv, "k", b"3")
    await transaction.rollback_to("s")
    assert await read(kv, "k") == b"2"
    await put(kv, "k", b"4")
    await transaction.rollback_to("s")
    assert await read(kv, "k") == b"2", "a savepoint stays after rolling back to it"
    await put(kv, "k", b"5")
    await transaction.release("s")
    assert await read(kv, "k") == b"5"
    await transaction.rollback_to("s")
    assert await read(kv, "k") == b"1", "the earlier one of that name"
    for call in (transaction.rollback_to("none"), transaction.release("none")):
        with pytest.raises(StorageDataError) as caught:
            await call
        assert caught.value.field == "name"
    await transaction.commit()
    assert await read(kv_of(engine.drivers("")), "k") == b"1"


async def test_rolling_back_to_an_outer_savepoint_forgets_the_inner_one(engine: MemoryEngine) -> None:
    transaction = await begin(engine)
    await transaction.savepoint("outer")
    await transaction.savepoint("inner")
    await transaction.rollback_to("outer")
    with pytest.raises(StorageDataError):
        await transaction.rollback_to("inner")
    await transaction.rollback()


async def test_outside_writes_wait_and_reads_do_not(engine: MemoryEngine) -> None:
    kv = kv_of(engine.drivers(""))
    await put(kv, "n", b"1")
    transaction = await begin(engine)
    inside = kv_of(transaction.drivers(""))
    writer = asyncio.create_task(kv.increment("n", 10, version=2))
    sweeper = asyncio.create_task(engine.delete_expired(1))
    await asyncio.sleep(0)
    assert await inside.increment("n", 1, version=3) == 2
    assert not writer.done() and not sweeper.done()
    assert await read(kv, "n") == b"1"
    await transaction.commit()
    assert await writer == 12
    assert await sweeper == 0


async def test_begin_is_fair_and_no_update_is_lost(engine: MemoryEngine) -> None:
    order: list[int] = []

    async def add(number: int) -> None:
        transaction = await begin(engine)
        order.append(number)
        kv = kv_of(transaction.drivers(""))
        value = int(await read(kv, "n") or 0)
        await asyncio.sleep(0)
        await put(kv, "n", b"%d" % (value + 1))
        await transaction.commit()

    await asyncio.gather(*(add(number) for number in range(20)))
    assert order == list(range(20))
    assert await read(kv_of(engine.drivers("")), "n") == b"20"


async def test_timeout_rolls_back_and_says_so(engine: MemoryEngine) -> None:
    outside = kv_of(engine.drivers(""))
    transaction = await begin(engine, timeout=0.01)
    kv = kv_of(transaction.drivers(""))
    await put(kv, "k", b"1")
    await put(outside, "other", b"2")  # waits for the timeout
    for call in (kv.get("k"), put(kv, "k", b"2"), transaction.commit(), transaction.savepoint("s")):
        with pytest.raises(StorageTimeoutError, match=r"longer than 0\.01 s"):
            await call
    await transaction.rollback()
    assert await read(outside, "k") is None
    assert await read(outside, "other") == b"2"


async def test_cancelled_while_waiting_to_begin(engine: MemoryEngine) -> None:
    first = await begin(engine)
    waiting = [asyncio.create_task(begin(engine)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await first.rollback()
    waiting[1].cancel()  # just woken
    second = await asyncio.wait_for(waiting[2], 5)
    await put(kv_of(second.drivers("")), "k", b"1")
    await second.commit()
    assert [task.cancelled() for task in waiting] == [True, True, False]
    assert await read(kv_of(engine.drivers("")), "k") == b"1"


async def test_cancelled_writer_outside_leaves_nothing(engine: MemoryEngine) -> None:
    kv = kv_of(engine.drivers(""))
    transaction = await begin(engine)
    writers = [asyncio.create_task(put(kv, key, b"1")) for key in "ab"]
    await asyncio.sleep(0)
    writers[0].cancel()
    await transaction.commit()
    await asyncio.wait(writers)
    assert await kv.count("") == 1
    assert await read(kv, "b") == b"1"


async def test_cancelled_holder_rolls_back_and_releases(engine: MemoryEngine) -> None:
    started = asyncio.Event()

    async def hold() -> None:
        transaction = await begin(engine)
        try:
            await put(kv_of(transaction.drivers("")), "k", b"1")
            started.set()
            await asyncio.sleep(60)
        finally:
            await transaction.rollback()

    holder = asyncio.create_task(hold())
    await started.wait()
    holder.cancel()
    next_one = await asyncio.wait_for(begin(engine), 5)
    assert await read(kv_of(next_one.drivers("")), "k") is None
    await next_one.rollback()


async def test_over_is_over(engine: MemoryEngine) -> None:
    for finish in ("commit", "rollback"):
        transaction = await begin(engine)
        kv = kv_of(transaction.drivers(""))
        await getattr(transaction, finish)()
        await transaction.rollback()
        for call in (
            kv.get("k"),
            put(kv, "k", b"1"),
            kv.clear(),
            transaction.commit(),
            transaction.release("s"),
        ):
            with pytest.raises(StorageConnectionError, match="is over"):
                await call


async def test_closing_rolls_back_and_frees_those_who_wait(engine: MemoryEngine) -> None:
    transaction = await begin(engine)
    kv = kv_of(engine.drivers(""))
    waiting = [asyncio.create_task(begin(engine)), asyncio.create_task(put(kv, "k", b"1"))]
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    for task in waiting:
        with pytest.raises(StorageConnectionError):
            await task
    with pytest.raises(StorageConnectionError, match="closed"):
        await transaction.commit()
    await engine.open()
    again = await asyncio.wait_for(begin(engine), 5)
    await again.commit()


async def test_sql_takes_part(engine: MemoryEngine) -> None:
    outside = engine.drivers("").sql
    assert outside
    await outside.execute("create table t (x integer primary key)", ())
    transaction = await begin(engine)
    inside = transaction.drivers("").sql
    assert inside and transaction.drivers("a/").sql is None
    await inside.execute("insert into t values (?)", (1,))
    await transaction.savepoint("s")
    await inside.execute("insert into t values (?)", (2,))
    assert await outside.query("select count(*) from t", ()) == [(0,)]
    await transaction.rollback_to("s")
    await transaction.commit()
    assert await outside.query("select x from t", ()) == [(1,)]


async def test_the_order_of_keys_is_not_shared(engine: MemoryEngine) -> None:
    turn = TurnRow("i", "s", None, "user", '""', "{}", 0, None)
    outside = engine.drivers("").turns
    assert outside
    await outside.append([turn], replace=False)
    transaction = await begin(engine)
    inside = transaction.drivers("").turns
    assert inside
    await inside.append([turn], replace=False)
    await transaction.rollback()
    rows = await outside.recent("s", limit=9, offset=0, include_expired=False)
    assert [row.turn_id for row in rows] == [1]


async def test_clearing_what_the_transaction_wrote(engine: MemoryEngine) -> None:
    transaction = await begin(engine)
    kv = kv_of(transaction.drivers(""))
    await put(kv, "a", b"1")
    assert await kv.clear() == 1
    await put(kv, "b", b"2")
    await transaction.commit()
    assert [key for key, _ in (await kv_of(engine.drivers("")).page("", None, 9)).items] == ["b"]


async def test_commit_keeps_the_search_index(engine: MemoryEngine) -> None:
    """Only what the transaction wrote is indexed anew, however large the collection is."""
    outside = engine.drivers("")
    await write_everything(outside, "old")
    await ids_everywhere(outside)
    tables = [engine._view.find(VectorTable, "", "s"), engine._view.find(DocumentTable, "", "notes")]
    transaction = await begin(engine)
    await write_everything(transaction.drivers(""), "new")
    await transaction.commit()
    after = [engine._view.find(VectorTable, "", "s"), engine._view.find(DocumentTable, "", "notes")]
    for earlier, later in zip(tables, after, strict=True):
        assert earlier and later and earlier is not later
        assert later._index is not None and later._index is earlier._index
        assert later._stale == {"new"}
        assert later.origin is None


async def test_who_waited_for_a_closed_engine_is_not_let_into_the_next_one(engine: MemoryEngine) -> None:
    await begin(engine)
    waiting = asyncio.create_task(begin(engine))
    await asyncio.sleep(0)
    await engine.close()
    await engine.open()
    first = await begin(engine)
    with pytest.raises(StorageConnectionError):
        await waiting
    await first.commit()
