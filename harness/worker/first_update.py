"""What the first update did to each trained weight, in one number, by which strategies can be compared.

Every synchronous strategy updates by the mean gradient over the global batch. If one summed gradients instead, or two
replicas read one shard, the weights after the first update would be others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sums(weights: Sequence[np.ndarray | None], trained: Sequence[bool]) -> list[float | None]:
    """Of each trained weight: the sum of its values at even places less that of those at odd places.

    Args:
        weights: in the order of ``model.weights``; None for what another task holds.
        trained: which of them are trained. Moving statistics are those of a replica's part of the batch.
    """
    return [_sum(weight) if known else 0.0 for weight, known in zip(weights, trained, strict=True)]


def _sum(weight: np.ndarray | None) -> float | None:
    if weight is None:
        return None
    flat = weight.reshape(-1)
    even, odd = (np.add.reduce(flat[start::2], dtype=np.float64) for start in (0, 1))
    return float(even - odd)
