"""Figures of one size from the seconds of all processes, and the line through all sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def figures(size_bytes: int, reduced: Sequence[Mapping[str, Any]], replicas: int, sums: bool) -> dict[str, float]:
    """Columns of the table ``reductions``.

    Args:
        reduced: of each process, what it journalled: ``seconds``, ``moved_bytes`` and ``rounds``.
        sums: whether it is an all-reduce, not only a copy.
    """
    seconds = np.array([each["seconds"] for each in reduced]).max(axis=0)
    median = float(np.median(seconds))
    rounds, moved = ([each[key] for each in reduced] for key in ("rounds", "moved_bytes"))
    return {
        "iterations": len(seconds),
        "seconds_median": median,
        "seconds_min": float(seconds.min()),
        "seconds_p95": float(np.quantile(seconds, 0.95)),
        "reductions_per_second": 1 / median,
        "algbw_bytes_per_second": size_bytes / median,
        "busbw_bytes_per_second": size_bytes / median * 2 * (replicas - 1) / replicas if sums else np.nan,
        "moved_bytes_measured": np.nan if None in moved else sum(moved),
        "rounds_measured": np.nan if None in rounds else max(rounds),
    }


def line(sizes: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """α and β of t = α + β·S, neither below 0, with the least squares of the relative errors.

    Source: Hockney, *The Communication Challenge for MPP*, Parallel Computing 20(3), 1994.
    """
    size, time = np.array(sizes, float), np.array(seconds, float)
    if len(set(sizes)) < 2:
        return {}
    both = np.stack([1 / time, size / time], axis=1)
    ones = np.ones_like(time)
    alpha, beta = np.linalg.lstsq(both, ones, rcond=None)[0]
    if alpha < 0:
        alpha, beta = 0.0, np.linalg.lstsq(both[:, 1:], ones, rcond=None)[0][0]
    if beta < 0:
        alpha, beta = np.linalg.lstsq(both[:, :1], ones, rcond=None)[0][0], 0.0
    error = float(np.mean(np.abs((alpha + beta * size) / time - 1)))
    return {"alpha_seconds": float(alpha), "beta_seconds_per_byte": float(beta), "fit_error": error}
