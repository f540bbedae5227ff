"""Exact vector search over one matrix in memory (VEC-1)."""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from polymem.contracts.vectors import Metric, Vector, centred_cosines
from polymem.errors import StorageDataError
from polymem.indexes.ranking import best

_BYTES_PER_ID: Final = 160
_CHUNK_BYTES: Final = 1 << 24
_UNIT_SQUARE: Final = 1.000001
"""No squared length of a vector brought to length 1 is above it."""
_LARGEST: Final = 1e37
"""Products beyond it may overflow float32 and are computed in float64."""


class VectorIndex:
    """The vectors of one space; search compares with every one.

    A float32 product finds candidates, with its rounding error as margin; these are scored again in float64,
    row by row, so equal vectors have equal scores wherever they lie. Not thread-safe: the owner locks.
    """

    def __init__(self, dimensions: int, metric: Metric = "cosine") -> None:
        self.dimensions = dimensions
        self.metric: Metric = metric
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrix = np.empty((0, dimensions), np.float32)
        self._squares = np.empty(0, np.float64)
        self._sum = np.zeros(dimensions)
        self._drift = 0

    @classmethod
    def from_bytes(cls, dimensions: int, metric: Metric, ids: Sequence[str], data: bytes) -> Self:
        """All vectors at once: their little-endian float32 values one after the other, ids distinct."""
        index = cls(dimensions, metric)
        index.put_many(ids, np.frombuffer(data, "<f4").reshape(len(ids), dimensions))
        return index

    @property
    def rows(self) -> int:
        """How many vectors there are."""
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Memory held, ids included by estimate."""
        return (4 * self.dimensions + 8 + _BYTES_PER_ID) * self.rows

    def put_many(self, ids: Sequence[str], vectors: Sequence[Vector] | Vector) -> None:
        """Insert or replace finite vectors (for cosine: not zero); of an id given twice the last counts."""
        rows = np.asarray(vectors, np.float32).reshape(len(ids), self.dimensions)
        if len(set(ids)) < len(ids):
            last = {id_: at for at, id_ in enumerate(ids)}
            ids, rows = list(last), rows[list(last.values())]
        rows = self._normalised(rows)
        places = [self._rows.get(id_, -1) for id_ in ids]
        old = [place for place in places if place >= 0]
        self._forget(old)
        self._place(ids, places, rows)
        self._sum += _total(rows)

    def remove_many(self, ids: Iterable[str]) -> int:
        """How many of them were there."""
        holes = sorted(row for id_ in set(ids) if (row := self._rows.pop(id_, None)) is not None)
        self._forget(holes)
        size = self.rows - len(holes)
        gone = set(holes)
        movers = [row for row in range(size, self.rows) if row not in gone]
        for hole, row in zip(holes, movers, strict=False):  # survivors at the end fill the holes before it
            self._ids[hole] = self._ids[row]
            self._rows[self._ids[hole]] = hole
        self._matrix[holes[: len(movers)]] = self._matrix[movers]
        self._squares[holes[: len(movers)]] = self._squares[movers]
        del self._ids[size:]
        return len(holes)

    def search(
        self,
        vector: Vector,
        limit: int,
        allowed: AbstractSet[str] | None = None,
        min_score: float | None = None,
    ) -> list[tuple[str, float]]:
        """Ids and scores of the nearest, best first, ties by id; only those in `allowed` and at `min_score` or above."""
        query = self._query(vector)
        rows = None if allowed is None else self._chosen(allowed)
        candidates = self._candidates(query, rows, limit)
        scores = self._exact(candidates, query)
        if min_score is not None:
            passing = scores >= min_score
            candidates, scores = candidates[passing], scores[passing]
        return best(scores, candidates, self._ids, limit)

    def centred_cosines(self, vector: Vector, ids: Sequence[str]) -> dict[str, float]:
        """`centred_cosines` of `vector` with each of `ids` that is there."""
        found = [id_ for id_ in ids if id_ in self._rows]
        rows = self._matrix[[self._rows[id_] for id_ in found]]
        return dict(zip(found, centred_cosines(vector, rows, self.mean()).tolist(), strict=True))

    def mean(self) -> Vector | None:
        """The mean of the (for cosine: normalised) vectors; None while there are none."""
        if not self.rows:
            return None
        if self._drift > self.rows:  # each subtraction leaves a rounding error behind
            self._sum, self._drift = _total(self._matrix[: self.rows]), 0
        return (self._sum / self.rows).astype(np.float32)

    def _normalised(self, rows: Vector) -> Vector:
        if self.metric != "cosine" or not len(rows):
            return rows
        lengths = np.sqrt(_squares(rows))[:, None]
        if not np.all(lengths):
            raise StorageDataError("expected a vector that is not zero", field="vector")
        extreme = np.flatnonzero((lengths > _LARGEST) | (lengths < 1 / _LARGEST))
        with np.errstate(over="ignore", invalid="ignore"):
            unit = rows * (1 / lengths).astype(np.float32)
        unit[extreme] = rows[extreme] / lengths[extreme]
        return unit

    def _forget(self, rows: Sequence[int]) -> None:
        """Take rows out of the sum."""
        if rows:
            self._sum -= _total(self._matrix[list(rows)])
            self._drift += len(rows)

    def _place(self, ids: Sequence[str], places: list[int], rows: Vector) -> None:
        first = len(self._ids)
        fresh = [id_ for id_, place in zip(ids, places, strict=True) if place < 0]
        self._ids += fresh
        self._rows.update(zip(fresh, range(first, len(self._ids)), strict=True))
        self._reserve(len(self._ids))
        whole = len(fresh) == len(ids)
        target = slice(first, len(self._ids)) if whole else [self._rows[id_] for id_ in ids]
        self._matrix[target] = rows
        self._squares[target] = _squares(rows) if self.metric != "cosine" else _UNIT_SQUARE

    def _reserve(self, total: int) -> None:
        if total > len(self._matrix):
            room = max(total + total // 8, len(self._matrix) * 3 // 2, 8)  # never written, never resident
            matrix = np.empty((room, self.dimensions), np.float32)
            matrix[: len(self._matrix)] = self._matrix
            self._matrix = matrix
            self._squares = np.resize(self._squares, room)

    def _query(self, vector: Vector) -> NDArray[np.float64]:
        query = np.asarray(vector, np.float64).reshape(self.dimensions)
        if self.metric != "cosine":
            return query
        length = np.sqrt(query @ query)
        if not length:
            raise StorageDataError("expected a vector that is not zero", field="vector")
        return query / length

    def _chosen(self, allowed: AbstractSet[str]) -> NDArray[np.int64]:
        find = self._rows.get
        return np.sort(np.array([row for id_ in allowed if (row := find(id_)) is not None], np.int64))

    def _candidates(self, query: NDArray[np.float64], rows: NDArray[np.int64] | None, limit: int) -> NDArray[np.int64]:
        """Rows among which the best `limit` of `rows` (None: of all) certainly are."""
        if rows is None:
            rows = np.arange(self.rows)
        if len(rows) <= limit or not limit:
            return rows if limit else rows[:0]
        few = len(rows) * 4 < self.rows
        close = self._closeness(query, rows if few else None)
        close = close if few or len(rows) == self.rows else close[rows]
        kth: float = np.partition(close, -limit)[-limit]
        near: NDArray[np.bool_] = close >= kth - self._margin(query)
        return rows[near]

    def _closeness(self, query: NDArray[np.float64], rows: NDArray[np.int64] | None) -> NDArray[Any]:
        """About the dot product, or for l2 about |query|^2 - distance^2."""
        chosen = slice(self.rows) if rows is None else rows
        matrix = self._matrix[chosen]
        if self._reach(query) < _LARGEST:
            # one thread that releases the interpreter lock: BLAS would start more, which fight with the other readers
            products: NDArray[Any] = np.einsum("ij,j->i", matrix, query.astype(np.float32))
        else:
            products = np.concatenate([matrix[at].astype(np.float64) @ query for at in _chunks(*matrix.shape)])
        return products if self.metric != "l2" else 2.0 * products - self._squares[chosen]

    def _reach(self, query: NDArray[np.float64]) -> float:
        """No product with the query is larger."""
        return float(np.sqrt(np.max(self._squares[: self.rows]) * (query @ query)))

    def _margin(self, query: NDArray[np.float64]) -> float:
        """Twice the most that rounding can move a closeness (Higham, Accuracy and Stability, 3.1)."""
        rounding = np.finfo(np.float32)
        each = self._reach(query) * float(rounding.eps) + float(rounding.tiny)
        return 4.0 * (self.dimensions + 4) * each

    def _exact(self, rows: NDArray[np.int64], query: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = np.empty(len(rows))
        for at in _chunks(len(rows), self.dimensions):
            vectors = self._matrix[rows[at]].astype(np.float64)
            if self.metric == "l2":
                vectors -= query
                scores[at] = 1 / (1 + np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))
            else:
                scores[at] = np.einsum("ij,j->i", vectors, query)
        return np.clip(scores, -1, 1) if self.metric == "cosine" else scores


def _chunks(rows: int, dimensions: int) -> Iterator[slice]:
    """Parts small enough to widen to float64."""
    step = max(1, _CHUNK_BYTES // (8 * dimensions))
    return (slice(at, at + step) for at in range(0, rows, step))


def _squares(rows: Vector) -> NDArray[np.float64]:
    """Squared lengths, each row by itself: the same for equal vectors in any batch."""
    squares = np.empty(len(rows))
    for at in _chunks(*rows.shape):
        wide = rows[at].astype(np.float64)
        squares[at] = np.einsum("ij,ij->i", wide, wide)
    return squares


def _total(rows: Vector) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.add.reduce(rows, axis=0, dtype=np.float64)
    return total
