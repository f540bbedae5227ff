"""`polymem bench recall`: whether recall finds the turns that hold the answer."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

from polymem.errors import StorageDataError
from polymem.jobs.bench_kv import workspace
from polymem.jobs.conversations import Conversation, Layout, Question, Utterance, read
from polymem.jobs.measure import Estimate, Latencies, estimate, latencies
from polymem.memory.memory import STATIC, Embed, Memory
from polymem.memory.session import NewTurn

COLUMNS: Final = ("category", "questions", "R@5", "R@10", "MRR", "nDCG@10")
_LABEL: Final = "turn"
_DEPTH: Final = 10
_OVERALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Quality:
    """How well some questions were answered; each figure in [0, 1].

    `r5` and `r10`: share of a question's evidence turns among the first 5 or 10 hits. `mrr`: 1 / place of the
    first evidence turn among the hits, 0 where there is none. `ndcg10`: places of all of them, discounted.
    """

    questions: int
    r5: Estimate
    r10: Estimate
    mrr: Estimate
    ndcg10: Estimate


@dataclass(frozen=True, slots=True)
class RecallReport:
    """What `bench_recall` measured.

    `dropped_evidence` entries were malformed or name no turn; `without_evidence` questions have nothing to be
    found and are not asked. `ingest_rate` is turns a second, embedding included; `embedder` is None where recall
    had words alone.
    """

    conversations: int
    turns: int
    overall: Quality
    categories: Mapping[str, Quality]
    dropped_evidence: int
    without_evidence: int
    latency: Latencies
    ingest_rate: float
    embedder: str | None

    def rows(self) -> list[tuple[str, ...]]:
        """The cells under `COLUMNS`, each figure with its bounds."""
        return [_row(name, quality) for name, quality in ((_OVERALL, self.overall), *self.categories.items())]


def _row(name: str, quality: Quality) -> tuple[str, ...]:
    figures = (quality.r5, quality.r10, quality.mrr, quality.ndcg10)
    return (name, str(quality.questions), *(f"{f.value:.3f} ({f.low:.3f}-{f.high:.3f})" for f in figures))


@dataclass(slots=True)
class _Tally:
    """What is gathered on the way."""

    conversations: int = 0
    turns: int = 0
    dropped_evidence: int = 0
    without_evidence: int = 0
    ingest_seconds: float = 0.0
    embedder: str | None = None
    took: list[float] = field(default_factory=list)
    scores: dict[str, list[tuple[float, ...]]] = field(default_factory=lambda: defaultdict(list))


async def bench_recall(
    path: Path,
    *,
    url: str | None = None,
    layout: Layout | None = None,
    limit: int = _DEPTH,
    embed: Embed = STATIC,
    on_conversation: Callable[[str], None] = lambda _: None,
) -> RecallReport:
    """Evidence recall of an evaluation set: a LoCoMo file, a BEAM folder, or a folder of those.

    Each question is asked of `limit` hits (10 or more) in its own conversation, which has a tenant of its own in a
    temporary SQLite file, or at `url`; all are dropped at the end. `on_conversation` is told the name of each when
    it begins. StorageDataError where the set cannot be read or holds no question with evidence.
    """
    if limit < _DEPTH:
        raise StorageDataError(f"expected at least {_DEPTH}", field="limit")
    tally = _Tally()
    async with workspace(url) as store:
        for number, conversation in enumerate(read(path, layout)):
            on_conversation(conversation.name)
            async with Memory(store, tenant=f"{number} {conversation.name}", embed=embed) as memory:
                await _examine(memory, conversation, limit, tally)
    if not tally.scores:
        raise StorageDataError(f"{path}: there is no question with evidence", field="path")
    return _report(tally)


async def _examine(memory: Memory, conversation: Conversation, limit: int, tally: _Tally) -> None:
    """Store one conversation and ask its questions."""
    tally.conversations += 1
    tally.dropped_evidence += conversation.dropped_evidence
    tally.embedder = memory.embedder.name if memory.embedder else None
    started = perf_counter()
    tally.turns += await _ingest(memory, conversation.utterances)
    tally.ingest_seconds += perf_counter() - started
    for question in conversation.questions:
        await _ask(memory, question, limit, tally)


async def _ingest(memory: Memory, utterances: Iterable[Utterance]) -> int:
    sessions: dict[str, list[NewTurn]] = defaultdict(list)
    for said in utterances:
        metadata = {**said.metadata, _LABEL: said.turn}
        turn = NewTurn(said.role, said.text, speaker=said.speaker, at=said.at, metadata=metadata)
        sessions[said.session].append(turn)
    for session, turns in sessions.items():
        await memory.session(session).add_many(turns)
    return sum(map(len, sessions.values()))


async def _ask(memory: Memory, question: Question, limit: int, tally: _Tally) -> None:
    if not question.evidence:
        tally.without_evidence += 1
        return
    started = perf_counter()
    hits = await memory.recall(question.text, limit=limit)
    tally.took.append(perf_counter() - started)
    found = [str(hit.metadata.get(_LABEL)) for hit in hits]
    tally.scores[question.category].append(judge(found, set(question.evidence)))


def judge(found: Sequence[str], evidence: Collection[str]) -> tuple[float, float, float, float]:
    """R@5, R@10, reciprocal rank and nDCG@10 of turn labels, best first, against the labels of the evidence."""
    places = [place for place, label in enumerate(found) if label in evidence]
    r5, r10 = (sum(place < depth for place in places) / len(evidence) for depth in (5, _DEPTH))
    gained = sum(1 / math.log2(place + 2) for place in places if place < _DEPTH)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(evidence), _DEPTH)))
    return r5, r10, 1 / (places[0] + 1) if places else 0.0, gained / ideal


def _report(tally: _Tally) -> RecallReport:
    everything = [scores for asked in tally.scores.values() for scores in asked]
    return RecallReport(
        tally.conversations,
        tally.turns,
        _quality(everything),
        {category: _quality(tally.scores[category]) for category in sorted(tally.scores)},
        tally.dropped_evidence,
        tally.without_evidence,
        latencies(tally.took),
        tally.turns / tally.ingest_seconds,
        tally.embedder,
    )


def _quality(scores: Sequence[tuple[float, ...]]) -> Quality:
    return Quality(len(scores), *(estimate(column) for column in zip(*scores, strict=True)))
