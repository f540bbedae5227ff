"""The order of what `Memory.recall` found: pure functions of the candidates, no I/O.

Two lists are united, the best of the text index (BM25) and of the vector index (cosine), and fused:

    score = w_t * trust * (bm25 + 0.5 * bm25 of its neighbours) / best    text, text_neighbours
          + w_v * (cosine - floor) / (best - floor)                       vector
          + the weights of `Weights`                                      asker, recency, ...

- A convex combination of scores scaled by their best and least values beats rank fusion and keeps how far
  ahead a hit is: Bruch, Gai, Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023. The
  least value is 0 for text (a row that matches nothing) and, cosines being centred on the collection, 0 or
  the least candidate's for vectors.
- `trust` is the share of the question's information that the collection has words for, so a question in
  other words than the memories leans on the vectors.
- Recency (exponential decay), importance and relevance are added: Park et al., "Generative Agents", 2023.

Every part is a value of `Ranked.scores`, and they sum to `Ranked.score`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymem.errors import StorageDataError
from polymem.providers.embedding import TokenVectors, Vector, unit

Match = tuple[str, float]
"""A candidate: its id and the index's own score, higher is better."""

CANDIDATES: Final = 200
"""How many rows to ask of each index. On the evaluation sets fewer lost recall and more gained nothing."""

_FEW_ROWS: Final = 1000
_WORD: Final = re.compile(r"\w+")
_MONTHS: Final = (  # not strftime, which follows the locale of the process
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_FIRST_PERSON: Final = frozenset({"i", "me", "my", "mine", "myself", "we", "us", "our", "ours"})
_STOP_WORDS: Final = frozenset(
    """a about after all also am an and any are as at be because been before being between both but by can
    could d did do does doing down during each few for from further had has have having he her here hers him
    his how i if in into is it its just like ll m me more most my myself no nor not now o of off on once only
    or other our out over own re s same she should so some such t than that the their them then there these
    they this those through to too under until up us ve very was we were what when where which while who whom
    why will with would y you your yours
    """.split()  # noqa: SIM905  a hundred quoted words are harder to read
)


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each signal counts; none is negative.

    `text` and `vector` are shares of one (only their ratio matters); without vectors text has it all. The
    others are added on that scale: 0.1 is a tenth of the distance between a perfect hit and none at all.
    """

    text: float = 0.6
    vector: float = 0.4
    """Less than text, so that the only row with the word asked for (a name, a code) beats look-alikes."""
    neighbour: float = 0.5
    """How much of a neighbouring turn's BM25 score a turn is given."""
    asker: float = 0.1
    """For a turn with role "user" when the question is in the first person ("When does my sprint end?")."""
    recency: float = 0.0
    half_life: float = 30 * 86_400.0
    """Seconds after which a memory has half its recency left."""
    importance: float = 0.0
    confidence: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise StorageDataError("expected a number of at least 0", field=field.name)
        if self.half_life == 0:
            raise StorageDataError("expected more than 0 seconds", field="half_life")
        if self.text + self.vector == 0:
            raise StorageDataError("expected text or vector to be more than 0", field="text")


class Attributes(NamedTuple):
    """What the optional weights need to know of a candidate; `importance` and `confidence` are in [0, 1]."""

    role: str | None = None
    at: datetime | None = None
    importance: float = 0.5
    confidence: float = 1.0


class Ranked(NamedTuple):
    """A candidate in its place. `scores` says where `score`, their sum, comes from."""

    id: str
    score: float
    scores: dict[str, float]


class Query(NamedTuple):
    """What `rank` needs to know of the question."""

    first_person: bool = False
    trust: float = 1.0
    now: datetime | None = None


_PLAIN: Final = Query()
_DEFAULT: Final = Weights()
_NOTHING_KNOWN: Final = Attributes()


def indexed_text(text: str, *, speaker: str, at: datetime | None = None) -> str:
    """What both indexes are given for a turn: "8 May 2023 | Ada: I moved to Lisbon".

    Pass the role where the speaker has no name. Day and speaker in the text are worth 4 points of recall.
    """
    spoken = f"{speaker}: {text}"
    return spoken if at is None else f"{at.day} {_MONTHS[at.month - 1]} {at.year} | {spoken}"


def question_words(question: str, language: str = "english") -> tuple[str, ...]:
    """The distinct words to look for: without English stop words, unless there is nothing else."""
    words = tuple(dict.fromkeys(_WORD.findall(question.lower())))
    if language != "english":
        return words
    return tuple(word for word in words if word not in _STOP_WORDS) or words


def common_share(rows: int) -> float:
    """The share of rows above which a word is too common to look up while a rarer one is left.

    Only for speed: among at most 1,000 rows every word is cheap, and even common ones add recall.
    """
    return 1.0 if rows <= _FEW_ROWS else 0.2


def is_first_person(question: str) -> bool:
    """Whether the asker speaks of themselves (English)."""
    return not _FIRST_PERSON.isdisjoint(_WORD.findall(question.lower()))


def idf(rows: int, frequency: int) -> float:
    """Smoothed inverse document frequency: 1 in an empty collection and for a word in every row."""
    return 1 + math.log((1 + rows) / (1 + min(frequency, rows)))


def text_trust(words: Iterable[str], rows: int, frequencies: Mapping[str, int]) -> float:
    """The share in [0, 1] of the information (idf) in `words` that lies in words the collection has."""
    known = [(idf(rows, frequencies.get(word, 0)), frequencies.get(word, 0) > 0) for word in words]
    total = sum(weight for weight, _ in known)
    return sum(weight for weight, present in known if present) / total if total else 0.0


def query_vector(tokens: TokenVectors, rows: int, frequencies: Mapping[str, int]) -> Vector | None:
    """The unit vector of a question, each model token weighted by the idf of its word in the collection.

    `frequencies` holds, for each of `tokens.words`, the number of rows that hold its stem. Without this
    weighting names that occur everywhere dominate the vector. None for a text without tokens.
    """
    found = [idf(rows, frequencies.get(word, 0)) if word else 0.0 for word in tokens.words]
    weights = np.array(found, np.float32)
    if not weights.any():
        weights = np.ones(len(tokens.words), np.float32)
    vector = weights @ tokens.vectors
    return unit(vector) if vector.any() else None


def candidates(text: Sequence[Match], vector: Sequence[Match], neighbours: Callable[[str], Iterable[str]]) -> list[str]:
    """The ids that `rank` orders: both lists and the neighbours of the text hits, each once."""
    ids = dict.fromkeys(id for id, _ in text)
    ids.update(dict.fromkeys(near for id, _ in text for near in neighbours(id)))
    ids.update(dict.fromkeys(id for id, _ in vector))
    return list(ids)


def best_case(query: Query) -> Attributes:
    """Attributes that no memory's are worth more than."""
    return Attributes(role="user", at=query.now, importance=1.0, confidence=1.0)


class Standing(NamedTuple):
    """The candidates in their order."""

    best: list[Ranked]
    """Best first, ties by id."""
    decisive: list[str]
    """Those by which all are scaled: without one of them the scores would differ."""


def rank(
    text: Sequence[Match],
    vector: Sequence[Match] | None,
    *,
    neighbours: Callable[[str], Iterable[str]] = lambda _: (),
    attributes: Mapping[str, Attributes] | None = None,
    query: Query = _PLAIN,
    weights: Weights = _DEFAULT,
) -> list[Ranked]:
    """All candidates, see `Ranking`."""
    return Ranking(text, vector, neighbours=neighbours, query=query, weights=weights).standing(attributes).best


class Ranking:
    """The candidates of one question, to be put in order again whenever more is known of them.

    `vector` is None without an embedder, else cosines: best of all the centred one of every candidate
    (`Vectors.centred_cosines`); a candidate that has none is given the least of them. `neighbours` gives the ids next
    to one in its session.
    """

    def __init__(
        self,
        text: Sequence[Match],
        vector: Sequence[Match] | None,
        *,
        neighbours: Callable[[str], Iterable[str]],
        query: Query,
        weights: Weights,
    ) -> None:
        self._query, self._weights = query, weights
        own = dict(text)
        context = _context(own, neighbours, weights.neighbour)
        cosines = None if vector is None else dict(vector)
        self._places = {id: at for at, id in enumerate(dict.fromkeys([*own, *context, *(cosines or ())]))}
        self._ids = list(self._places)
        self._own, self._context = self._column(own, 0.0), self._column(context, 0.0)
        self._cosines = None if cosines is None else self._column(cosines, math.nan)

    def standing(
        self,
        attributes: Mapping[str, Attributes] | None = None,
        *,
        count: int | None = None,
        assumed: Attributes | None = None,
        without: Iterable[str] = (),
    ) -> Standing:
        """The best `count`, None for all.

        Where `attributes` is given, a candidate it doesn't hold (a neighbour that doesn't exist, a row filtered out)
        is left out, unless `assumed` says what to take such a one for. Those in `without` are left out in any case.
        """
        rows = self._counted(attributes, assumed, without)
        parts = self._parts(rows)
        total = sum(parts.values(), self._worth(attributes, assumed)[rows])
        top = _highest(total, len(rows) if count is None else count)
        scores = zip(*(part[top].tolist() for part in parts.values()), strict=True)
        best: list[Ranked] = []
        for id, values in zip((self._ids[row] for row in rows[top].tolist()), scores, strict=True):
            known = dict(zip(parts, values, strict=True))
            if attributes is not None:
                known |= self._priors(attributes.get(id, assumed or _NOTHING_KNOWN))
            best.append(Ranked(id, math.fsum(known.values()), known))
        return Standing(sorted(best, key=lambda hit: (-hit.score, hit.id))[:count], self._decisive(rows))

    def _column(self, values: Mapping[str, float], absent: float) -> NDArray[np.float64]:
        return np.array([values.get(id, absent) for id in self._ids], np.float64)

    def _places_of(self, ids: Iterable[str]) -> list[int]:
        return [self._places[id] for id in ids if id in self._places]

    def _counted(
        self, attributes: Mapping[str, Attributes] | None, assumed: Attributes | None, without: Iterable[str]
    ) -> NDArray[np.intp]:
        counted = np.full(len(self._ids), attributes is None or assumed is not None)
        counted[self._places_of(attributes or ())] = True
        counted[self._places_of(without)] = False
        return np.flatnonzero(counted)

    def _parts(self, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        weights = self._weights
        share = 1.0 if self._cosines is None else weights.text / (weights.text + weights.vector)
        own, context = self._own[rows], self._context[rows]
        best = float(np.max(own + context, initial=0.0))
        scale = share * self._query.trust / best if best > 0 else 0.0
        parts = {"text": own * scale, "text_neighbours": context * scale}
        if self._cosines is not None:
            parts["vector"] = _spread(self._cosines[rows], 1 - share)
        return parts

    def _worth(self, attributes: Mapping[str, Attributes] | None, assumed: Attributes | None) -> NDArray[np.float64]:
        """What the priors add to each candidate, up to rounding."""
        if attributes is None:
            return np.zeros(len(self._ids))
        worth = np.full(len(self._ids), sum(self._priors(assumed or _NOTHING_KNOWN).values()), np.float64)
        known = [(self._places[id], memory) for id, memory in attributes.items() if id in self._places]
        worth[[at for at, _ in known]] = [sum(self._priors(memory).values()) for _, memory in known]
        return worth

    def _priors(self, memory: Attributes) -> dict[str, float]:
        query, weights = self._query, self._weights
        scores: dict[str, float] = {}
        if weights.asker and query.first_person and memory.role == "user":
            scores["asker"] = weights.asker
        if weights.recency and query.now is not None and memory.at is not None:
            age = max(0.0, (query.now - memory.at).total_seconds())
            scores["recency"] = weights.recency * 0.5 ** (age / weights.half_life)
        if weights.importance:
            scores["importance"] = weights.importance * memory.importance
        if weights.confidence:
            scores["confidence"] = weights.confidence * memory.confidence
        return scores

    def _decisive(self, rows: NDArray[np.intp]) -> list[str]:
        if not len(rows):
            return []
        found = [rows[np.argmax(self._own[rows] + self._context[rows])]]
        compared = rows[:0] if self._cosines is None else rows[~np.isnan(self._cosines[rows])]
        if self._cosines is not None and len(compared):
            cosines = self._cosines[compared]
            found += [compared[np.argmin(cosines)], compared[np.argmax(cosines)]]
        return [self._ids[row] for row in found]


def _context(own: Mapping[str, float], neighbours: Callable[[str], Iterable[str]], weight: float) -> dict[str, float]:
    context: dict[str, float] = {}
    if weight:
        for id, score in own.items():
            for near in neighbours(id):
                context[near] = context.get(near, 0.0) + weight * score
    return context


def _spread(cosines: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """`share` for the highest, nothing for the least or for 0; one that is not known (NaN) counts as the least."""
    present = cosines[~np.isnan(cosines)]
    least, best = (float(present.min()), float(present.max())) if len(present) else (0.0, 0.0)
    floor = min(0.0, least)
    scale = share / (best - floor) if best > floor else 0.0
    return (np.where(np.isnan(cosines), least, cosines) - floor) * scale


def _highest(total: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Where the `count` highest are, and those so near that rounding may have put them behind."""
    if not 0 < count < len(total):
        return np.arange(len(total) if count else 0)
    return np.flatnonzero(total >= np.partition(total, -count)[-count] * (1 - 1e-9))
