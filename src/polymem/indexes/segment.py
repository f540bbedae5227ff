"""An immutable inverted index over a run of documents, as arrays.

Tokens are ordered by term, then by slot (place in the `Stream`), so by document and position within a term.
A posting is one term in one document: `documents[p]`, with the tokens from `token_starts[p]` to
`token_starts[p + 1]`. Term `t` has the postings from `posting_starts[t]` to `posting_starts[t + 1]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polymem.indexes.tokens import Stream

Matches = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Document numbers, ascending and distinct, and the weighted number of times something occurs in each."""

NO_MATCHES: Matches = (np.empty(0, np.int32), np.empty(0, np.float64))


@dataclass(frozen=True, slots=True)
class Segment:
    """See the module; `fields` is the number of each token's field in `names`, None where there is one."""

    hashes: NDArray[np.uint64]
    posting_starts: NDArray[np.int32]
    documents: NDArray[np.int32]
    token_starts: NDArray[np.int32]
    slots: NDArray[np.int32]
    fields: NDArray[np.uint16] | None
    names: NDArray[np.uint32]
    header_slots: NDArray[np.int32]
    header_fields: NDArray[np.uint32]
    header_documents: NDArray[np.int32]
    size: int

    @property
    def nbytes(self) -> int:
        arrays = (self.hashes, self.posting_starts, self.documents, self.token_starts, self.slots, self.names)
        headers = (self.header_slots, self.header_fields, self.header_documents)
        return sum(array.nbytes for array in (*arrays, *headers)) + (0 if self.fields is None else self.fields.nbytes)

    def holding(self, term: int) -> NDArray[np.int32]:
        """The numbers of the documents that hold a term, of whatever field."""
        at = self._find(term)
        first, end = (0, 0) if at is None else self.posting_starts[at : at + 2]
        return self.documents[first:end]

    def word(self, term: int, weights: Mapping[int, float]) -> Matches:
        """The documents that hold a term (given by its hash)."""
        at = self._find(term)
        if at is None:
            return NO_MATCHES
        first, end = self.posting_starts[at], self.posting_starts[at + 1]
        return self.documents[first:end], self._counts(first, end, weights)

    def phrase(self, terms: Sequence[int], weights: Mapping[int, float]) -> Matches:
        """The documents that hold the terms one after the other within a field."""
        if len(terms) == 1:
            return self.word(terms[0], weights)
        begins = self._begins(terms)
        if not len(begins):
            return NO_MATCHES
        header = np.searchsorted(self.header_slots, begins, "right") - 1
        documents = self.header_documents[header]
        first = np.flatnonzero(np.diff(documents, prepend=np.int32(-1)))
        values = np.array(self._weights(weights))[np.searchsorted(self.names, self.header_fields[header])]
        return documents[first], np.add.reduceat(values, first)

    def stream(self) -> Stream:
        """The tokens this was built from."""
        words = np.zeros(self.size, np.uint64)
        words[self.slots] = np.repeat(self.hashes, np.diff(self.token_starts[self.posting_starts]))
        return Stream(words, self.header_slots, self.header_fields, self.header_documents)

    def _find(self, term: int) -> int | None:
        at = int(np.searchsorted(self.hashes, np.uint64(term)))
        return at if at < len(self.hashes) and int(self.hashes[at]) == term else None

    def _tokens(self, term: int) -> NDArray[np.int32]:
        at = self._find(term)
        if at is None:
            return self.slots[:0]
        first, end = self.token_starts[self.posting_starts[at : at + 2]]
        return self.slots[first:end]

    def _begins(self, terms: Sequence[int]) -> NDArray[np.int32]:
        """Slots at which the whole phrase begins: those of its rarest term, then thinned by the others."""
        tokens = sorted(((self._tokens(term), place) for place, term in enumerate(terms)), key=lambda t: len(t[0]))
        begins = tokens[0][0] - np.int32(tokens[0][1])
        for slots, place in tokens[1:]:
            if not len(begins):
                break
            wanted = begins + np.int32(place)
            found = np.minimum(np.searchsorted(slots, wanted), len(slots) - 1)
            begins = begins[slots[found] == wanted]
        return begins

    def _weights(self, weights: Mapping[int, float]) -> list[float]:
        return [weights.get(name, 1.0) for name in self.names.tolist()]

    def _counts(self, first: int, end: int, weights: Mapping[int, float]) -> NDArray[np.float64]:
        starts = self.token_starts[first : end + 1]
        by_field = self._weights(weights)
        if self.fields is None or by_field.count(by_field[0]) == len(by_field):
            every: NDArray[np.float64] = np.subtract(starts[1:], starts[:-1], dtype=np.float64)
            return every * by_field[0]
        values = np.array(by_field)[self.fields[starts[0] : starts[-1]]]
        counts: NDArray[np.float64] = np.add.reduceat(values, starts[:-1] - starts[0])
        return counts


def build(stream: Stream) -> Segment:
    """The inverted index of a stream."""
    slots, terms = _by_term(stream)
    header_of = np.repeat(np.arange(len(stream.header_slots), dtype=np.int32), stream.header_tokens + 1)
    headers = header_of[slots]
    owners = stream.header_documents[headers]
    new_term = _changes(terms)
    starts = np.flatnonzero(new_term | _changes(owners))
    names, fields = np.unique(stream.header_fields, return_inverse=True)
    return Segment(
        hashes=terms[new_term],
        posting_starts=np.append(np.flatnonzero(new_term[starts]), len(starts)).astype(np.int32),
        documents=owners[starts],
        token_starts=np.append(starts, len(slots)).astype(np.int32),
        slots=slots.astype(np.int32),
        fields=fields.astype(np.uint16)[headers] if len(names) > 1 else None,
        names=names,
        header_slots=stream.header_slots,
        header_fields=stream.header_fields,
        header_documents=stream.header_documents,
        size=len(stream.words),
    )


def _by_term(stream: Stream) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The slots of all tokens and their terms, ordered by term, then by slot.

    Sorting keys of a term's high bits above the slot takes a third of the time of a stable argsort, which is
    left for when two terms share those bits and come out mixed. Large temporaries cost more than the arithmetic
    (the pages are new each time), so what can be done in place is.
    """
    is_token = np.ones(len(stream.words), np.bool_)
    is_token[stream.header_slots] = False
    slots = np.flatnonzero(is_token).astype(np.int64, copy=False)
    low = np.uint64((1 << len(stream.words).bit_length()) - 1)
    keys = stream.words[is_token]
    keys &= ~low
    keys |= slots.view(np.uint64)
    keys.sort()
    keys &= low
    ordered = keys.view(np.int64)
    terms = stream.words[ordered]
    if np.any(terms[1:] < terms[:-1]):
        ordered = slots[np.argsort(stream.words[slots], kind="stable")]
        terms = stream.words[ordered]
    return ordered, terms


def _changes(values: NDArray[np.uint64] | NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where a value differs from the one before; the first always does."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes
