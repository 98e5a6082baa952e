"""Comparison of strategies: repeats put together, with intervals, speed-ups and efficiencies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from ..raw.record import without_repeat
from . import bases, equal_work, intervals, split
from .bases import Row

SPEC = (
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
    "evaluate_every",
    "seed",
    "cores_per_replica",
    "inject",
    "profile",
    *bases.MACHINE,
)
"""Columns that are equal in all runs of a row."""

_DECLARED = (*bases.SAME_WORK, "global_batch", "epochs", "steps", "seed")
"""Columns that are equal in rows whose steps are to have the same examples."""

_POSITIVE = ("examples_per_second", "tokens_per_second", "step_seconds_median", "train_seconds")
"""Figures with intervals, by their logarithms."""
_MEANS = (
    "final_loss",
    "validation_loss",
    "validation_accuracy",
    "validation_metric",
    "test_loss",
    "test_accuracy",
    "test_metric",
    *(f"{part}_share" for part in split.MEASURED),
)
"""Figures with intervals."""
_ENDS = ("", "_low", "_high")
_MEDIANS = (
    "flops_per_example",
    "flops_per_second",
    "first_update",
    "startup_seconds",
    "first_step_seconds",
    "tracing_seconds",
    "total_seconds",
    "input_seconds_median",
    "peak_rss_bytes_total",
    "updates_applied",
    "updates_dropped",
    "updates_skipped",
    "staleness_mean",
    "staleness_max",
    "blocked_seconds",
    "traffic_bytes_expected",
    "traffic_bytes_measured",
    "busbw_bytes_per_second",
    "bubble",
    "bubble_expected",
    "evaluations_per_step",
    "portions_repeated",
    "noticed_seconds",
    "lost_steps",
    "lost_share",
    "down_seconds",
)


def compare(runs: pd.DataFrame, across_faults: bool = False) -> pd.DataFrame:
    """Put the repeats of each spec together and compare each spec's rate with a base.

    The base of a row is ``single`` at 1 replica with the same model and data set (their files unchanged), split,
    sharding, last batch, optimizer and cores per replica, on a machine with the same CPU, GPUs and cores, and the same
    global batch (strong scaling) or else the same per-replica batch (weak scaling). With static sharding it also has
    the same number of parts: other parts give other batches, so other work. If no such run is ok, the base is the ok
    row of the same strategy and options with the fewest replicas among those where one of the two batches is equal.
    speedup = rate / base rate; efficiency = speedup / (replicas / base replicas).

    Args:
        runs: the runs table, as ``results.load`` gives it.
        across_faults: compare runs with injected faults with a base without faults; else only with runs that have
            the same faults.

    Returns:
        One row per spec and machine, ``single`` first, then by strategy, options, replicas and batch, with

        - the spec's columns, as in the runs table;
        - ``parts``: into how many parts static sharding divides the examples; 1 with any other sharding;
        - ``repeats`` and ``ok``: the number of runs, and of ok runs, from which the figures are computed;
        - ``disturbed_runs``: in how many of the ok runs the machine was busy; ``disturbed``: in words, with what it was
          busy in the first of these, "" if there is none;
        - ``status`` and ``reason``: of the first run that isn't ok, else ``ok`` and ""; ``fault``: of the first run;
        - ``unused``: what the model was compiled with and the runs did not use; ``metric``: the name of their main one;
          ``cut``: where the model was cut, with each way once; ``straggler``: of the first ok run that has one;
        - ``initial_weights``, ``final_weights``, ``data_order``: of the ok runs, digits that differ separated by
          spaces, ``data_order`` of those that read all that was planned; ``examples_repeated``: read again within the
          first epoch;
        - ``apart``: how its work was another one than that of the rows that were to do the same: "" if it was not. Rows
          that are apart are no base of others;
        - ``oversubscribed``: whether any run was oversubscribed; ``compiled``: whether XLA compiled any;
        - rates, times of steps and of training: geometric means over the ok runs, NaN without any; losses, metrics and
          shares of a step: means. Each has ``<name>_low`` and ``<name>_high``, the ends of its 95 % interval over runs,
          NaN under three of them: see `intervals`;
        - other figures of the runs table: medians over the ok runs, NaN without any;
        - ``base`` ("single×1", or "" without one), ``base_replicas``, ``scaling`` ("strong" or "weak"),
          ``speedup`` and ``efficiency`` (both 1 for the base itself), NaN without a base, also with ``_low`` and
          ``_high``; ``by_rounds``: whether their intervals pair the runs of one round;
        - ``computing_ratio``: seconds of computing an example, over all replicas, divided by the base's. Efficiency is
          the ratio of the rows' ``computing_share``, divided by it;
        - ``is_base`` (bool): whether it is its own base; ``base_ok`` (number of runs, 0 without a base) and
          ``base_disturbed`` (words): the base's ``ok`` and ``disturbed``.
    """
    return pd.DataFrame(compared(runs, across_faults), columns=columns())


def compared(runs: pd.DataFrame, across_faults: bool = False) -> list[Row]:
    """The rows of `compare`, with what `summaries` adds."""
    rows = summaries(runs)
    for row, apart in zip(rows, equal_work.apart(rows, _DECLARED), strict=True):
        row["apart"] = apart
    return [row | bases.against(row, bases.find(row, rows, SPEC, across_faults)) for row in rows]


def summaries(runs: pd.DataFrame) -> list[Row]:
    """The rows of `compare` without their bases.

    Beside the columns, without ``apart``, a row has ``rates`` and ``begins``, as `bases.against` takes them, and
    ``all_runs`` and ``ok_runs``: its rows of the runs table, and those that its figures rest on.
    """
    specs: dict[tuple[Any, ...], list[Row]] = {}
    for run in map(_named, runs.to_dict("records")):
        machine = tuple(run[name] for name in bases.MACHINE)
        specs.setdefault((without_repeat(run["run_id"]), *machine), []).append(run)
    return sorted((_summary(repeats) for repeats in specs.values()), key=_order)


def _named(run: Mapping[Any, Any]) -> Row:
    row = {str(name): value for name, value in run.items()}
    # Runs from before these columns.
    older = {"last_batch": row["last_batch"] or "drop", "lr_schedule": row["lr_schedule"] or "constant"}
    if math.isnan(row["cpu_limit_cores"]):
        older["cpu_limit_cores"] = float(row["cores_available"])
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


def columns() -> list[str]:
    """The columns of `compare`, in order."""
    figures = [name + end for name in (*_POSITIVE, *_MEANS) for end in _ENDS]
    return [
        *SPEC,
        "parts",
        *(
            "repeats",
            "ok",
            "status",
            "reason",
            "fault",
            "unused",
            "cut",
            "straggler",
            "metric",
            "oversubscribed",
            "compiled",
            "disturbed_runs",
            "disturbed",
            "apart",
        ),
        *equal_work.COLUMNS,
        *figures,
        *_MEDIANS,
        *bases.COLUMNS,
    ]


def _order(row: Row) -> tuple[Any, ...]:
    strategy = row["strategy"]
    return (strategy != "single", strategy, row["options"], row["replicas"], row["global_batch"])


def _summary(repeats: Sequence[Row]) -> Row:
    ok = [run for run in repeats if run["status"] == "ok"]
    bad = [run for run in repeats if run["status"] != "ok"]
    rates = {run["repeat"]: run["examples_per_second"] for run in ok if _is_positive(run["examples_per_second"])}
    disturbed = [run["disturbed"] for run in ok if run["disturbed"]]
    return {
        **{name: repeats[0][name] for name in (*SPEC, "parts")},
        "repeats": len(repeats),
        "ok": len(ok),
        "status": bad[0]["status"] if bad else "ok",
        "reason": bad[0]["reason"] if bad else "",
        "fault": repeats[0]["fault"],
        "unused": next(filter(None, (run["unused"] for run in repeats)), ""),
        "cut": "; ".join(dict.fromkeys(run["cut"] for run in ok if run["cut"])),
        "metric": next(filter(None, (run["metric"] for run in repeats)), ""),
        "compiled": any(run["compiled"] for run in ok),
        "straggler": next(filter(None, (run["straggler"] for run in ok)), ""),
        "oversubscribed": any(run["oversubscribed"] for run in repeats),
        "disturbed_runs": len(disturbed),
        "disturbed": disturbed[0] if disturbed else "",
        **equal_work.columns(ok),
        "all_runs": list(repeats),
        "ok_runs": ok,
        "rates": rates,
        "begins": {run["repeat"]: run["started_at"] for run in ok if run["repeat"] in rates},
        **_estimates(ok),
        **{name: median(values) if (values := _values(ok, name)) else math.nan for name in _MEDIANS},
    }


def _estimates(ok: Sequence[Row]) -> Row:
    found: Row = {}
    for name in (*_POSITIVE, *_MEANS):
        values = _values(ok, name)
        if name in _POSITIVE:
            estimate = intervals.positive([value for value in values if _is_positive(value)])
        else:
            estimate = intervals.mean(values)
        ends = (estimate.value, estimate.low, estimate.high)
        found |= {name + end: value for end, value in zip(_ENDS, ends, strict=True)}
    return found


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _values(runs: Sequence[Row], name: str) -> list[float]:
    return [run[name] for run in runs if not math.isnan(run[name])]
