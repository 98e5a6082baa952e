"""The values behind the report's pictures: lists of plain records, small however many steps there were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..analysis import evaluations, split
from ..analysis.bases import Row
from ..column import json_cell
from ..showing import words
from ..tables.reading import Tables

_MOST_POINTS = 120
"""Of one line."""
_MOST_RUNS_NAMED = 8
_QUANTILES = ("p05", "p25", "median", "p75", "p95")

Records = list[dict[str, Any]]


def rates(rows: Sequence[Row]) -> Records:
    """One record for each row with a rate: rate, speed-up and efficiency, with the ends of their intervals."""
    names = ("examples_per_second", "speedup", "efficiency")
    columns = [name + end for name in names for end in ("", "_low", "_high")]
    return [
        _who(row)
        | {name: row[name] for name in columns}
        # Without an interval there is a point alone.
        | {
            "ideal": row["examples_per_second"] / row["efficiency"],
            "interval": _interval(row, "examples_per_second", ",.0f"),
        }
        | {"speedup_interval": _interval(row, "speedup", ".2f"), "base": row["base"]}
        for row in rows
        if row["rates"]
    ]


def _interval(row: Row, name: str, form: str) -> str:
    return words.interval(row[f"{name}_low"], row[f"{name}_high"], form) or "none"


def by_batch(rows: Sequence[Row]) -> Records:
    """The test metric of each row that has one, by its global batch and the rule of its learning rate."""
    return [
        _who(row)
        | {"global_batch": row["global_batch"], "rule": words.rule(row), "value": row["test_metric"]}
        | {"low": row["test_metric_low"], "high": row["test_metric_high"]}
        | {"interval": _interval(row, "test_metric", ".4g")}
        for row in rows
        if math.isfinite(row["test_metric"])
    ]


def parts(rows: Sequence[Row]) -> Records:
    """The share of each row's steps that each part takes: means over its runs."""
    return [
        _who(row)
        | {"part": words.PARTS[part], "order": number, "share": share}
        | {"milliseconds": share * row["step_seconds_median"] * 1000}
        | {"interval": _interval(row, f"{part}_share", ".1%") if part in split.MEASURED else "none"}
        for row in rows
        for number, (part, share) in enumerate(split.shares(row).items())
    ]


def steps(rows: Sequence[Row]) -> Records:
    """The quantiles of each row's step times in ms: medians over its runs."""
    found = []
    for row in rows:
        runs = [run for run in row["ok_runs"] if not math.isnan(run["step_seconds_median"])]
        if runs:
            values = {
                name: float(np.median([run[f"step_seconds_{name}"] for run in runs])) * 1000 for name in _QUANTILES
            }
            found.append(_who(row) | values)
    return found


def over_time(rows: Sequence[Row], tables: Tables) -> Records:
    """Each row's step times over its first ok run: medians of neighbouring steps of rank 0, in ms."""
    found = []
    for row in rows:
        if not row["ok_runs"]:
            continue
        run = row["ok_runs"][0]["run_id"]
        chosen = tables.steps[(tables.steps["run_id"] == run) & (tables.steps["role"] == "worker")]
        chosen = chosen[(chosen["task"] == chosen["task"].min()) & ~chosen["warmup"]]
        if chosen.empty:
            continue
        ends = np.cumsum(chosen["step_seconds"].to_numpy())
        for part in np.array_split(np.arange(len(chosen)), min(_MOST_POINTS, len(chosen))):
            found.append(
                {"label": words.name(row), "strategy": words.strategy(row), "replicas": int(row["replicas"])}
                | {"run": run, "seconds": float(ends[part[-1]])}
                | {"step": int(chosen["step"].iloc[part[-1]])}
                | {"milliseconds": float(np.median(chosen["step_seconds"].to_numpy()[part])) * 1000}
            )
    return found


def quality(rows: Sequence[Row], tables: Tables) -> Records:
    """The main metric on the validation examples at each evaluation: means over each row's runs."""
    values = evaluations.main(tables.runs, tables.metrics)
    each = evaluations.of_runs(tables.runs, values, tables.epochs).dropna(subset=["value", "seconds"])
    found = []
    for row in rows:
        own = each[each["run_id"].isin({run["run_id"] for run in row["ok_runs"]})]
        means = own.groupby("step")[["epochs", "seconds", "examples", "value"]].mean()
        found += [_who(row) | {str(name): float(value) for name, value in mean.items()} for _, mean in means.iterrows()]
    return found


def traffic(rows: Sequence[Row]) -> Records:
    """What all workers sent and received in a run, in MB, and what the algorithm needs."""
    return [
        _who(row) | {"measured": row["traffic_bytes_measured"] / 1e6, "expected": row["traffic_bytes_expected"] / 1e6}
        for row in rows
        if row["traffic_bytes_expected"] > 0 and row["traffic_bytes_measured"] > 0
    ]


def staleness(rows: Sequence[Row], tables: Tables) -> Records:
    """The share of each row's applied updates with each staleness."""
    found = []
    for row in rows:
        runs = {run["run_id"] for run in row["ok_runs"]}
        counts = tables.staleness[tables.staleness["run_id"].isin(runs)].groupby("staleness")["updates"].sum()
        if len(counts) > 1:
            shares = counts / counts.sum()
            found += [_who(row) | {"staleness": int(str(each)), "share": float(shares[each])} for each in counts.index]
    return found


def _who(row: Row) -> dict[str, Any]:
    runs = [run["run_id"] for run in row["ok_runs"]]
    more = f" and {len(runs) - _MOST_RUNS_NAMED} more" if len(runs) > _MOST_RUNS_NAMED else ""
    return {
        "label": words.name(row),
        "strategy": words.strategy(row),
        "replicas": int(row["replicas"]),
        "runs": ", ".join(runs[:_MOST_RUNS_NAMED]) + more,
    }


def plain(records: Records) -> Records:
    """The records for JSON: numbers with six digits, null for what is missing."""
    return [{name: _rounded(json_cell(value)) for name, value in record.items()} for record in records]


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
