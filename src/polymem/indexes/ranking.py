"""The best of many scores."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Matches = list[tuple[str, float]]
_FURTHER: Final = 8


def allowed_best(
    search: Callable[[int, AbstractSet[str] | None], Matches],
    limit: int,
    allowed: AbstractSet[str] | None,
    rows: int,
) -> Matches:
    """`search(limit, allowed)`; where much is allowed, from the best of all, since marking every id takes long."""
    if allowed is not None and 4 * len(allowed) >= rows:
        found = search(_FURTHER * limit, None)
        passing = [match for match in found if match[0] in allowed]
        if len(passing) >= limit or len(found) < _FURTHER * limit:
            return passing[:limit]
    return search(limit, allowed)


def best(scores: NDArray[np.float64], numbers: NDArray[Any], ids: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The `count` highest scores with the ids of their numbers, ties by id."""
    if count <= 0:
        return []
    if count < len(scores):
        kept = scores >= np.partition(scores, -count)[-count]
        scores, numbers = scores[kept], numbers[kept]
    found = sorted(zip((-scores).tolist(), map(ids.__getitem__, numbers.tolist()), strict=True))
    return [(id_, -score) for score, id_ in found[:count]]
