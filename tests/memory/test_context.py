"""`session.context`: never above the budget, no holes, nothing twice."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymem.core.clock import ManualClock, to_datetime
from polymem.memory.context import approximate_tokens, assemble
from polymem.memory.memory import Memory
from polymem.memory.records import Hit, MemoryRecord
from polymem.store import Store

COUNTERS: dict[str, Callable[[str], int]] = {
    "approximate": approximate_tokens,
    "characters": len,
    "words": lambda text: len(text.split()),
    "bytes": lambda text: len(text.encode()),
    "with overhead": lambda text: 7 + len(text) // 3,
    "lines": lambda text: text.count("\n"),
    "not monotonic": lambda text: len(text) * 31 % 97,
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(id: str, text: str, kind: type[MemoryRecord] = MemoryRecord) -> MemoryRecord:
    return kind(
        id=id, text=text, kind="turn", subject=None, session="s", turn=None, role="user", speaker=None, at=NOW,
        source=None, confidence=1.0, importance=0.5, metadata={}, valid_from=None, valid_to=None, expires_at=None,
    )  # fmt: skip


texts = st.lists(st.text(max_size=60), max_size=25)


@settings(max_examples=300, deadline=None)
@given(
    turns=texts,
    memories=texts,
    overlap=st.integers(0, 5),
    budget=st.integers(1, 800),
    counter=st.sampled_from([*COUNTERS]),
)
def test_never_above_the_budget(turns: list[str], memories: list[str], overlap: int, budget: int, counter: str) -> None:
    count = COUNTERS[counter]
    newest = [record(f"t{n}", text) for n, text in enumerate(turns)]
    hits = [record(f"t{n}" if n < overlap else f"m{n}", text, Hit) for n, text in enumerate(memories)]
    block = assemble(newest, hits, budget=budget, count=count)  # type: ignore[arg-type]
    assert block.tokens <= budget
    assert block.tokens == (count(block.text) if block.text else 0)
    shown = [turn.id for turn in block.turns]
    assert shown == [turn.id for turn in reversed(newest[: len(shown)])]
    ids = [*shown, *(hit.id for hit in block.memories)]
    assert len(ids) == len(set(ids))
    assert all(line.text in block.text for line in (*block.turns, *block.memories))


def test_a_big_budget_holds_everything_and_a_small_one_the_newest_turn() -> None:
    turns = [record(f"t{n}", f"turn {n}") for n in range(30)]
    hits = [record(f"m{n}", f"memory {n}", Hit) for n in range(5)]
    everything = assemble(turns, hits, budget=100_000, count=len)  # type: ignore[arg-type]
    assert (len(everything.turns), len(everything.memories)) == (30, 5)
    small = assemble(turns, hits, budget=len("Conversation:\n[2026-01-01] user: turn 0"), count=len)  # type: ignore[arg-type]
    assert [turn.id for turn in small.turns] == ["t0"]
    assert assemble([], [], budget=1, count=lambda _: 9).tokens == 0


@pytest.mark.anyio
async def test_a_block_of_a_session(memory: Memory, clock: ManualClock) -> None:
    session, other = memory.session("s1"), memory.session("s2")
    await other.add("user", "My sister Eve plays the cello", at=to_datetime(clock.now()))
    await session.add_many([{"role": "user", "content": f"chatter {n}", "speaker": "Ada"} for n in range(300)])
    await session.add("user", "What instrument does my sister play?", speaker="Ada")
    for budget in (1, 5, 20, 60, 200, 1000, 5000):
        block = await session.context(budget)
        assert block.tokens <= budget
        assert [turn.turn for turn in block.turns] == list(range(302 - len(block.turns), 302))
        shown = {turn.id for turn in block.turns}
        assert shown.isdisjoint(hit.id for hit in block.memories)
    assert len(block.turns) == 301
    block = await session.context(100)
    assert block.memories[0].text == "My sister Eve plays the cello"
    assert block.turns[-1].speaker == "Ada"
    assert "Eve plays the cello" in block.text
    assert (await session.context(100, query="chatter 17")).memories[0].text == "chatter 17"
    assert (await memory.session("empty").context(50)).text == ""


@pytest.mark.anyio
async def test_the_counter_of_the_caller_counts(store: Store) -> None:
    async with Memory(store, count_tokens=lambda text: len(text.split())) as memory:
        session = memory.session("s")
        await session.add_many([{"role": "user", "content": "one two three"} for _ in range(20)])
        block = await session.context(17)
        assert block.tokens == len(block.text.split()) <= 17
        assert block.turns
