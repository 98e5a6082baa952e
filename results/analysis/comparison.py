"""Comparison of strategies: repeats put together, speed-ups and efficiencies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

# Columns that are equal in a row and its base. In addition, one of the two batches is equal.
_SAME_WORK = (
    "inject",
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
)

# The spec's columns, equal in all repeats.
_SPEC = (
    "strategy",
    "options",
    "replicas",
    "model",
    "model_digest",
    "dataset",
    "data_digest",
    "input",
    "split",
    "sharding",
    "global_batch",
    "per_replica_batch",
    "last_batch",
    "epochs",
    "steps",
    "optimizer",
    "learning_rate",
    "lr_scaling",
    "reference_batch",
    "warmup_epochs",
    "lr_schedule",
    "precision",
    "jit",
    "class_weight",
    "seed",
    "cores_per_replica",
    "inject",
)

_MEDIANS = (
    "tokens_per_second",
    "flops_per_example",
    "flops_per_second",
    "startup_seconds",
    "first_step_seconds",
    "train_seconds",
    "total_seconds",
    "step_seconds_median",
    "input_seconds_median",
    "peak_rss_bytes_total",
    "final_loss",
    "validation_loss",
    "validation_accuracy",
    "validation_metric",
    "test_loss",
    "test_accuracy",
    "test_metric",
    "updates_applied",
    "updates_dropped",
    "updates_skipped",
    "staleness_mean",
    "staleness_max",
    "blocked_seconds",
    "traffic_bytes_expected",
    "traffic_bytes_measured",
    "bubble",
    "bubble_expected",
    "evaluations_per_step",
    "portions_repeated",
    "noticed_seconds",
    "lost_steps",
    "lost_share",
    "down_seconds",
)

Row = dict[str, Any]


def compare(runs: pd.DataFrame, across_faults: bool = False) -> pd.DataFrame:
    """Put the repeats of each spec together and compare each spec's rate with a base.

    The base of a row is ``single`` at 1 replica with the same model and data set (their files unchanged), split,
    sharding, last batch, optimizer and cores per replica, and the same global batch (strong scaling) or else the same
    per-replica batch (weak scaling). With static sharding it also has the same number of parts: other parts give other
    batches, so other work. If no such run is ok, the base is the ok row of the same strategy and options with the
    fewest replicas among those where one of the two batches is equal. speedup = rate / base rate; efficiency = speedup
    / (replicas / base replicas).

    Args:
        runs: the runs table, as ``results.load`` gives it.
        across_faults: compare runs with injected faults with a base without faults; else only with runs that have
            the same faults.

    Returns:
        One row per spec, ``single`` first, then by strategy, options, replicas and batch, with

        - the spec's columns, as in the runs table;
        - ``parts``: into how many parts static sharding divides the examples; 1 with any other sharding;
        - ``repeats`` and ``ok``: the number of runs, and of ok runs, from which the figures are computed;
        - ``disturbed_runs``: in how many of the ok runs the machine was busy; ``disturbed``: in words, with what it was
          busy in the first of these, "" if there is none;
        - ``status`` and ``reason``: of the first run that isn't ok, else ``ok`` and ""; ``fault``: of the first run;
        - ``unused``: what the model was compiled with and the runs did not use; ``metric``: the name of their main one;
          ``cut``: where the model was cut, with each way once;
        - ``oversubscribed``: whether any run was oversubscribed; ``compiled``: whether XLA compiled any;
        - ``examples_per_second``, with ``examples_per_second_min`` and ``_max``, and other figures of the
          runs table (``train_seconds``, ``test_accuracy``, …): medians over the ok runs, NaN without any;
        - ``base`` ("single×1", or "" without one), ``base_replicas``, ``scaling`` ("strong" or "weak"),
          ``speedup`` and ``efficiency`` (both 1 for the base itself), NaN without a base;
        - ``is_base`` (bool): whether it is its own base; ``base_ok`` (number of runs, 0 without a base) and
          ``base_disturbed`` (words): the base's ``ok`` and ``disturbed``.
    """
    specs: dict[str, list[Row]] = {}
    for run in runs.to_dict("records"):
        # The ids of a spec's repeats differ only in their ending.
        specs.setdefault(run["run_id"].rpartition("-r")[0], []).append(_named(run))
    rows = sorted((_summary(repeats) for repeats in specs.values()), key=_order)
    return pd.DataFrame([row | _against(row, _base(row, rows, across_faults)) for row in rows], columns=_columns())


def _named(run: Mapping[Any, Any]) -> Row:
    row = {str(name): value for name, value in run.items()}
    # Runs from before these columns.
    older = {"last_batch": row["last_batch"] or "drop", "lr_schedule": row["lr_schedule"] or "constant"}
    if not row["metric"] and not math.isnan(row["test_accuracy"]):
        older |= {"metric": "accuracy"} | {f"{each}_metric": row[f"{each}_accuracy"] for each in ("validation", "test")}
    return row | older | {"parts": _parts(row)}


def _parts(row: Row) -> int:
    """One part per replica, unless an option says into how many parts one process divides the examples."""
    if row["sharding"] != "static":
        return 1
    # Of a cut model, parts are others: of the model.
    told = json.loads(row["options"] or "{}").get("parts") if row["strategy"] == "single" else None
    return int(told or row["replicas"])


def _columns() -> list[str]:
    rate = "examples_per_second"
    return [
        *_SPEC,
        "parts",
        *(
            "repeats",
            "ok",
            "status",
            "reason",
            "fault",
            "unused",
            "cut",
            "metric",
            "oversubscribed",
            "compiled",
            "disturbed_runs",
            "disturbed",
        ),
        *(rate, f"{rate}_min", f"{rate}_max"),
        *_MEDIANS,
        *("base", "base_replicas", "scaling", "speedup", "efficiency", "is_base", "base_ok", "base_disturbed"),
    ]


def _order(row: Row) -> tuple[Any, ...]:
    strategy = row["strategy"]
    return (strategy != "single", strategy, row["options"], row["replicas"], row["global_batch"])


def _summary(repeats: Sequence[Row]) -> Row:
    ok = [run for run in repeats if run["status"] == "ok"]
    bad = [run for run in repeats if run["status"] != "ok"]
    rates = _values(ok, "examples_per_second")
    disturbed = [run["disturbed"] for run in ok if run["disturbed"]]
    return {
        **{name: repeats[0][name] for name in (*_SPEC, "parts")},
        "repeats": len(repeats),
        "ok": len(ok),
        "status": bad[0]["status"] if bad else "ok",
        "reason": bad[0]["reason"] if bad else "",
        "fault": repeats[0]["fault"],
        "unused": next(filter(None, (run["unused"] for run in repeats)), ""),
        "cut": "; ".join(dict.fromkeys(run["cut"] for run in ok if run["cut"])),
        "metric": next(filter(None, (run["metric"] for run in repeats)), ""),
        "compiled": any(run["compiled"] for run in ok),
        "oversubscribed": any(run["oversubscribed"] for run in repeats),
        "disturbed_runs": len(disturbed),
        "disturbed": disturbed[0] if disturbed else "",
        "examples_per_second": median(rates) if rates else math.nan,
        "examples_per_second_min": min(rates, default=math.nan),
        "examples_per_second_max": max(rates, default=math.nan),
        **{name: median(values) if (values := _values(ok, name)) else math.nan for name in _MEDIANS},
    }


def _values(runs: Sequence[Row], name: str) -> list[float]:
    return [run[name] for run in runs if not math.isnan(run[name])]


def _base(row: Row, rows: Sequence[Row], across_faults: bool) -> Row | None:
    work = {name: "" if name == "inject" and across_faults else row[name] for name in _SAME_WORK}
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
        return -base["replicas"], _same_global(row, base), sum(_same(row[n], base[n]) for n in _SPEC)

    return max(single or own, key=merit, default=None)


def _same_global(row: Row, base: Row) -> bool:
    return row["global_batch"] == base["global_batch"]


def _same(one: Any, other: Any) -> bool:
    """Whether two cells are equal, or both missing."""
    return one == other or (one != one and other != other)


def _against(row: Row, base: Row | None) -> Row:
    if base is None:
        nothing = dict.fromkeys(("base_replicas", "speedup", "efficiency"), math.nan)
        return {"base": "", "scaling": "", "is_base": False, "base_ok": 0, "base_disturbed": "", **nothing}
    speedup = row["examples_per_second"] / base["examples_per_second"]
    return {
        "base": f"{base['strategy']}×{base['replicas']}",
        "base_replicas": base["replicas"],
        "scaling": "strong" if _same_global(row, base) else "weak",
        "speedup": speedup,
        "efficiency": speedup / (row["replicas"] / base["replicas"]),
        "is_base": base is row,
        "base_ok": base["ok"],
        "base_disturbed": base["disturbed"],
    }
