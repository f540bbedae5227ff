"""Search indexes derived from rows, and the ids that satisfy a filter, stay fresh."""

from random import Random
from typing import Any

import pytest

from polymem import F
from polymem.contracts.filter import Filter, matches
from polymem.core.clock import ManualClock
from polymem.engines.sqlite._indexes import Slot, Source
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.indexes.postings import TextIndex
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio
FILTERS: list[Filter] = [F("n") == n for n in range(6)] + [F("n") > 2, F("b") == True, F("b") == 1, ~(F("n") == 3)]  # noqa: E712


@pytest.mark.parametrize("seed", range(3))
async def test_filters_are_right_after_any_change(store: Store, tmp_path: Any, clock: ManualClock, seed: int) -> None:
    """Also after changes by another engine on the same file, and more filters than are kept."""
    random, known = Random(seed), dict[str, dict[str, Any]]()
    other = Store(Session(SqliteEngine(tmp_path / "agent.db", clock=clock), sweep_every=None))
    async with other:
        for _ in range(120):
            writer, id = random.choice([store, other]), str(random.randrange(30))
            text, vectors = writer.text("t"), writer.vectors("v", dimensions=2)
            if random.random() < 0.3:
                known.pop(id, None)
                await text.delete(id)
                await vectors.delete(id)
            else:
                known[id] = {"n": random.randrange(6), "b": random.choice([True, 1, None])}
                await text.put(id, "apple", known[id])
                await vectors.put(id, [1, random.random()], known[id])
            where = random.choice(FILTERS)
            wanted = {id for id, payload in known.items() if matches(where, payload)}
            for reader in (store, other):
                assert {i for i, _ in await reader.text("t").rank("apple", limit=99, where=where)} == wanted
                space = reader.vectors("v", dimensions=2)
                assert {i for i, _ in await space.rank([1, 0], limit=99, where=where)} == wanted
                assert {hit.id for hit in await space.search([1, 0], limit=99, where=where)} == wanted


async def test_inside_a_transaction_its_own_rows_count(store: Store) -> None:
    await store.text("t").put("a", "apple", {"n": 1})
    assert await store.text("t").rank("apple", where=F("n") == 1) != []
    async with store.transaction() as tx:
        await tx.text("t").put("b", "apple", {"n": 1})
        await tx.text("t").put("a", "apple", {"n": 2})
        assert [id for id, _ in await tx.text("t").rank("apple", where=F("n") == 1)] == ["b"]
    assert [id for id, _ in await store.text("t").rank("apple", where=F("n") == 1)] == ["b"]


async def test_a_reader_of_an_older_state_leaves_no_old_answer_behind(store: Store) -> None:
    await store.text("t").put("a", "apple", {"n": 1})
    settings, slot = store.engine._settings, Slot[TextIndex]()  # type: ignore[attr-defined]
    source: Source[TextIndex] = Source(
        "pm_texts", "tokens", TextIndex, lambda index, ids, blobs: index.put_many(ids, blobs)
    )
    older, newer = settings.connect(), settings.connect()
    try:
        older.execute("begin; select count(*) from pm_texts").fetchall()
        await store.text("t").put("b", "apple", {"n": 1})
        slot.refresh(newer, 1, source)
        slot.refresh(older, 1, source)
        assert slot.chosen(older, 1, source, F("n") == 1) == {"a"}
        older.execute("rollback")
        slot.refresh(newer, 1, source)
        assert slot.chosen(newer, 1, source, F("n") == 1) == {"a", "b"}
    finally:
        older.close()
        newer.close()


async def test_an_index_counts_from_its_first_use(store: Store) -> None:
    """So that many collections used once each do not outgrow the limit."""
    indexes = store.engine._runner.database.indexes  # type: ignore[attr-defined]
    for n in range(3):
        await store.text(f"t{n}").put_many([(f"{i}", "apple") for i in range(50)])
    await store.text("t0").rank("apple")
    one = indexes.nbytes
    assert one > 0
    await store.text("t1").rank("apple", where=F("n") == 1)
    assert indexes.nbytes > one
    indexes._slots.max_bytes = one
    await store.text("t2").rank("apple")
    assert indexes.nbytes == one
