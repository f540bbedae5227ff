"""Turns and questions for the benchmarks: real ones from a LoCoMo file or BEAM folder, repeated as often as needed."""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from polymem.contracts.text import TextQuery
from polymem.jobs.conversations import Utterance, read
from polymem.memory.memory import Memory
from polymem.memory.ranking import CANDIDATES, common_share, question_words
from polymem.memory.session import NewTurn


@dataclass(frozen=True)
class Dataset:
    utterances: list[tuple[str, Utterance]]
    """Each with the name of its conversation."""
    questions: list[str]

    def sessions(self, count: int) -> Iterator[tuple[str, list[NewTurn]]]:
        """`count` turns by session; each time round, sessions have other names and other dates."""
        left, copy = count, 0
        while left > 0:
            for name, turns in self._copy(copy, left).items():
                left -= len(turns)
                yield name, turns
            copy += 1

    def _copy(self, copy: int, most: int) -> dict[str, list[NewTurn]]:
        sessions: dict[str, list[NewTurn]] = defaultdict(list)
        for conversation, said in self.utterances[:most]:
            at = (said.at or datetime(2024, 1, 1, tzinfo=UTC)) + timedelta(days=copy)
            turn = NewTurn(said.role, said.text, speaker=said.speaker, at=at, metadata={"turn": said.turn})
            sessions[f"{copy}/{conversation}/{said.session}"].append(turn)
        return sessions


def load(path: Path | None, *, seed: int = 0) -> Dataset:
    """The turns and questions of a data set; without one made-up words, as frequent as words are."""
    if path is None:
        return _made_up(random.Random(seed))
    conversations = list(read(path))
    utterances = [(one.name, said) for one in conversations for said in one.utterances]
    questions = [question.text for one in conversations for question in one.questions]
    random.Random(seed).shuffle(questions)
    return Dataset(utterances, questions)


def _made_up(chance: random.Random) -> Dataset:
    words = [
        "".join(chance.choices("bdfklmnprstv", k=2)) + chance.choice("aeiou") + chance.choice("klmnrst")
        for _ in range(20_000)
    ]
    weights = [1 / (rank + 3) for rank in range(len(words))]

    def text(count: int) -> str:
        return " ".join(chance.choices(words, weights, k=count))

    utterances = [
        ("made up", Utterance(f"s{n // 20}", str(n), "user", text(chance.randint(5, 40)), speaker="Ada"))
        for n in range(3000)
    ]
    return Dataset(utterances, [text(9) for _ in range(500)])


class Searches:
    """The ways to search one tenant, and the two indexes beneath recall by themselves."""

    def __init__(self, memory: Memory, rows: int) -> None:
        self.memory, self._rows = memory, rows
        self._text = memory.store.text("memory")
        self._embedder = memory.embedder
        if self._embedder is not None:
            dimensions, model = self._embedder.dimensions, self._embedder.name
            self._vectors = memory.store.vectors("memory", dimensions=dimensions, model=model)

    @property
    def has_vectors(self) -> bool:
        return self._embedder is not None

    async def text(self, question: str, limit: int = 10) -> object:
        """As recall does it: common words are dropped where rarer ones exist."""
        query = TextQuery(words=question_words(question), common=common_share(self._rows))
        return await self._text.search(query, limit=limit)

    async def wide_text(self, question: str) -> object:
        """As many hits as recall asks for."""
        return await self.text(question, CANDIDATES)

    async def all_words(self, question: str) -> object:
        """Without dropping common words, which is what FTS5 does."""
        return await self._text.search(TextQuery(words=question_words(question), common=1.0), limit=10)

    async def vector(self, question: str) -> object:
        """Embedding the question and finding the ten nearest."""
        assert self._embedder is not None
        return await self._vectors.search(await self._embedder.embed(question), limit=10)

    async def recall(self, question: str) -> object:
        return await self.memory.recall(question, limit=10)


async def ingest(memory: Memory, dataset: Dataset, count: int) -> int:
    """Store `count` turns, session by session."""
    stored = 0
    for session, turns in dataset.sessions(count):
        stored += len(await memory.session(session).add_many(turns))
    return stored
