"""The cache of embeddings in a key-value namespace (PRV-2)."""

import asyncio
import base64
import logging
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polymem
from polymem.contracts.kv import KeyValue
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import ProviderConnectionError, ProviderContentError, StorageDataError, StorageError
from polymem.opened import Session
from polymem.providers.cached import CachedEmbedder
from polymem.providers.embedding import EmbeddingProvider, Matrix, Vector
from polymem.store import Store

pytestmark = pytest.mark.anyio


class Counting:
    """A provider that remembers what it was asked; `gate` holds it back, `fails` maps a text to its error."""

    def __init__(self, name: str = "model", dimensions: int = 3) -> None:
        self.name, self.dimensions = name, dimensions
        self.asked: list[list[str]] = []
        self.cancelled = 0
        self.fails: dict[str, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def embed(self, text: str) -> Vector:
        raise AssertionError("the cache asks in batches")

    async def embed_batch(self, texts: Sequence[str]) -> Matrix:
        self.asked.append(list(texts))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        for text in texts:
            if text in self.fails:
                raise self.fails[text]
        return np.array([self.vector(text) for text in texts], np.float32)

    def vector(self, text: str) -> list[float]:
        return [len(text), sum(text.encode()) / 7, 0.1][: self.dimensions] + [0.0] * (self.dimensions - 3)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def kv(clock: ManualClock) -> AsyncIterator[KeyValue[Any]]:
    async with Store(Session(MemoryEngine(clock), sweep_every=None)) as store:
        yield store.kv


@pytest.fixture
async def provider() -> Counting:
    return Counting()


@pytest.fixture
def cached(provider: Counting, kv: KeyValue[Any]) -> CachedEmbedder:
    return CachedEmbedder(provider, kv)


def counts(cached: CachedEmbedder) -> tuple[int, int, int]:
    found = cached.statistics
    return found.hits, found.misses, found.failures


async def started(provider: Counting, requests: int) -> None:
    while len(provider.asked) < requests:
        await asyncio.sleep(0)


class TestCache:
    async def test_it_is_a_provider_by_the_name_of_its_own(self, cached: CachedEmbedder) -> None:
        assert isinstance(cached, EmbeddingProvider)
        assert (cached.name, cached.dimensions) == ("model", 3)

    async def test_only_misses_are_embedded_and_the_order_is_kept(
        self, cached: CachedEmbedder, provider: Counting
    ) -> None:
        await cached.embed_batch(["b", "d"])
        matrix = await cached.embed_batch(["a", "b", "c", "d", "e"])
        assert provider.asked == [["b", "d"], ["a", "c", "e"]]
        assert matrix.dtype == np.float32
        assert np.array_equal(matrix, np.array([provider.vector(t) for t in "abcde"], np.float32))
        assert counts(cached) == (2, 5, 0)

    async def test_every_bit_comes_back(self, cached: CachedEmbedder, provider: Counting) -> None:
        first = await cached.embed("some text")
        assert np.array_equal(await cached.embed("some text"), first)
        assert provider.asked == [["some text"]]

    async def test_duplicates_in_a_batch_are_embedded_once(self, cached: CachedEmbedder, provider: Counting) -> None:
        matrix = await cached.embed_batch(["x", "yy", "x", "x"])
        assert provider.asked == [["x", "yy"]]
        assert matrix[:, 0].tolist() == [1, 2, 1, 1]
        assert counts(cached) == (2, 2, 0)

    async def test_nothing_asked_nothing_done(self, cached: CachedEmbedder, provider: Counting) -> None:
        assert (await cached.embed_batch([])).shape == (0, 3)
        assert provider.asked == []

    async def test_models_do_not_share(self, cached: CachedEmbedder, kv: KeyValue[Any]) -> None:
        other = Counting("other")
        await cached.embed("a")
        await CachedEmbedder(other, kv).embed("a")
        assert other.asked == [["a"]]
        assert await kv.count() == 2

    async def test_the_text_is_not_stored_and_the_vector_is_compact(
        self, cached: CachedEmbedder, provider: Counting, kv: KeyValue[Any]
    ) -> None:
        await cached.embed("my diagnosis")
        (entry,) = [entry async for entry in kv.entries()]
        assert base64.b64decode(entry.value) == struct.pack("<3f", *provider.vector("my diagnosis"))
        assert "diagnosis" not in entry.key

    async def test_it_is_there_after_a_restart(self, tmp_path: Path) -> None:
        for run in range(2):
            provider = Counting()
            async with polymem.open(f"sqlite:///{tmp_path}/cache.db") as store:
                await CachedEmbedder(provider, store.namespace("embeddings").kv).embed("a")
            assert len(provider.asked) == (1 if run == 0 else 0)

    async def test_a_ttl_ends_it(self, provider: Counting, kv: KeyValue[Any], clock: ManualClock) -> None:
        cached = CachedEmbedder(provider, kv, ttl=60)
        await cached.embed("a")
        clock.advance(59)
        await cached.embed("a")
        clock.advance(2)
        await cached.embed("a")
        assert provider.asked == [["a"], ["a"]]

    async def test_many_texts_are_kept_as_they_come(self, cached: CachedEmbedder, provider: Counting) -> None:
        """What was embedded before a later part failed is not paid for again."""
        texts = [f"text {n}" for n in range(2500)]
        provider.fails["text 2400"] = ProviderConnectionError("down")
        with pytest.raises(ProviderConnectionError):
            await cached.embed_batch(texts)
        provider.fails.clear()
        matrix = await cached.embed_batch(texts)
        assert [len(asked) for asked in provider.asked] == [2048, 452, 452]
        assert np.array_equal(matrix, np.array([provider.vector(text) for text in texts], np.float32))


class TestDamage:
    @pytest.mark.parametrize("stored", [
        base64.b64encode(struct.pack("<2f", 1, 2)).decode(), base64.b64encode(struct.pack("<4f", 1, 2, 3, 4)).decode(),
        base64.b64encode(struct.pack("<3f", 1, float("nan"), 3)).decode(), "AAAA", "%", "", 7, None, [1.0, 2.0, 3.0],
    ])  # fmt: skip
    async def test_what_is_no_such_vector_is_embedded_and_written_anew(
        self, cached: CachedEmbedder, provider: Counting, kv: KeyValue[Any], stored: object
    ) -> None:
        await cached.embed("a")
        (key,) = [key async for key in kv.scan()]
        await kv.put(key, stored)
        assert np.array_equal(await cached.embed("a"), np.array(provider.vector("a"), np.float32))
        await cached.embed("a")
        assert provider.asked == [["a"], ["a"]]

    async def test_a_provider_of_another_length(
        self, cached: CachedEmbedder, provider: Counting, kv: KeyValue[Any]
    ) -> None:
        await cached.embed("a")
        longer = Counting(dimensions=5)
        assert (await CachedEmbedder(longer, kv).embed("a")).shape == (5,)
        assert longer.asked == [["a"]]

    async def test_a_cache_that_is_down_costs_time_only(
        self, cached: CachedEmbedder, provider: Counting, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with polymem.open("memory:") as store:
            broken = CachedEmbedder(provider, store.kv)
        with caplog.at_level(logging.WARNING):
            assert (await broken.embed("my diagnosis")).shape == (3,)
        assert counts(broken) == (0, 1, 2)
        assert "StorageConnectionError" in caplog.text
        assert "diagnosis" not in caplog.text

    async def test_a_namespace_of_other_values_is_the_callers_mistake(
        self, provider: Counting, kv: KeyValue[Any]
    ) -> None:
        with pytest.raises(StorageDataError):
            await CachedEmbedder(provider, kv.typed(int)).embed("a")

    @pytest.mark.parametrize(("texts", "field"), [("text", "texts"), (["a", 1], "texts[1]"), (["\ud800"], "texts[0]")])
    async def test_bad_texts(self, cached: CachedEmbedder, provider: Counting, texts: Any, field: str) -> None:
        with pytest.raises(StorageDataError) as raised:
            await cached.embed_batch(texts)
        assert (raised.value.field, provider.asked) == (field, [])

    async def test_a_bad_ttl_is_refused_at_once(self, provider: Counting, kv: KeyValue[Any]) -> None:
        with pytest.raises(StorageError) as raised:
            CachedEmbedder(provider, kv, ttl="soon")  # type: ignore[arg-type]
        assert getattr(raised.value, "field", None) == "ttl"


class TestSingleFlight:
    async def test_equal_misses_at_once_are_one_request(self, cached: CachedEmbedder, provider: Counting) -> None:
        vectors = await asyncio.gather(*(cached.embed("same") for _ in range(50)))
        assert provider.asked == [["same"]]
        assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
        assert counts(cached) == (49, 1, 0)

    async def test_overlapping_batches_share_what_they_share(self, cached: CachedEmbedder, provider: Counting) -> None:
        one, two = await asyncio.gather(cached.embed_batch(["a", "bb"]), cached.embed_batch(["ccc", "bb", "a"]))
        assert provider.asked == [["a", "bb"], ["ccc"]]
        assert (one[:, 0].tolist(), two[:, 0].tolist()) == ([1, 2], [3, 2, 1])
        assert counts(cached) == (2, 3, 0)

    async def test_the_callers_do_not_share_memory(self, cached: CachedEmbedder) -> None:
        one, two = await asyncio.gather(cached.embed("a"), cached.embed("a"))
        one[0] = 99
        assert two[0] == 1

    async def test_a_cancelled_leader_leaves_the_others_their_answer(
        self, cached: CachedEmbedder, provider: Counting
    ) -> None:
        provider.gate.clear()
        leader = asyncio.create_task(cached.embed_batch(["a", "b"]))
        await started(provider, 1)
        follower = asyncio.create_task(cached.embed("a"))
        await asyncio.sleep(0)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        provider.gate.set()
        assert (await follower)[0] == 1
        assert leader.cancelled()
        assert (provider.asked, provider.cancelled) == ([["a", "b"]], 0)

    async def test_when_all_have_gone_the_request_is_cancelled(
        self, cached: CachedEmbedder, provider: Counting
    ) -> None:
        provider.gate.clear()
        calls = [asyncio.create_task(cached.embed("a")) for _ in range(3)]
        await started(provider, 1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        again = asyncio.create_task(cached.embed("a"))
        await started(provider, 2)
        provider.gate.set()
        assert (await again)[0] == 1
        assert provider.cancelled == 1

    async def test_a_failure_is_everybodys_and_is_not_kept(self, cached: CachedEmbedder, provider: Counting) -> None:
        provider.fails["a"] = ProviderConnectionError("down")
        results = await asyncio.gather(*(cached.embed("a") for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [ProviderConnectionError] * 5
        assert len(provider.asked) == 1
        provider.fails.clear()
        assert (await cached.embed("a"))[0] == 1

    async def test_anothers_refused_text_does_not_spoil_ours(self, cached: CachedEmbedder, provider: Counting) -> None:
        provider.fails["bad"] = ProviderContentError("refused")
        theirs, ours = await asyncio.gather(
            cached.embed_batch(["bad", "good"]), cached.embed_batch(["good", "fine"]), return_exceptions=True
        )
        assert isinstance(theirs, ProviderContentError)
        assert isinstance(ours, np.ndarray)
        assert ours[:, 0].tolist() == [4, 4]

    async def test_no_flight_is_left_behind(self, cached: CachedEmbedder, provider: Counting) -> None:
        provider.fails["bad"] = ProviderContentError("refused")
        await asyncio.gather(*(cached.embed(t) for t in ["a", "bad", "a", "b"]), return_exceptions=True)
        assert cached._flights == {}
