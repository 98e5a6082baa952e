"""Which row another one is compared with, and what that gives: speed-up and efficiency, with their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import intervals

Row = dict[str, Any]

MACHINE = ("cpu_model", "cores_available", "cpu_limit_cores", "gpus")
"""Columns that tell machines apart. Runs of unlike machines are neither put together nor divided by one another."""

SAME_WORK = (
    "inject",
    "profile",
    "evaluate_every",
    "model",
    "model_digest",
    "dataset",
    "data_digest",
    "split",
    "sharding",
    "parts",
    "last_batch",
    "optimizer",
    "precision",
    "jit",
    "cores_per_replica",
    *MACHINE,
)
"""Columns that are equal in a row and its base. In addition, one of the two batches is equal."""

COLUMNS = (
    "base",
    "base_replicas",
    "scaling",
    "speedup",
    "speedup_low",
    "speedup_high",
    "efficiency",
    "efficiency_low",
    "efficiency_high",
    "computing_ratio",
    "by_rounds",
    "is_base",
    "base_ok",
    "base_disturbed",
)


def find(row: Row, rows: Sequence[Row], alike: Sequence[str], across_faults: bool) -> Row | None:
    """The base of ``row`` among all rows of a comparison; see `comparison.compare`.

    Args:
        alike: columns; of several possible bases, the one where most of them are equal is taken.
    """
    work = {name: "" if name == "inject" and across_faults else row[name] for name in (*SAME_WORK, "apart")}
    comparable = [
        other
        for other in rows
        if all(other[name] == value for name, value in work.items())
        and (_same_global(row, other) or other["per_replica_batch"] == row["per_replica_batch"])
        and not math.isnan(other["examples_per_second"])
    ]
    single = [other for other in comparable if other["strategy"] == "single" and other["replicas"] == 1]
    own = [other for other in comparable if all(other[name] == row[name] for name in ("strategy", "options"))]

    def merit(base: Row) -> tuple[int, bool, int]:
        # Seed and epochs hardly change a rate, but a base where these are equal too is better.
        return -base["replicas"], _same_global(row, base), sum(same(row[n], base[n]) for n in alike)

    return max(single or own, key=merit, default=None)


def against(row: Row, base: Row | None) -> Row:
    """The columns `COLUMNS` of a row, and ``base_runs``, by which `base_of` finds its base.

    Of both rows, ``rates`` holds repeat → rate and ``begins`` repeat → start.
    """
    if base is None:
        nothing = {"base": "", "scaling": "", "is_base": False, "base_ok": 0, "base_disturbed": "", "by_rounds": False}
        return dict.fromkeys(COLUMNS, math.nan) | nothing | {"base_runs": None}
    speedup = intervals.Estimate(1.0) if base is row else speedup_of(row, base)
    more = row["replicas"] / base["replicas"]
    return {
        "base": f"{base['strategy']}×{base['replicas']}",
        "base_replicas": base["replicas"],
        "scaling": "strong" if _same_global(row, base) else "weak",
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "efficiency": speedup.value / more,
        "efficiency_low": speedup.low / more,
        "efficiency_high": speedup.high / more,
        "computing_ratio": _ratio(row["computing_share"], base["computing_share"]) / (speedup.value / more),
        "by_rounds": speedup.by_rounds,
        "is_base": base is row,
        "base_ok": base["ok"],
        "base_disturbed": base["disturbed"],
        "base_runs": base["all_runs"],
    }


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan


def base_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The base of ``row``, if it is among ``rows``. Names don't tell: ``ps×2`` may be there with several options."""
    return next((other for other in rows if other["all_runs"] is row["base_runs"]), None)


def speedup_of(row: Row, base: Row) -> intervals.Estimate:
    """The rate of one row divided by that of another, in each round if they were made in rounds."""
    return intervals.ratio(row["rates"], base["rates"], rounds=made_in_rounds(row["begins"], base["begins"]))


def made_in_rounds(ones: Mapping[int, str], others: Mapping[int, str]) -> bool:
    """Whether the runs of each repeat were made one soon after the other: no repeat began amid another one.

    Args:
        ones, others: repeat → when the run was started, as ISO 8601; empty if unknown.
    """
    shared = sorted(set(ones) & set(others))
    spans = sorted((min(ones[each], others[each]), max(ones[each], others[each])) for each in shared)
    apart = all(end < begin for (_, end), (begin, _) in itertools.pairwise(spans))
    return apart and all(begin for begin, _ in spans)


def machine_name(row: Row) -> str:
    """The machine, as `MACHINE` tells it apart from others."""
    cores = f"{row['cores_available']} core{'' if row['cores_available'] == 1 else 's'}"
    limited = row["cpu_limit_cores"] < row["cores_available"]
    limit = f"limited to {row['cpu_limit_cores']:.3g} of them" if limited else ""
    return ", ".join(word for word in (row["cpu_model"] or "an unknown CPU", cores, limit, row["gpus"]) if word)


def test_metrics(row: Row) -> list[float]:
    """The main metric on the test examples of each ok run that has one."""
    return [run["test_metric"] for run in row["ok_runs"] if math.isfinite(run["test_metric"])]


def _same_global(row: Row, base: Row) -> bool:
    return row["global_batch"] == base["global_batch"]


def key(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    """Equal for rows in which each of these columns is equal, or missing."""
    return tuple(None if row[name] != row[name] else row[name] for name in names)


def same(one: Any, other: Any) -> bool:
    """Whether two cells are equal, or both missing."""
    return one == other or (one != one and other != other)
