"""The best of many scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def best(
    scores: NDArray[np.float64], numbers: NDArray[Any], ids: Sequence[str], count: int
) -> list[tuple[str, float]]:
    """The `count` highest scores with the ids of their numbers, ties by id."""
    if count <= 0:
        return []
    if count < len(scores):
        kept = scores >= np.partition(scores, -count)[-count]
        scores, numbers = scores[kept], numbers[kept]
    found = sorted(zip((-scores).tolist(), map(ids.__getitem__, numbers.tolist()), strict=True))
    return [(id_, -score) for score, id_ in found[:count]]
