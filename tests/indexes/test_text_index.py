"""BM25 against a plain reference, under any history (TXT-1, G-10)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from polymem.errors import StorageCorruptError
from polymem.indexes import TextIndex, analyzer, encode_tokens, postings

NONE = analyzer("none")
WORDS = ["a", "b", "c", "d", "e"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
documents = st.fixed_dictionaries({}, optional={"title": texts, "body": texts, "tags": texts})
ids = st.sampled_from([f"id{n}" for n in range(12)])
Fields = dict[str, str]


@dataclass
class Query:
    words: list[str] = field(default_factory=list)
    phrases: list[list[str]] = field(default_factory=list)
    prefixes: list[list[list[str]]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    common: float = 1.0
    allowed: set[str] | None = None


terms = st.sampled_from([*WORDS, "unknown"])
phrases = st.lists(terms, min_size=1, max_size=3)
queries = st.builds(
    Query,
    words=st.lists(terms, max_size=4),
    phrases=st.lists(phrases, max_size=2),
    prefixes=st.lists(st.lists(phrases, max_size=3, unique_by=tuple), max_size=2),
    weights=st.dictionaries(st.sampled_from(["title", "body"]), st.sampled_from([0.0, 0.5, 1.0, 3.0])),
    common=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    allowed=st.none() | st.sets(ids),
)


def occurrences(text: str, phrase: Sequence[str]) -> int:
    found = text.split()
    return sum(found[at : at + len(phrase)] == list(phrase) for at in range(len(found)))


class Reference:
    """BM25 as written in the paper, one document at a time."""

    def __init__(self, stored: dict[str, Fields]) -> None:
        self.stored = stored
        lengths = {id_: sum(len(text.split()) for text in fields.values()) for id_, fields in stored.items()}
        self.lengths = lengths
        self.average = sum(lengths.values()) / max(len(lengths), 1)

    def counts(self, alternatives: Sequence[Sequence[str]], weights: dict[str, float]) -> dict[str, float]:
        return {
            id_: sum(
                weights.get(name, 1.0) * occurrences(text, phrase)
                for name, text in fields.items()
                for phrase in alternatives
            )
            for id_, fields in self.stored.items()
        }

    def frequency(self, alternatives: Sequence[Sequence[str]]) -> int:
        return sum(count > 0 for count in self.counts(alternatives, {}).values())

    def search(self, query: Query) -> list[tuple[str, float]]:
        required = [[phrase] for phrase in query.phrases]
        words = [[[word]] for word in dict.fromkeys(query.words)]
        most = query.common * len(self.stored)
        rare = [word for word in words if self.frequency(word) <= most]
        others = rare + required + query.prefixes
        if any(0 < self.frequency(clause) <= most for clause in others):
            words = rare
        scores = dict.fromkeys(self.stored, 0.0)
        for clause in required + query.prefixes + words:
            for id_, score in self.clause(clause, query.weights):
                scores[id_] += score
        for clause in required:
            holding = {id_ for id_, _ in self.clause(clause, query.weights)}
            scores = {id_: score for id_, score in scores.items() if id_ in holding}
        hits = [(id_, score) for id_, score in scores.items() if score > 0]
        hits = [hit for hit in hits if query.allowed is None or hit[0] in query.allowed]
        return sorted(hits, key=lambda hit: (-round(hit[1], 9), hit[0]))

    def clause(self, clause: Any, weights: dict[str, float]) -> Iterator[tuple[str, float]]:
        total, found = len(self.stored), self.frequency(clause)
        idf = math.log(1 + (total - found + 0.5) / (found + 0.5))
        for id_, count in self.counts(clause, weights).items():
            if count > 0:
                norm = 1.2 * (1 - 0.75 + 0.75 * self.lengths[id_] / self.average)
                yield id_, idf * count * 2.2 / (count + norm)


def run(index: TextIndex, query: Query, limit: int = 100, offset: int = 0) -> list[tuple[str, float]]:
    return index.search(
        query.words,
        query.phrases,
        query.prefixes,
        weights=query.weights,
        common=query.common,
        allowed=query.allowed,
        limit=limit,
        offset=offset,
    )


def put(index: TextIndex, stored: dict[str, Fields]) -> None:
    index.put_many(list(stored), [encode_tokens(NONE, fields) for fields in stored.values()])


def filled(**texts: str) -> TextIndex:
    index = TextIndex()
    put(index, {id_: {"text": text} for id_, text in texts.items()})
    return index


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [id_ for id_, _ in sorted(found)] == [id_ for id_, _ in sorted(expected)]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
    assert dict(found) == pytest.approx(dict(expected))


class AnyHistory(RuleBasedStateMachine):
    """Puts, replacements, removals and searches in any order, with segments as small as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.stored = TextIndex(), dict[str, Fields]()

    @initialize(tail=st.sampled_from([0, 8, 4096]), segment=st.sampled_from([20, 1 << 22]))
    def sizes(self, tail: int, segment: int) -> None:
        sizes = {"_TAIL_SIZE": tail, "_SEGMENT_SIZE": segment, "_DEAD_MIN": 2, "_BATCH": 3}
        self.patches = pytest.MonkeyPatch()
        for name, value in sizes.items():
            self.patches.setattr(postings, name, value)

    def teardown(self) -> None:
        if hasattr(self, "patches"):
            self.patches.undo()

    @rule(batch=st.lists(st.tuples(ids, documents), max_size=5))
    def put(self, batch: list[tuple[str, Fields]]) -> None:
        blobs = [encode_tokens(NONE, fields) for _, fields in batch]
        self.index.put_many([id_ for id_, _ in batch], blobs)
        self.stored.update(batch)

    @rule(gone=st.lists(ids, max_size=4))
    def remove(self, gone: list[str]) -> None:
        assert self.index.remove_many(gone) == len(self.stored.keys() & set(gone))
        for id_ in gone:
            self.stored.pop(id_, None)

    @rule(query=queries)
    def search(self, query: Query) -> None:
        same(run(self.index, query), Reference(self.stored).search(query))

    @rule(term=terms)
    def frequency(self, term: str) -> None:
        assert self.index.frequency(term) == Reference(self.stored).frequency([[term]])

    @invariant()
    def counted(self) -> None:
        assert self.index.rows == len(self.stored)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


@given(st.dictionaries(ids, documents, min_size=1), queries, st.integers(0, 6), st.integers(0, 6))
@settings(deadline=None)
def test_pages_cut_one_ranking(stored: dict[str, Fields], query: Query, limit: int, offset: int) -> None:
    index = TextIndex()
    put(index, stored)
    assert run(index, query, limit=limit, offset=offset) == run(index, query)[offset : offset + limit]


def test_an_empty_index_answers() -> None:
    assert TextIndex().search(["a"], [["a", "b"]], [[["a"]]]) == []
    assert TextIndex().frequency("a") == 0


def test_ties_are_ordered_by_id_across_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "_TAIL_SIZE", 0)
    index = TextIndex()
    for id_ in "dbeac":
        put(index, {id_: {"text": "same words"}})
        index.frequency("same")
    assert [id_ for id_, _ in index.search(["same"], limit=3)] == ["a", "b", "c"]


def test_a_phrase_stays_within_a_field() -> None:
    index = TextIndex()
    put(index, {"1": {"title": "x new", "body": "york y"}, "2": {"title": "new york"}})
    put(index, {"3": {"title": "new"}, "4": {"title": "york"}})
    assert [id_ for id_, _ in index.search([], [["new", "york"]])] == ["2"]


def test_a_field_of_weight_zero_is_not_searched() -> None:
    index = TextIndex()
    put(index, {"1": {"title": "a"}, "2": {"body": "a"}})
    assert [id_ for id_, _ in index.search(["a"], weights={"title": 0.0})] == ["2"]
    assert [id_ for id_, _ in index.search([], [["a"]], weights={"title": 0.0})] == ["2"]
    put(index, {"3": {"title": "a", "body": "b"}})
    assert [id_ for id_, _ in index.search(["b"], [["a"]], weights={"title": 0.0})] == ["2"]


def test_common_words_go_only_if_a_rarer_one_is_found() -> None:
    index = filled(a="the cat", b="the dog", c="the bird")
    assert [id_ for id_, _ in index.search(["the", "cat"], common=0.5)] == ["a"]
    assert len(index.search(["the"], common=0.5)) == 3
    assert len(index.search(["the", "unknown"], common=0.5)) == 3


def test_a_search_pauses_after_every_term() -> None:
    """However many a prefix has; SQ-1."""
    index, pauses = TextIndex(), list[int]()
    index.put_many(["1", "2"], [encode_tokens(NONE, {"x": text}) for text in ("a b c", "d e")])
    found = index.search(["a", "b"], [["d", "e"]], [[["c"], ["d"], ["e"]]], pause=lambda: pauses.append(1))
    assert found == index.search(["a", "b"], [["d", "e"]], [[["c"], ["d"], ["e"]]])
    assert len(pauses) == 2 * 2 + 2 * 1 + (3 + 1)  # found, then scored


def test_frequencies_are_those_of_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "_TAIL_SIZE", 4)
    index = TextIndex()
    for id_ in ("1", "2", "3"):
        index.put_many([id_], [encode_tokens(NONE, {"x": "a b", "y": "a"})])
        assert index.frequency("a") == int(id_)
    index.remove_many(["2"])
    assert (index.frequency("a"), index.frequency("unknown")) == (2, 0)


def test_allowed_limits_the_answer_not_the_statistics() -> None:
    index = filled(**{f"d{n}": "a b" for n in range(50)}, x="a c")
    scores = dict(index.search(["a", "c"], limit=100))
    assert dict(index.search(["a", "c"], allowed={"x", "d3", "absent"})) == {i: scores[i] for i in ("x", "d3")}
    many = {f"d{n}" for n in range(40)} | {f"absent{n}" for n in range(40)}
    assert len(index.search(["a"], allowed=many, limit=100)) == 40
    assert index.search(["a"], allowed=set()) == []


def test_the_last_blob_of_a_repeated_id_counts() -> None:
    index = TextIndex()
    index.put_many(["x", "x"], [encode_tokens(NONE, {"t": text}) for text in ("old", "new")])
    assert (index.rows, index.frequency("old"), index.frequency("new")) == (1, 0, 1)


def test_terms_that_share_their_first_bits_stay_apart() -> None:
    """The quick sort compares high bits only; real hashes differ there, so make some that do not."""
    header = encode_tokens(NONE, {"t": "a b"})[:8]
    low, high = (1 << 62 | 1).to_bytes(8, "little"), (1 << 62 | 2).to_bytes(8, "little")
    index = TextIndex()
    index.put_many(["1", "2"], [header + high + low, header + low + high])
    index._refresh()
    assert index._tail is not None
    assert index._tail.hashes.tolist() == [1 << 62 | 1, 1 << 62 | 2]
    assert index._tail.slots.tolist() == [2, 4, 1, 5]


@pytest.mark.parametrize("damage", ["cut", "odd", "format", "header"])
def test_a_bad_blob_is_refused_and_changes_nothing(damage: str) -> None:
    good = encode_tokens(NONE, {"text": "a b", "more": "c"})
    bad = {"cut": good[:16], "odd": good[:-1], "format": b"\x09" + good[1:], "header": good[8:]}[damage]
    index = filled(x="a")
    with pytest.raises(StorageCorruptError):
        index.put_many(["x", "y"], [good, bad])
    assert (index.rows, index.frequency("a"), index.frequency("c")) == (1, 1, 0)


def test_memory_is_counted_and_given_back() -> None:
    index = TextIndex()
    empty = index.nbytes
    put(index, {str(n): {"text": f"word{n} a b c"} for n in range(2000)})
    full = index.nbytes
    index.frequency("a")
    assert index.nbytes > 2000 * 4 * 8
    assert full > empty
    index.remove_many([str(n) for n in range(1990)])
    index.frequency("a")
    assert index.nbytes < full / 20
    assert index.frequency("a") == 10


def test_segments_stay_few_and_old_ones_are_not_touched_by_each_put() -> None:
    index = TextIndex()
    for batch in range(300):
        put(index, {f"{batch}-{n}": {"text": " ".join(WORDS * 4)} for n in range(10)})
        assert index.frequency("a") == 10 * (batch + 1)
    sizes = [segment.size for segment in index._segments]
    assert len(sizes) <= 4
    assert sizes == sorted(sizes, reverse=True)
