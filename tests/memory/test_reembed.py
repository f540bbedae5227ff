"""Vectors know their model, and can be made anew by another (PRV-2)."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from polymem.errors import StorageDataError
from polymem.memory.memory import Memory
from polymem.providers.embedding import Matrix, Vector
from polymem.store import Store

pytestmark = pytest.mark.anyio


class Letters:
    """Counts letters, in as many dimensions as wanted."""

    def __init__(self, dimensions: int, name: str = "") -> None:
        self.name, self.dimensions, self.fail_after = name or f"letters-{dimensions}", dimensions, 10**9
        self.texts = 0

    async def embed(self, text: str) -> Vector:
        return (await self.embed_batch([text]))[0]

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        self.texts += len(texts)
        if self.texts > self.fail_after:
            raise ConnectionError("the model is gone")
        rows = [[1.0 + text.count(chr(97 + n)) for n in range(self.dimensions)] for text in texts]
        return np.array(rows, np.float32)


async def spaces(memory: Memory) -> list[int]:
    """The sizes of the collections of vectors that are in use."""
    shelf = memory.shelf()
    found = [await shelf.current(), await shelf.next()]
    return [await shelf.space(e).count() for e in found if e is not None]


async def test_another_model_is_refused_with_the_remedy(store: Store) -> None:
    async with Memory(store, embed=Letters(5)) as memory:
        await memory.remember("banana")
        assert (await memory.stats())["embedding"] == {"model": "letters-5", "dimensions": 5}
    for other in (Letters(6), Letters(5, "other")):
        async with Memory(store, embed=other) as memory:
            for call in (memory.remember("apple"), memory.recall("banana"), memory.session("s").add("user", "x")):
                with pytest.raises(StorageDataError, match="letters-5.*reembed") as caught:
                    await call
                assert caught.value.field == "embed"
                assert other.name in str(caught.value)
            assert len(await memory.list()) == 1
            assert await memory.sessions() == []


async def test_recall_alone_writes_nothing(store: Store) -> None:
    async with Memory(store, embed=Letters(5)) as memory:
        await memory.recall("banana")
        assert (await memory.stats())["embedding"] is None


async def test_reembed_takes_the_place_of_the_old_vectors(store: Store) -> None:
    async with Memory(store, embed=Letters(5)) as memory:
        await memory.session("s").add_many([{"role": "user", "content": f"banana {n}"} for n in range(1203)])
    told: list[int] = []
    async with Memory(store, embed=Letters(6)) as memory:
        assert await memory.reembed(told.append) == 1203
        assert told == [500, 1000, 1203]
        assert await spaces(memory) == [1203]
        hits = await memory.recall("banana 77", limit=1)
        assert "vector" in hits[0].scores
        assert hits.notes == ()
        assert await memory.reembed() == 1203  # with the same model too
        assert await spaces(memory) == [1203]
    async with Memory(store, embed=Letters(5)) as memory:
        with pytest.raises(StorageDataError, match="letters-6"):
            await memory.recall("banana")


async def test_an_interrupted_run_changes_nothing_and_goes_on(store: Store) -> None:
    old, new = Letters(5), Letters(6)
    async with Memory(store, embed=old) as memory, Memory(store, embed=new) as renewed:
        await memory.session("s").add_many([{"role": "user", "content": f"banana {n}"} for n in range(1200)])
        new.fail_after = 1100
        with pytest.raises(ConnectionError):
            await renewed.reembed()
        assert "vector" in (await memory.recall("banana 7", limit=1))[0].scores  # the old ones still serve
        with pytest.raises(StorageDataError):
            await renewed.recall("banana")
        assert await spaces(memory) == [1200, 1000]
        new.fail_after, new.texts = 10**9, 0
        assert await renewed.reembed() == 1200
        assert new.texts == 200
        assert await spaces(renewed) == [1200]


async def test_what_changes_meanwhile_is_not_lost(store: Store) -> None:
    async with Memory(store, embed=Letters(5)) as memory, Memory(store, embed=Letters(6)) as renewed:
        session = memory.session("s")
        await session.add_many([{"role": "user", "content": f"banana {n}"} for n in range(1000)])

        async def interfere(done: int) -> None:
            if done == 500:
                await session.add("user", "fig")
                await memory.update("s#1", text="cherry")
                await memory.delete("s#2")
                await memory.delete("s#1000")

        assert await renewed.reembed(interfere) == 1000
        assert await spaces(renewed) == [999]
        space = await renewed.shelf().vectors()
        assert space is not None
        records = await space.get_many(["s#1", "s#2", "s#1000", "s#1001"])
        assert {id: r.payload["text"] for id, r in records.items()} == {"s#1": "cherry", "s#1001": "fig"}
        assert [key async for key in renewed.shelf().notes.scan("stale/")] == []


async def test_two_runs_at_once_leave_one_whole_set(store: Store) -> None:
    async with Memory(store, embed=Letters(5)) as memory, Memory(store, embed=Letters(6)) as renewed:
        await memory.session("s").add_many([{"role": "user", "content": f"banana {n}"} for n in range(600)])
        await asyncio.gather(renewed.reembed(), renewed.reembed(), return_exceptions=True)
        assert await spaces(renewed) == [600]


async def test_without_an_embedder_a_changed_memory_loses_its_vector(store: Store) -> None:
    """It would otherwise be found by what it no longer says."""
    async with Memory(store, embed=Letters(5)) as memory, Memory(store, embed=None) as plain:
        id = await memory.remember("banana")
        await plain.update(id, text="cherry")
        assert await spaces(memory) == [0]
        assert [h.id for h in await memory.recall("cherry")] == [id]
        await memory.update(id, text="fig")
        assert await spaces(memory) == [1]
        with pytest.raises(StorageDataError):
            await plain.reembed()
