"""A tier that is down degrades the answer, says so, and never hangs it (TIER-3)."""

import asyncio

import pytest

from polymem.core.engine import Engine
from polymem.core.retry import RetryPolicy
from polymem.errors import StorageConnectionError, StorageDataError
from polymem.memory.memory import Memory
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.faults import Fault, Faults, faulty_engine

pytestmark = pytest.mark.anyio
TEXT = [f"text.{name}" for name in ("frequencies", "rank", "get_many")]
VECTORS = [f"vectors.{name}" for name in ("rank", "centred_cosines", "mean", "get_many")]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def broken(engine: Engine, store: Store, faults: Faults) -> Memory:
    """A memory whose store can be broken, warm and with something in it; `store` keeps the engine open."""
    memory = await Memory(
        Store(Session(faulty_engine(engine, faults), sweep_every=None, retry=RetryPolicy(attempts=1))), tier_timeout=0.2
    )
    session = memory.session("s")
    await session.add_many(
        [{"role": "user", "content": c} for c in ("The cat sat on the sofa", "Rain", "A red bicycle")]
    )
    await memory.remember("The kitten sleeps on the couch", subject="Ada", metadata={"a": 1})
    assert (await memory.recall("cat sofa")).notes == ()
    return memory


def fail(faults: Faults, operations: list[str], fault: Fault) -> None:
    for operation in operations:
        faults.plan(operation, *[fault] * 50)


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.SLOW])
@pytest.mark.parametrize("operations", [TEXT, *([o] for o in TEXT)], ids=str)
async def test_without_text(broken: Memory, faults: Faults, fault: Fault, operations: list[str]) -> None:
    fail(faults, operations, fault)
    hits = await asyncio.wait_for(broken.recall("cat sofa"), 10)
    assert hits[0].text == "The cat sat on the sofa"
    assert {hit.text for hit in hits} >= {"The kitten sleeps on the couch"}
    assert hits.notes == ("text search is down: found by vectors alone",)
    assert [hit.metadata for hit in hits if hit.subject == "Ada"] == [{"a": 1}]


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.SLOW])
@pytest.mark.parametrize("operations", [VECTORS, VECTORS[:1], VECTORS[1:2]], ids=str)
async def test_without_vectors(broken: Memory, faults: Faults, fault: Fault, operations: list[str]) -> None:
    fail(faults, operations, fault)
    hits = await asyncio.wait_for(broken.recall("cat sofa"), 10)
    assert hits[0].text == "The cat sat on the sofa"
    assert hits.notes == ("vector search is down: found by words alone",)
    assert "vector" not in hits[0].scores


async def test_without_both_there_is_no_answer_to_pretend(broken: Memory, faults: Faults) -> None:
    fail(faults, TEXT + VECTORS, Fault.REFUSED)
    with pytest.raises(StorageConnectionError):
        await broken.recall("cat sofa")
    block = await broken.session("s").context(200)  # which still has the turns
    assert [turn.text for turn in block.turns] == ["The cat sat on the sofa", "Rain", "A red bicycle"]
    assert block.notes == ("memories cannot be searched: StorageConnectionError",)


async def test_it_recovers(broken: Memory, faults: Faults) -> None:
    faults.plan("vectors.rank", Fault.REFUSED)
    assert (await broken.recall("cat sofa")).notes
    hits = await broken.recall("cat sofa")
    assert hits.notes == ()
    assert hits[0].scores["vector"] > 0


async def test_a_text_search_that_is_down_writes_nothing(broken: Memory, faults: Faults) -> None:
    """Writing does not degrade: all or nothing."""
    faults.plan("text.put_many", Fault.REFUSED)
    before = len(await broken.list())
    await broken.session("s").count()
    with pytest.raises(StorageDataError):
        await broken.remember("")
    assert len(await broken.list()) == before


class Moody:
    """An embedder that fails or hangs when told to."""

    name, dimensions, mood = "moody", 2, "fine"

    async def embed(self, text: str) -> list[float]:
        if self.mood == "slow":
            await asyncio.sleep(60)
        if self.mood == "broken":
            raise RuntimeError("quota")
        return [1.0, float(len(text))]

    async def embed_batch(self, texts: list[str]) -> list[list[float]]:
        return [await self.embed(text) for text in texts]


@pytest.mark.parametrize("mood", ["slow", "broken"])
async def test_without_the_embedder(store: Store, mood: str) -> None:
    moody = Moody()
    async with Memory(store, embed=moody, tier_timeout=0.2) as memory:  # type: ignore[arg-type]
        await memory.remember("The cat sat on the sofa")
        assert (await memory.recall("cat")).notes == ()
        moody.mood = mood
        hits = await asyncio.wait_for(memory.recall("cat"), 10)
        assert [hit.text for hit in hits] == ["The cat sat on the sofa"]
        assert hits.notes == ("the embedder is down: found by words alone",)


async def test_the_first_answer_may_take_longer(engine: Engine, store: Store, faults: Faults) -> None:
    """It may load an index."""
    memory = await Memory(Store(Session(faulty_engine(engine, faults), sweep_every=None)), tier_timeout=0.1)
    await memory.remember("The cat sat on the sofa")
    faults.plan("text.frequencies", Fault.SLOW)
    asyncio.get_running_loop().call_later(0.3, faults.go.set)
    assert (await memory.recall("cat")).notes == ()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "1"])
async def test_the_timeout_is_checked(store: Store, seconds: float) -> None:
    with pytest.raises(StorageDataError) as caught:
        Memory(store, tier_timeout=seconds)
    assert caught.value.field == "tier_timeout"
