"""Exact vector search against brute force (VEC-1)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from polymem.contracts.vectors import Metric
from polymem.errors import StorageDataError
from polymem.indexes import VectorIndex, matrix

METRICS: list[Metric] = ["cosine", "dot", "l2"]
ids = st.sampled_from([f"id{n}" for n in range(10)])
directions = st.lists(st.integers(-1, 1), min_size=3, max_size=3).filter(any)
vectors = st.builds(lambda direction, length: [length * x for x in direction], directions, st.sampled_from([1, 2]))
"""Ties abound, and each is one of equal float32 values."""


def similarity(a: Any, b: Any, metric: Metric) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if metric == "l2":
        return float(1 / (1 + np.linalg.norm(a - b)))
    scale = np.linalg.norm(a) * np.linalg.norm(b) if metric == "cosine" else 1.0
    return float(a @ b / scale)


def brute(stored: dict[str, Any], query: Any, metric: Metric, digits: int = 300) -> list[tuple[str, float]]:
    scores = {id_: similarity(vector, query, metric) for id_, vector in stored.items()}
    return sorted(scores.items(), key=lambda hit: (-round(hit[1], digits), hit[0]))


def close(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [id_ for id_, _ in found] == [id_ for id_, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)


class AnyHistory(RuleBasedStateMachine):
    """Puts, replacements, removals and searches in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = dict[str, Any]()
        self.metric: Metric = "cosine"

    @initialize(metric=st.sampled_from(METRICS))
    def start(self, metric: Metric) -> None:
        self.metric, self.index = metric, VectorIndex(3, metric)

    @rule(batch=st.lists(st.tuples(ids, vectors), max_size=5))
    def put(self, batch: list[tuple[str, Any]]) -> None:
        rows = np.array([vector for _, vector in batch], np.float32).reshape(-1, 3)
        self.index.put_many([id_ for id_, _ in batch], rows)
        self.stored.update(batch)

    @rule(gone=st.lists(ids, max_size=4))
    def remove(self, gone: list[str]) -> None:
        assert self.index.remove_many(gone) == len(self.stored.keys() & set(gone))
        for id_ in gone:
            self.stored.pop(id_, None)

    @rule(
        query=vectors,
        limit=st.integers(0, 12),
        allowed=st.none() | st.sets(ids),
        min_score=st.none() | st.sampled_from([-1.05, 0.13, 0.55]),
    )
    def search(self, query: Any, limit: int, allowed: set[str] | None, min_score: float | None) -> None:
        expected = [
            (id_, score)
            for id_, score in brute(self.stored, query, self.metric, 5)
            if (allowed is None or id_ in allowed) and (min_score is None or score >= min_score)
        ]
        close(self.index.search(np.array(query, np.float32), limit, allowed, min_score), expected[:limit])

    @invariant()
    def mean(self) -> None:
        if not self.stored:
            assert not hasattr(self, "index") or self.index.mean() is None
            return
        rows = np.array(list(self.stored.values()), np.float64)
        if self.metric == "cosine":
            rows /= np.linalg.norm(rows, axis=1)[:, None]
        mean = self.index.mean()
        assert mean is not None
        assert mean.dtype == np.float32
        assert mean.tolist() == pytest.approx(rows.mean(axis=0).tolist(), abs=1e-6)
        assert self.index.rows == len(self.stored)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("allowed_share", [None, 0.05, 0.6])
def test_random_vectors(metric: Metric, allowed_share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_CHUNK_BYTES", 8 * 50 * 100)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3000, 50)).astype(np.float32)
    stored = {f"{n:04}": row for n, row in enumerate(rows)}
    allowed = None if allowed_share is None else set(rng.choice(list(stored), int(3000 * allowed_share), False))
    index = VectorIndex.from_bytes(50, metric, list(stored), rows.tobytes())
    chosen = {id_: row for id_, row in stored.items() if allowed is None or id_ in allowed}
    for query in rng.standard_normal((5, 50)).astype(np.float32):
        close(index.search(query, 20, allowed), brute(chosen, query, metric)[:20])


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_tie_wherever_they_lie(metric: Metric) -> None:
    """A blocked float32 product gives equal rows unequal sums; the order must still be that of the ids."""
    rng = np.random.default_rng(2)
    same = rng.standard_normal(383).astype(np.float32)
    index = VectorIndex(383, metric)
    index.put_many([f"{n:03}" for n in range(501)], np.tile(same, (501, 1)))
    index.put_many(["000"], same[None])
    hits = index.search(rng.standard_normal(383).astype(np.float32), 7)
    assert [id_ for id_, _ in hits] == [f"{n:03}" for n in range(7)]
    assert len({score for _, score in hits}) == 1


def test_l2_is_careful_far_from_the_origin() -> None:
    """|x|^2 + |q|^2 - 2xq in float32 would lose these distances altogether."""
    offsets = np.arange(50, dtype=np.float32)[::-1] / 8
    rows = np.full((50, 4), 100_000, np.float32)
    rows[:, 0] += offsets
    index = VectorIndex(4, "l2")
    index.put_many([f"{n:02}" for n in range(50)], rows)
    hits = index.search(np.full(4, 100_000, np.float32), 3)
    assert hits == [("49", 1.0), ("48", 1 / 1.125), ("47", 1 / 1.25)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e37])
def test_extreme_lengths_neither_overflow_nor_vanish(metric: Metric, scale: float) -> None:
    rows = (np.array([[3, 0], [2, 2], [0, 1], [-3, 1]]) * scale).astype(np.float32)
    index = VectorIndex(2, metric)
    index.put_many(list("abcd"), rows)
    query = (np.array([2.2, 1]) * scale).astype(np.float32)
    found = index.search(query, 2)
    expected = brute(dict(zip("abcd", rows, strict=True)), query, metric)[:2]
    assert [id_ for id_, _ in found] == [id_ for id_, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-6, abs=0)


def test_zero_has_no_direction() -> None:
    index = VectorIndex(2)
    with pytest.raises(StorageDataError) as error:
        index.put_many(["a", "b"], np.array([[1, 0], [0, 0]], np.float32))
    assert error.value.field == "vector"
    assert index.rows == 0
    index.put_many(["a"], np.array([[1, 0]], np.float32))
    with pytest.raises(StorageDataError):
        index.search(np.zeros(2, np.float32), 1)


@given(st.sampled_from(METRICS))
def test_an_empty_index_answers(metric: Metric) -> None:
    index = VectorIndex.from_bytes(2, metric, [], b"")
    assert index.search(np.ones(2, np.float32), 5) == index.search(np.ones(2, np.float32), 5, {"x"}) == []
    assert index.mean() is None


def test_the_mean_does_not_drift() -> None:
    """Vectors of very different lengths come and go; what is left of their rounding must not stay."""
    index = VectorIndex(1, "dot")
    index.put_many(["small"], np.array([[1.0]], np.float32))
    for _ in range(5):
        index.put_many(["big"], np.array([[3e30]], np.float32))
        index.remove_many(["big"])
    assert index.mean() == np.float32(1.0)


def test_arguments_are_not_touched_and_memory_is_counted() -> None:
    """G-3."""
    rows = np.array([[3, 4], [0, 2]], np.float32)
    index = VectorIndex(2)
    index.put_many(["a", "b"], rows)
    index.search(rows[0], 2)
    assert rows.tolist() == [[3, 4], [0, 2]]
    assert index.nbytes >= 2 * 2 * 4
