"""BM25 over the documents of one collection, in memory.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3; the idf is
Lucene's ln(1 + (N - n + .5) / (n + .5)), which is positive for every term; as in FTS5 the weight of a field
multiplies term counts and a document's length is that of all its fields.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
from numpy.typing import NDArray

from polymem.indexes.analyzer import term_hash
from polymem.indexes.ranking import best
from polymem.indexes.segment import NO_MATCHES, Matches, Segment, build
from polymem.indexes.tokens import Stream, decode_tokens, field_hash, join_streams, keep_documents

K1: Final = 1.2
B: Final = 0.75
_TAIL_SIZE: Final = 4096
"""Slots that are indexed anew after each change, so that a single new document costs little."""
_RATIO: Final = 4
_SEGMENT_SIZE: Final = 5_000_000
"""Slots above which segments are not joined: building one takes about 0.1 s."""
_DEAD_MIN: Final = 64
_BATCH: Final = 1 << 16
_BYTES_PER_ID: Final = 160


class TextIndex:
    """Ranked search in token BLOBs; statistics are exactly those of the documents it holds.

    New documents gather in a tail; full tails become segments, and a segment is merged with the one before
    unless that is four times as large, so there are few and each token moves seldom. Documents that were
    replaced or removed are passed over until they are more than half. Not thread-safe: the owner locks.
    """

    _ids: list[str]
    """The id of each document number; those of dead documents too, until they are compacted away."""
    _numbers: dict[str, int]
    _lengths: NDArray[np.float64]
    _alive: NDArray[np.bool_]
    _tokens: int
    _segments: list[Segment]
    _pieces: list[Stream]
    """What was put and is in no segment; `_tail` is its index, None while out of date."""
    _tail: Segment | None

    def __init__(self) -> None:
        self._reset()

    @property
    def rows(self) -> int:
        """How many documents there are."""
        return len(self._numbers)

    @property
    def nbytes(self) -> int:
        """Memory held, ids included by estimate."""
        tail = sum(piece.words.nbytes for piece in self._pieces) + (self._tail.nbytes if self._tail else 0)
        arrays = self._lengths.nbytes + self._alive.nbytes
        return tail + arrays + sum(s.nbytes for s in self._segments) + _BYTES_PER_ID * len(self._ids)

    def put_many(self, ids: Sequence[str], blobs: Sequence[bytes]) -> None:
        """Insert or replace; of an id given twice the last BLOB counts. A bad BLOB changes nothing."""
        latest = dict(zip(ids, blobs, strict=True))
        first, total = len(self._ids), len(self._ids) + len(latest)
        newest = list(latest.values())
        streams = [decode_tokens(newest[at : at + _BATCH], first + at) for at in range(0, len(newest), _BATCH)]
        self.remove_many(list(latest))
        self._ids.extend(latest)
        self._numbers.update(zip(latest, range(first, total), strict=True))
        self._reserve(total)
        for stream in streams:
            np.add.at(self._lengths, stream.header_documents, stream.header_tokens)
        self._alive[first:total] = True
        self._tokens += int(self._lengths[first:total].sum())
        self._pieces += streams
        self._tail = None

    def remove_many(self, ids: Sequence[str]) -> int:
        """How many of them were there."""
        found = [number for id_ in ids if (number := self._numbers.pop(id_, None)) is not None]
        if found:
            self._alive[found] = False
            self._tokens -= int(self._lengths[found].sum())
        return len(found)

    def frequency(self, term: str) -> int:
        """How many documents hold an analysed term."""
        self._refresh()
        found = [segment.holding(_hashed(term)) for segment in self._searched()]
        if self._all_alive():
            return sum(map(len, found))
        return sum(int(np.count_nonzero(self._alive[documents])) for documents in found)

    def search(
        self,
        words: Sequence[str],
        phrases: Sequence[Sequence[str]] = (),
        prefixes: Sequence[Sequence[Sequence[str]]] = (),
        *,
        weights: Mapping[str, float] | None = None,
        common: float = 1.0,
        allowed: AbstractSet[str] | None = None,
        limit: int = 10,
        offset: int = 0,
        pause: Callable[[], object] = int,
    ) -> list[tuple[str, float]]:
        """Ids and scores, best first, ties by id.

        Everything is given as analysed terms. A document must hold every phrase (consecutive terms of one
        field), or without phrases any word or prefix. A prefix is given by its expansions, each a phrase
        (`Vocabulary.expand`); it and a phrase count as one term. Words in more than the share `common` of the
        documents are dropped if anything rarer is found. A field of weight 0 is not searched. `allowed` limits
        the answer, not the statistics. `pause` is called between steps, for a thread that is to let others in.
        """
        self._refresh()
        by_field = {field_hash(name): weight for name, weight in (weights or {}).items()}
        required = [self._union([phrase], by_field, pause) for phrase in phrases if phrase]
        expanded = [self._union(alternatives, by_field, pause) for alternatives in prefixes]
        single = [self._union([[word]], by_field, pause) for word in dict.fromkeys(words)]
        optional = expanded + self._without_common(single, required + expanded, common)
        scores = np.zeros(len(self._ids))
        for matches in required + optional:
            self._add(scores, matches)
            pause()
        numbers = self._matching(scores, required, allowed)
        return best(scores[numbers], numbers, self._ids, limit + offset if limit else 0)[offset:]

    def _matching(
        self, scores: NDArray[np.float64], required: list[Matches], allowed: AbstractSet[str] | None
    ) -> NDArray[np.int64]:
        passing = scores > 0
        for documents, counts in required:
            holds = np.zeros(len(scores), np.bool_)
            holds[documents[counts > 0]] = True
            passing &= holds
        numbers = np.flatnonzero(passing)
        return numbers if allowed is None else self._allowed(numbers, allowed)

    def _allowed(self, numbers: NDArray[np.int64], allowed: AbstractSet[str]) -> NDArray[np.int64]:
        ids = self._ids
        if len(numbers) < len(allowed):
            return np.array([number for number in numbers.tolist() if ids[number] in allowed], np.int64)
        chosen = [number for id_ in allowed if (number := self._numbers.get(id_)) is not None]
        holds = np.zeros(len(ids), np.bool_)
        holds[chosen] = True
        return numbers[holds[numbers]]

    def _without_common(self, single: list[Matches], others: list[Matches], common: float) -> list[Matches]:
        most = common * self.rows
        rare = [matches for matches in single if len(matches[0]) <= most]
        rarer_found = any(0 < len(matches[0]) <= most for matches in rare + others)
        return rare if rarer_found else single

    def _add(self, scores: NDArray[np.float64], matches: Matches) -> None:
        documents, counts = matches
        found = len(documents)
        if not found:
            return
        idf = np.log1p((self.rows - found + 0.5) / (found + 0.5))
        numbers = documents.astype(np.intp)  # indexing twice by anything else would convert it twice, and slowly
        norms = self._lengths[numbers]
        norms *= K1 * B * self.rows / self._tokens
        norms += K1 * (1 - B)
        norms += counts
        scores[numbers] += counts * (idf * (K1 + 1)) / norms

    def _union(
        self, alternatives: Sequence[Sequence[str]], weights: Mapping[int, float], pause: Callable[[], object] = int
    ) -> Matches:
        """The documents that hold any of some phrases."""
        segments, parts = self._searched(), list[Matches]()
        for terms in alternatives:
            hashed = list(map(_hashed, terms))
            parts += [segment.phrase(hashed, weights) for segment in segments]
            pause()
        parts = [part for part in parts if len(part[0])]
        if not parts:
            return NO_MATCHES
        documents, counts = parts[0] if len(parts) == 1 else _joined(parts)
        if len(alternatives) > 1:
            documents, places = np.unique(documents, return_inverse=True)
            counts = np.bincount(places, counts).astype(np.float64, copy=False)
        if self._all_alive():
            return documents, counts
        alive = self._alive[documents]
        return documents[alive], counts[alive]

    def _searched(self) -> list[Segment]:
        return [*self._segments, self._tail] if self._tail else self._segments

    def _all_alive(self) -> bool:
        return len(self._numbers) == len(self._ids)

    def _refresh(self) -> None:
        """Bring the segments up to date with what was put and removed."""
        if len(self._ids) > 2 * len(self._numbers) + _DEAD_MIN:
            self._compact()
        if self._tail is not None or not self._pieces:
            return
        if sum(len(piece.words) for piece in self._pieces) <= _TAIL_SIZE:
            self._pieces = [join_streams(self._pieces)]
            self._tail = build(self._pieces[0])
            return
        pieces, self._pieces = self._pieces, []
        self._segments += [build(join_streams(group)) for group in _groups(pieces)]
        self._merge()

    def _merge(self) -> None:
        """Join the newest segments as far back as they are not much larger than what follows them."""
        start = len(self._segments) - 1
        size = self._segments[start].size
        while start and self._segments[start - 1].size < min(_RATIO * size, _SEGMENT_SIZE - size):
            start -= 1
            size += self._segments[start].size
        if start < len(self._segments) - 1:
            joined = join_streams([segment.stream() for segment in self._segments[start:]])
            self._segments[start:] = [build(joined)]

    def _compact(self) -> None:
        """Drop dead documents and number the others anew."""
        alive = self._alive[: len(self._ids)]
        numbers = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
        streams = [*(segment.stream() for segment in self._segments), *self._pieces]
        ids = [id_ for id_, lives in zip(self._ids, alive.tolist(), strict=True) if lives]
        lengths, tokens = self._lengths[: len(alive)][alive], self._tokens
        self._reset()
        self._ids, self._numbers = ids, dict(zip(ids, range(len(ids)), strict=True))
        self._lengths, self._alive, self._tokens = lengths, np.ones(len(ids), np.bool_), tokens
        self._pieces = [keep_documents(stream, numbers) for stream in streams]

    def _reserve(self, total: int) -> None:
        if total > len(self._alive):
            room = max(total, 2 * len(self._alive), 16)
            self._lengths = np.concatenate([self._lengths, np.zeros(room - len(self._lengths))])
            self._alive = np.concatenate([self._alive, np.zeros(room - len(self._alive), np.bool_)])

    def _reset(self) -> None:
        self._ids, self._numbers = [], {}
        self._lengths, self._alive = np.empty(0, np.float64), np.empty(0, np.bool_)
        self._tokens = 0
        self._segments, self._pieces, self._tail = [], [], None


def _hashed(term: str) -> int:
    return int.from_bytes(term_hash(term), "little")


def _joined(parts: list[Matches]) -> Matches:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _groups(pieces: list[Stream]) -> Iterator[list[Stream]]:
    """Pieces that are to be a segment together."""
    group: list[Stream] = []
    for piece in pieces:
        if group and sum(len(other.words) for other in group) + len(piece.words) > _SEGMENT_SIZE:
            yield group
            group = []
        group.append(piece)
    yield group
