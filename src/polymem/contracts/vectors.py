"""Vectors with payloads and exact or approximate search (VEC-1)."""

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast, final, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polymem.contracts._input import PAGE, Where, all_checked, json_object, members, stream, unique_ids
from polymem.contracts.filter import Filter, parse
from polymem.core.page import Page
from polymem.core.text import check_key, check_limit, check_name
from polymem.errors import StorageDataError

Vector = NDArray[np.float32]
Metric = Literal["cosine", "dot", "l2"]
Record = tuple[str, ArrayLike] | tuple[str, ArrayLike, Mapping[str, Any] | None] | Mapping[str, Any]
"""(id, vector), (id, vector, payload), a `VectorRecord`, or a mapping of its fields."""


@dataclass(frozen=True, slots=True)
class VectorFeatures:
    """What a vectors cell can do."""

    exact: bool = True
    """Search compares with every vector, so its recall is 1."""
    max_dimensions: int = 65_536
    durable: bool = True


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """A named collection of vectors of one length, metric and model."""

    name: str
    dimensions: int
    metric: Metric = "cosine"
    model: str | None = None
    """The embedding model the vectors come from; another one is refused."""


class VectorRecord(NamedTuple):
    """A vector (float32, shape (dimensions,)) under its id, with any JSON object beside it."""

    id: str
    vector: Vector
    payload: dict[str, Any]


class VectorHit(NamedTuple):
    """A search result; a higher `score` is nearer: the cosine, the dot product, or 1 / (1 + L2 distance)."""

    id: str
    score: float
    payload: dict[str, Any]


class VectorDriver(Protocol):
    """The vector spaces of one namespace.

    The first write fixes a space's dimensions, metric and model; any later call whose `VectorSpace` differs
    is a `StorageDataError` that names both values (field `dimensions`, `metric` or `model`). An unknown space
    reads as empty.
    """

    @property
    def features(self) -> VectorFeatures: ...

    async def put_many(self, space: VectorSpace, records: Sequence[VectorRecord], /) -> None:
        """Insert or replace, all or nothing."""
        ...

    async def get_many(self, space: VectorSpace, ids: Sequence[str], /) -> dict[str, VectorRecord]: ...

    async def delete_many(self, space: VectorSpace, ids: Sequence[str], /) -> int: ...

    async def search(
        self,
        space: VectorSpace,
        vector: Vector,
        /,
        *,
        limit: int,
        where: Filter | None,
        min_score: float | None,
    ) -> list[VectorHit]:
        """The nearest records that satisfy `where`, best first, ties by id."""
        ...

    async def rank(
        self, space: VectorSpace, vector: Vector, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        """What `search` finds, ids and scores alone."""
        ...

    async def centred_cosines(self, space: VectorSpace, vector: Vector, ids: Sequence[str], /) -> dict[str, float]:
        """`centred_cosines` of `vector` with each of `ids` that is there; the space's metric is cosine."""
        ...

    async def mean(self, space: VectorSpace, /) -> Vector | None:
        """The mean of the (for cosine: normalised) vectors of the space; None while it is empty."""
        ...

    async def page(
        self, space: VectorSpace, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[VectorRecord]:
        """Records in id order."""
        ...

    async def count(self, space: VectorSpace, /, *, where: Filter | None) -> int: ...

    async def clear(self, space: VectorSpace, /) -> int:
        """Remove every vector and the space itself; how many there were."""
        ...


@final
class Vectors:
    """What users hold: `store.vectors(name, dimensions=...)`, one collection of vectors of one length.

    A vector is a sequence of numbers or a one-dimensional array, kept as float32. One that holds NaN or
    infinities, is too long for float32, has the wrong length or, for cosine, no direction (all zeros) is a
    `StorageDataError` that names the id, and nothing is written. `where` filters on the payload
    (contracts/filter.py).
    """

    def __init__(self, driver: VectorDriver, space: VectorSpace) -> None:
        _check_space(space, driver.features)
        self._driver, self._space = driver, space

    @property
    def features(self) -> VectorFeatures:
        return self._driver.features

    @property
    def space(self) -> VectorSpace:
        return self._space

    @property
    def driver(self) -> VectorDriver:
        """The engine's own side, for what only it can do."""
        return self._driver

    async def put(self, id: str, vector: ArrayLike, payload: Mapping[str, Any] | None = None) -> None:
        """Insert or replace a vector and the JSON object beside it."""
        await self.put_many([(id, vector, payload)])

    async def put_many(self, records: Iterable[Record]) -> None:
        """Insert or replace, all or nothing; of several records with one id the last counts."""
        checked = {record.id: record for record in await all_checked(records, self._record, field="records")}
        if checked:
            await self._driver.put_many(self._space, list(checked.values()))

    async def get(self, id: str) -> VectorRecord | None:
        """The record, None where there is none."""
        return (await self._driver.get_many(self._space, [check_key(id, field="id")])).get(id)

    async def get_many(self, ids: Iterable[str]) -> dict[str, VectorRecord]:
        """The records that exist, by id."""
        return await self._driver.get_many(self._space, unique_ids(ids))

    async def exists(self, id: str) -> bool:
        return await self.get(id) is not None

    async def delete(self, id: str) -> bool:
        """Remove; whether it was there."""
        return await self.delete_many([check_key(id, field="id")]) > 0

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Remove; how many were there."""
        return await self._driver.delete_many(self._space, unique_ids(ids))

    async def search(
        self,
        vector: ArrayLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        min_score: float | None = None,
    ) -> list[VectorHit]:
        """The nearest records that satisfy `where` and score at least `min_score`, best first, ties by id.

        A higher score is nearer, see `similarity`.
        """
        wanted = check_vector(vector, self._space, "the vector searched for")
        condition, threshold = parse(where), _check_score(min_score)
        if not check_limit(limit):
            return []
        return await self._driver.search(self._space, wanted, limit=limit, where=condition, min_score=threshold)

    async def rank(self, vector: ArrayLike, *, limit: int = 10, where: Where | None = None) -> list[tuple[str, float]]:
        """The ids and scores of what `search` finds: cheaper, since nothing else is read."""
        wanted, condition = check_vector(vector, self._space, "the vector searched for"), parse(where)
        if not check_limit(limit):
            return []
        return await self._driver.rank(self._space, wanted, limit=limit, where=condition)

    async def centred_cosines(self, vector: ArrayLike, ids: Iterable[str]) -> dict[str, float]:
        """For each id that is there, the cosine of its vector with `vector` after the mean is taken from both.

        What all vectors of a space share says nothing about which one is meant. Only for the metric cosine.
        """
        if self._space.metric != "cosine":
            raise StorageDataError("expected a space of the metric cosine", field="metric")
        wanted = check_vector(vector, self._space, "the vector compared with")
        return await self._driver.centred_cosines(self._space, wanted, unique_ids(ids))

    async def mean(self) -> Vector | None:
        """The mean of all vectors, each first brought to length 1 for cosine; None while there are none."""
        return await self._driver.mean(self._space)

    def scan(self, *, where: Where | None = None) -> AsyncIterator[VectorRecord]:
        """The records that satisfy `where` in order of id; no snapshot."""
        condition = parse(where)
        return stream(lambda after: self._driver.page(self._space, after, PAGE, where=condition))

    async def count(self, *, where: Where | None = None) -> int:
        """How many records satisfy `where`."""
        return await self._driver.count(self._space, where=parse(where))

    async def clear(self) -> int:
        """Remove every vector and what fixed length, metric and model; how many there were."""
        return await self._driver.clear(self._space)

    def _record(self, record: object) -> VectorRecord:
        given = members(record, required=("id", "vector"), optional=("payload",), field="records")
        id = check_key(given["id"], field="id")
        vector = check_vector(given["vector"], self._space, f"the vector of id {id!r}")
        return VectorRecord(id, vector, json_object(given.get("payload"), field="payload"))


def normalize(vector: ArrayLike) -> Vector:
    """The vector of length 1 in the same direction; one of zeros has none and is a `StorageDataError`."""
    wide = _array(vector, "the vector").astype(np.float64)
    length = np.linalg.norm(wide)
    if not length:
        raise StorageDataError("the vector has no direction: it is all zeros", field="vector")
    return cast("Vector", (wide / length).astype(np.float32))


def similarity(a: ArrayLike, b: ArrayLike, metric: Metric = "cosine") -> float:
    """The score search gives `b` when `a` is searched for; higher is nearer under every metric.

    cosine: the cosine of the angle, in [-1, 1]. dot: the dot product, unbounded. l2: 1 / (1 + Euclidean
    distance), in (0, 1]; so a distance is 1 / score - 1.
    """
    if metric not in get_args(Metric):
        raise StorageDataError("expected cosine, dot or l2", field="metric")
    left, right = (_array(v, name).astype(np.float64) for v, name in ((a, "a"), (b, "b")))
    if left.shape != right.shape:
        raise StorageDataError(f"expected two vectors of one length, got {left.size} and {right.size}", field="b")
    if metric == "l2":
        return float(1 / (1 + np.linalg.norm(left - right)))
    if metric == "dot":
        return float(left @ right)
    return float(np.clip(normalize(left).astype(np.float64) @ normalize(right).astype(np.float64), -1, 1))


def centred_cosines(vector: Vector, rows: Vector, mean: Vector | None) -> Vector:
    """Cosine of `vector` with each row after `mean`, that of the normalised rows of a space, is taken from both.

    One that is the mean itself has no direction left: its cosine is 0.
    """
    centre = np.zeros_like(vector) if mean is None else mean
    return np.asarray(_unit(_unit(rows) - centre) @ _unit(_unit(vector) - centre), np.float32)


def _unit(rows: Vector) -> Vector:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def _check_space(space: VectorSpace, features: VectorFeatures) -> None:
    check_name(space.name, field="name")
    if check_limit(space.dimensions, field="dimensions") < 1 or space.dimensions > features.max_dimensions:
        raise StorageDataError(f"expected 1 to {features.max_dimensions}", field="dimensions")
    if space.metric not in get_args(Metric):
        raise StorageDataError("expected cosine, dot or l2", field="metric")
    if space.model is not None:
        check_key(space.model, field="model")


def _check_score(score: float | None) -> float | None:
    if score is None or (isinstance(score, (int, float)) and not isinstance(score, bool) and not math.isnan(score)):
        return score
    raise StorageDataError("expected a number", field="min_score")


def check_vector(vector: ArrayLike, space: VectorSpace, what: str) -> Vector:
    """A copy as a space holds it; `StorageDataError` for one that it cannot hold."""
    array = _array(vector, what)
    if array.size != space.dimensions:
        raise StorageDataError(f"{what}: expected {space.dimensions} numbers, got {array.size}", field="vector")
    if space.metric == "cosine" and not np.linalg.norm(array):
        raise StorageDataError(f"{what} has no direction: its length is 0", field="vector")
    return array


def _array(vector: ArrayLike, what: str) -> Vector:
    """An own float32 copy; its length is finite too, so that no score can overflow."""
    try:
        given = np.asarray(vector)
    except (TypeError, ValueError) as error:
        raise StorageDataError(f"{what}: expected a sequence of numbers", field="vector") from error
    if given.ndim != 1 or given.dtype.kind not in "fiu":
        raise StorageDataError(f"{what}: expected a sequence of numbers", field="vector")
    with np.errstate(over="ignore", invalid="ignore"):
        array = given.astype(np.float32)
        if not np.isfinite(np.linalg.norm(array)):
            raise StorageDataError(f"{what}: expected finite numbers of float32", field="vector")
    return array
