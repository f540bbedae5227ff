"""Recall: a true union of words and vectors, explained (TIER-3)."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any

import numpy as np
import pytest

from polymem import F
from polymem.core.clock import ManualClock, to_datetime
from polymem.memory.memory import Memory
from polymem.memory.ranking import (
    Attributes,
    Query,
    Ranking,
    Weights,
    is_first_person,
    question_words,
    rank,
    text_trust,
)
from polymem.memory.recall import _Recall
from polymem.memory.records import neighbour_ids
from polymem.providers.embedding import INSTALL_HINT, load_default
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def fill(memory: Memory) -> None:
    session = memory.session("s1")
    said = ("We adopted a puppy", "How old?", "Three months", "Nice", "Ticket XK-4471 is open", "I see", "Bye")
    await session.add_many([{"role": "user" if n % 2 else "assistant", "content": c} for n, c in enumerate(said)])
    await memory.remember("Ada prefers dark mode", kind="preference", subject="Ada", metadata={"app": "mail"})
    await memory.remember("Bob prefers light mode", kind="preference", subject="Bob", metadata={"app": "chat"})


async def test_a_hit_that_only_words_find_wins(memory: Memory) -> None:
    await fill(memory)
    assert (await memory.recall("what about XK-4471?"))[0].text == "Ticket XK-4471 is open"


async def test_a_hit_that_only_vectors_find_wins(memory: Memory) -> None:
    await fill(memory)
    hits = await memory.recall("which dog does she own")
    assert hits[0].text == "We adopted a puppy"
    assert hits[0].scores["text"] == 0 < hits[0].scores["vector"]


async def test_scores_add_up_and_neighbours_come_along(memory: Memory) -> None:
    await fill(memory)
    hits = await memory.recall("who adopted the puppy, and how old is it?")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score == pytest.approx(sum(hit.scores.values())) for hit in hits)
    assert hits.notes == ()
    old = next(hit for hit in hits if hit.text == "How old?")
    assert [near.text for near in old.neighbours] == ["We adopted a puppy", "Three months"]
    first = next(hit for hit in hits if hit.turn == 1)
    assert [near.turn for near in first.neighbours] == [2]


async def test_filters(memory: Memory) -> None:
    await fill(memory)
    await memory.session("s2").add("user", "dark mode is fine", speaker="ADA")

    async def found(**given: Any) -> set[str]:
        return {hit.text for hit in await memory.recall("who prefers dark mode", **given)}

    assert await found(subject="ada") == {"Ada prefers dark mode", "dark mode is fine"}
    assert await found(session="s2") == {"dark mode is fine"}
    assert await found(kinds=["preference"]) == {"Ada prefers dark mode", "Bob prefers light mode"}
    assert await found(where=F("metadata.app") == "chat") == {"Bob prefers light mode"}
    assert await found(where={"metadata.app": "mail"}, subject="Bob") == set()
    assert await found(kinds=[]) == set()
    assert len(await found(limit=1)) == 1
    assert await found(limit=0) == set()
    assert await memory.recall("") == await memory.recall("?!") == []
    assert await memory.recall("prefers", session="nowhere") == []


async def test_a_filter_leaves_neighbours_in_sight_but_not_in_the_answer(memory: Memory) -> None:
    session = memory.session("s")
    await session.add_many([{"role": "user", "content": "alpha", "metadata": {"n": n}} for n in range(5)])
    (hit,) = await memory.recall("alpha", where=F("metadata.n") == 2)
    assert [near.metadata["n"] for near in hit.neighbours] == [1, 3]


async def test_validity(memory: Memory, clock: ManualClock) -> None:
    now, day = to_datetime(clock.now()), timedelta(days=1)
    await memory.remember("Ada lives in Lisbon", subject="Ada", valid_to=now - day)
    await memory.remember("Ada lives in Porto", subject="Ada", valid_from=now - day)
    await memory.session("s").add("user", "Ada lives somewhere", at=now - 5 * day)

    async def found(**given: Any) -> set[str]:
        return {hit.text.rpartition(" ")[2] for hit in await memory.recall("where does Ada live", **given)}

    assert await found() == {"Porto", "somewhere"}
    assert await found(as_of=now - 2 * day) == {"Lisbon", "somewhere"}
    assert await found(as_of=now - day) == {"Porto", "somewhere"}
    assert await found(as_of=now - 9 * day) == {"Lisbon"}
    assert len(await memory.list()) == 3


async def test_what_does_not_hold_does_not_move_the_scores(store: Store, clock: ManualClock) -> None:
    """The best and the worst candidate set the scale; neither may be one that nobody sees."""

    async def scores(tenant: str, *, hidden: bool) -> list[tuple[str, float]]:
        async with Memory(store, tenant=tenant) as memory:
            await memory.session("s").add_many(
                [{"role": "user", "content": f"the harbour at night {n} " + "so " * n} for n in range(4)]
            )
            if hidden:  # as a replaced turn: it counts in the statistics of words, so those are kept equal
                for text in ("sunken harbour treasure", "nothing of the kind whatsoever"):
                    await memory.remember(text, valid_to=to_datetime(clock.now() - 10))
            hits = await memory.recall("harbour treasure", weights=Weights(text=0, vector=1))
            return [(hit.text, hit.scores["vector"]) for hit in hits]

    seen, alone = await scores("a", hidden=True), await scores("b", hidden=False)
    assert [text for text, _ in seen] == [text for text, _ in alone]
    assert seen[0][1] == pytest.approx(1.0)


async def test_weights(memory: Memory, clock: ManualClock) -> None:
    old = await memory.remember("alpha beta", at=to_datetime(clock.now() - 90 * 86_400 * 10**6), importance=1.0)
    new = await memory.remember("alpha beta", confidence=0.1, importance=0.0)
    plain = {hit.id: hit.score for hit in await memory.recall("alpha beta")}
    assert plain[old] == pytest.approx(plain[new], abs=0.5)
    for weights, best in ((Weights(recency=2), new), (Weights(importance=2), old), (Weights(confidence=2), old)):
        hits = await memory.recall("alpha beta", weights=weights)
        assert hits[0].id == best
        assert hits[0].score == pytest.approx(sum(hits[0].scores.values()))


async def test_the_asker_is_meant_by_i(memory: Memory) -> None:
    await memory.session("s").add_many(
        [{"role": role, "content": "the sprint ends friday"} for role in ("assistant", "user")]
    )
    assert (await memory.recall("When does my sprint end?"))[0].role == "user"


async def test_other_tasks_run_between_ranking_and_making_hits(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are Python on the loop: in one go they would hold it up for a millisecond and more."""
    await fill(memory)
    turns, seen = [0], list[tuple[str, int]]()
    for owner, name in ((Ranking, "standing"), (_Recall, "_hit")):
        real = getattr(owner, name)

        def noted(*args: Any, real: Any = real, name: str = name, **given: Any) -> Any:
            seen.append((name, turns[0]))
            return real(*args, **given)

        monkeypatch.setattr(owner, name, noted)

    async def other() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await memory.recall("which dog does she own")
    task.cancel()
    ranked, made = ({at for name, at in seen if name == wanted} for wanted in ("standing", "_hit"))
    assert ranked
    assert made
    assert not ranked & made


class Reference:
    """Recall as it is defined: load every candidate, then rank once."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    async def __call__(self, question: str, limit: int, weights: Weights) -> list[tuple[str, float]]:
        shelf, now = self.memory.shelf(), self.memory.store.engine.clock.now()
        words = question_words(question)
        embedder, space = load_default(), await shelf.vectors()
        assert embedder is not None
        assert space is not None
        from polymem.contracts.text import TextQuery
        from polymem.memory.ranking import common_share, query_vector
        from polymem.memory.records import attributes_of, holds

        tokens = embedder.tokens(question)
        rows, frequencies = await shelf.text.frequencies({*words, *tokens.words} - {""})
        vector = query_vector(tokens, rows, frequencies)
        assert vector is not None
        by_words = await shelf.text.search(TextQuery(words=words, common=common_share(rows)), limit=200)
        by_vector = await space.search(vector, limit=200)
        ids = {hit.id for hit in by_words} | {hit.id for hit in by_vector}
        ids |= {near for hit in by_words for near in neighbour_ids(hit.id)}
        documents = {i: d for i, d in (await shelf.text.get_many(ids)).items() if holds(d.payload, now, now)}
        attributes: dict[str, Attributes] = {i: attributes_of(d.payload) for i, d in documents.items()}
        cosines = {i: c for i, c in (await space.centred_cosines(vector, ids)).items() if i in documents}
        ranked = rank(
            [(hit.id, hit.score) for hit in by_words], list(cosines.items()), neighbours=neighbour_ids,
            attributes=attributes, weights=weights,
            query=Query(is_first_person(question), text_trust(words, rows, frequencies), to_datetime(now)),
        )  # fmt: skip
        return [(hit.id, hit.score) for hit in ranked[:limit]]


@pytest.mark.parametrize("seed", range(4))
async def test_looking_at_few_gives_what_looking_at_all_gives(memory: Memory, clock: ManualClock, seed: int) -> None:
    random = Random(seed)
    words = [f"{a}{b}" for a in ("sail", "boat", "rain", "tea", "moon") for b in ("", "ing", "s", "er")]
    now = to_datetime(clock.now())
    for number in range(8):
        await memory.session(f"s{number}").add_many(
            [
                {"role": random.choice(["user", "assistant"]), "content": " ".join(random.choices(words, k=6)),
                 "importance": random.random(), "confidence": random.random(),
                 "at": now - timedelta(days=random.random() * 90), "ttl": random.choice([None, None, 5])}
                for _ in range(40)
            ]
        )  # fmt: skip
    for _ in range(20):
        await memory.delete(f"s{random.randrange(8)}#{random.randrange(1, 40)}")
    clock.advance(5)
    reference = Reference(memory)
    for weights in (Weights(), Weights(neighbour=2), Weights(recency=0.5, importance=0.5, confidence=0.3)):
        for question in ("my sailing boat", "rain or tea?", "when do I see the moon"):
            hits = await memory.recall(question, limit=7, weights=weights)
            wanted = await reference(question, 7, weights)
            assert [hit.id for hit in hits] == [id for id, _ in wanted]
            assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted])


def _sync(texts: list[str]) -> list[list[float]]:
    return [[1.0, float("dog" in text or "puppy" in text)] for text in texts]


async def _awaited(texts: list[str]) -> Any:
    return np.array(_sync(texts))


class Provider:
    name, dimensions = "mine", 2

    async def embed(self, text: str) -> Any:
        return np.array(_sync([text])[0], np.float32)

    async def embed_batch(self, texts: Sequence[str]) -> Any:
        return np.array(_sync(list(texts)), np.float32)


@pytest.mark.parametrize("embed", [_sync, _awaited, Provider()], ids=["function", "coroutine", "provider"])
async def test_any_embedder(store: Store, embed: Callable[[list[str]], Any]) -> None:
    async with Memory(store, embed=embed) as memory:
        await fill(memory)
        assert (await memory.recall("a dog"))[0].text == "We adopted a puppy"
        embedding = (await memory.stats())["embedding"]
        assert (embedding["dimensions"], embedding["model"]) == (2, memory.embedder.name)  # type: ignore[union-attr]


async def test_without_an_embedder_words_alone_and_a_note(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Memory(store, embed=None) as memory:
        await fill(memory)
        hits = await memory.recall("the puppy")
        assert hits[0].text == "We adopted a puppy"
        assert "vector" not in hits[0].scores
        assert hits.notes == ("opened without an embedder: found by words alone",)
    monkeypatch.setattr("polymem.memory.memory.load_default", lambda: None)
    async with Memory(store) as memory:
        assert (await memory.recall("the puppy")).notes == (INSTALL_HINT,)


async def test_a_text_whose_vector_says_nothing_is_found_by_its_words(store: Store) -> None:
    async with Memory(store, embed=lambda texts: [[float("x" in t), 0.0] for t in texts]) as memory:
        ids = [await memory.remember(text) for text in ("banana", "xylophone")]
        assert [hit.id for hit in await memory.recall("banana", limit=1)] == ids[:1]
        space = await memory.shelf().vectors()
        assert space is not None
        assert await space.count() == 1


async def test_another_language(store: Store) -> None:
    async with Memory(store, language="german", embed=None) as memory:
        await memory.remember("Die Katzen schliefen auf den Sofas")
        assert len(await memory.recall("Wo liegt die Katze?")) == 1


async def test_more_hits_than_candidates(memory: Memory) -> None:
    await memory.session("s").add_many([{"role": "user", "content": f"pear {n}"} for n in range(700)])
    assert len(await memory.recall("pear", limit=700)) == 700
