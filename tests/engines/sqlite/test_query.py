"""QRY-5, QRY-6: SQLite gives exactly the answers of the memory engine, with and without indexes."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import apsw
import pytest
from drawn.pair import Pair, opened
from drawn.queries import INDEXES, agreements, pages

from polymem.contracts.filter import F
from polymem.contracts.kv import KeyValue
from polymem.core.clock import ManualClock
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageCorruptError
from polymem.store import Store

EXAMPLES = 100_000 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 2_000


@pytest.fixture(name="pair", scope="module")
def open_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Files with different indexes."""
    folder, clock = tmp_path_factory.mktemp("query"), ManualClock()
    files = [SqliteEngine(folder / f"{n}.db", durability="normal", clock=clock) for n in range(len(INDEXES))]
    with asyncio.Runner() as runner:
        stores = [runner.run(opened(file)) for file in files]
        pair = Pair(runner, clock, *stores)
        yield pair
        pair.close()
        for store in stores:
            runner.run(store.close())


test_finding, test_aggregates, test_selecting = agreements(EXAMPLES)


def test_an_index_rounds_integers_beyond_64_bits(pair: Pair) -> None:
    """As floats do, which SQLite's own conversion misses by a unit now and then."""
    candidates = ((2**53 + 1) * 2**40 + low for low in range(1, 200_000))
    database = apsw.Connection(":memory:")
    wrong = [n for n in candidates if database.execute("select json_extract(?, '$')", (str(n),)).get != float(n)][:5]
    documents = [document for n in wrong for document in ({"a": n}, {"a": float(n)}, {"a": [n]})]

    async def ask(kv: KeyValue[Any]) -> Any:
        found = [[e.key async for e in kv.query(F("a") == float(n))] for n in wrong]
        return [*found, await pages(kv, 2, order_by=[("a", "desc")])]

    assert pair.agree(1, documents, ask)


@pytest.mark.anyio
async def test_a_damaged_document_is_named(store: Store) -> None:
    """Damage never reads as absence, and what is damaged is not quoted (G-1)."""
    await store.kv._driver.put("k", b'{"a": "secret', "json", version=1, expires_at=None)
    for ask in (
        store.kv.count(where=F("a") == "secret"),
        store.kv.create_index("a"),
        store.kv.aggregate({"n": ("sum", "a")}),
    ):
        with pytest.raises(StorageCorruptError) as caught:
            await ask
        assert "secret" not in str(caught.value)
    assert await store.kv.list_indexes() == []
