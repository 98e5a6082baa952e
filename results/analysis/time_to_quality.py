"""How long runs take until a metric on the validation examples reaches a target.

Metrics are known where weights were evaluated, by default after each epoch, so times are those of whole epochs: of the
training clock, which evaluation, start-up and saving do not move. A run that never reaches the target is censored: it
stays in the table, and it is not known how long it would have taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...errors import UsageError
from ..tables.reading import Tables
from . import bases, evaluations, intervals
from .bases import Row
from .intervals import UNKNOWN, Estimate

_LESS_IS_BETTER = re.compile(
    r"loss|error|perplexity|entropy|divergence|hinge|\b(mse|mae|mape|msle|rmse|logcosh|nll)\b|poisson"
)
Record = dict[Any, Any]
_COLUMNS = ("run_id", "reached", "kept", "epochs", "seconds", "examples", "traffic_bytes", "kept_seconds")


@dataclass(frozen=True)
class Target:
    """A value that a metric is to reach: at least it, or at most it for losses, errors and perplexities."""

    metric: str
    value: float

    @property
    def at_least(self) -> bool:
        """Whether more is better, by the metric's name."""
        return not _LESS_IS_BETTER.search(self.metric.lower())

    def met(self, values: pd.Series) -> pd.Series:
        """Which of the values are as good as the target. Missing ones are not."""
        return values >= self.value if self.at_least else values <= self.value

    def __str__(self) -> str:
        return f"{self.metric} {'≥' if self.at_least else '≤'} {self.value:.12g}"


def parse(text: str) -> Target:
    """``accuracy=0.97`` or ``loss=0.1``. Raises UsageError."""
    metric, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not metric.strip() or not math.isfinite(value):
        raise UsageError(f"--target must be METRIC=VALUE, such as accuracy=0.97 or loss=0.1. Received: '{text}'.")
    return Target(metric.strip(), value)


def of_runs(tables: Tables, target: Target) -> pd.DataFrame:
    """One row for each ok run, with

    - ``reached`` (bool): whether the metric on the validation examples ever was as good as the target; ``kept`` (bool):
      whether it was so in the end, too, without a break;
    - ``epochs``, ``seconds`` (of training), ``examples`` and ``traffic_bytes`` (of all workers, as counted) until it
      was reached first, and ``kept_seconds`` until it was reached for good; NaN for runs that never did.

    Raises:
        UsageError: no run has such a metric on validation examples.
    """
    values = tables.metrics[(tables.metrics["split"] == "validation") & (tables.metrics["metric"] == target.metric)]
    if values.empty:
        known = sorted(set(tables.metrics[tables.metrics["split"] == "validation"]["metric"]))
        raise UsageError(
            f"--target must name a metric of the validation examples: {', '.join(known) or 'these runs have none'}. "
            f"Received: '{target.metric}'."
        )
    ok = tables.runs[tables.runs["status"] == "ok"]
    found = dict(list(evaluations.of_runs(ok, values, tables.epochs).groupby("run_id")))
    rows = [_of_run(run, found.get(run), target) for run in ok["run_id"]]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _of_run(run_id: str, found: pd.DataFrame | None, target: Target) -> Row:
    if found is None:
        return {"run_id": run_id, "reached": False, "kept": False}
    met = target.met(found["value"]).to_numpy()
    row: Row = {"run_id": run_id, "reached": bool(met.any()), "kept": bool(met[-1])}
    if not row["reached"]:
        return row
    # For good: from the evaluation after the last one that was not as good.
    last_miss = max((place for place, good in enumerate(met) if not good), default=-1)
    kept = float(found["seconds"].iloc[last_miss + 1]) if row["kept"] else math.nan
    first = found.iloc[int(met.argmax())]
    return row | {name: float(first[name]) for name in evaluations.PROGRESS} | {"kept_seconds": kept}


@dataclass(frozen=True)
class Reached:
    """How long the runs of one row take to the target.

    Attributes:
        runs: ok runs; ``reached`` and ``kept``: how many reached it ever, and for good.
        seconds: of training until it was reached first, over the runs that did. There is an interval only if all did:
            of the others it is only known that they take longer.
        epochs, examples: until then, on average.
        speedup: the base's seconds divided by these, if all runs of both reached it; else unknown.
    """

    row: Row
    runs: int
    reached: int
    kept: int
    seconds: Estimate
    epochs: float
    examples: float
    speedup: Estimate


def of_rows(rows: Sequence[Row], found: pd.DataFrame) -> list[Reached]:
    """For each row of `comparison.compared` with ok runs; ``found`` as `of_runs` gives it."""
    by_run = {str(record["run_id"]): record for record in found.to_dict("records")}
    ok = [row for row in rows if row["ok_runs"]]
    return [_of_row(row, bases.base_of(row, ok), by_run) for row in ok]


def _records(row: Row, by_run: Mapping[str, Record]) -> dict[int, Record]:
    """Repeat → what `of_runs` says of it."""
    return {run["repeat"]: by_run[run["run_id"]] for run in row["ok_runs"]}


def _seconds(records: Mapping[int, Record]) -> dict[int, float]:
    return {repeat: each["seconds"] for repeat, each in records.items() if each["reached"] and each["seconds"] > 0}


def _of_row(row: Row, base: Row | None, by_run: Mapping[str, Record]) -> Reached:
    records = _records(row, by_run)
    done = [each for each in records.values() if each["reached"]]
    seconds = _seconds(records)
    complete = len(seconds) == len(records)
    estimate = intervals.positive(list(seconds.values()))
    speedup = UNKNOWN
    if base is not None and base is not row and complete:
        others = _seconds(_records(base, by_run))
        if len(others) == base["ok"]:
            speedup = intervals.ratio(others, seconds, rounds=bases.made_in_rounds(row["begins"], base["begins"]))
    return Reached(
        row=row,
        runs=len(records),
        reached=len(done),
        kept=sum(bool(each["kept"]) for each in done),
        seconds=estimate if complete else Estimate(estimate.value),
        epochs=sum(each["epochs"] for each in done) / len(done) if done else math.nan,
        examples=sum(each["examples"] for each in done) / len(done) if done else math.nan,
        speedup=speedup,
    )
