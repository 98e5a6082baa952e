"""MLPerf's log: a file for each run whose tasks started, in lines that MLCommons' tools read.

Training is on the clock of training: ``run_start`` is when the first worker was ready, and an evaluation, which is made
after training, takes no time on it. No ``submission_benchmark`` is named: a user's model is none of the official ones,
and MLCommons' checker knows no others. So a log is no submission. Source: https://github.com/mlcommons/logging
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis import evaluations
from ..column import json_cell
from ._frames import ends, rows

if TYPE_CHECKING:
    from ..tables.reading import Tables

_POINT, _START, _END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
_Line = tuple[float, str, str, Any, dict[str, Any]]
"""Seconds since the launch, kind of event, key, value, metadata."""


def write(tables: Tables, folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """``RUN_ID.log`` for each run."""
    made = []
    epochs = dict(list(tables.epochs.groupby("run_id")))
    values = evaluations.main(tables.runs, tables.metrics)
    evaluated = dict(list(evaluations.of_runs(tables.runs, values, tables.epochs).groupby("run_id")))
    for run in rows(tables.runs):
        if math.isnan(run["startup_seconds"]):
            continue
        tell(f"run {run['run_id']}")
        own, found = (rows(each[run["run_id"]]) if run["run_id"] in each else [] for each in (epochs, evaluated))
        made.append(folder / f"{run['run_id']}.log")
        made[-1].write_text("".join(_lines(run, own, found)), encoding="utf-8")
    return made


def _lines(run: dict[str, Any], epochs: list[dict[str, Any]], evaluated: list[dict[str, Any]]) -> Iterator[str]:
    begin = datetime.fromisoformat(run["started_at"]).timestamp()
    for seconds, kind, key, value, metadata in [*_start(run), *_training(run, epochs, evaluated)]:
        line = {
            "namespace": "",
            "time_ms": round(1000 * (begin + seconds)),
            "event_type": kind,
            "key": key,
            "value": value,
            "metadata": {"run_id": run["run_id"], **metadata},
        }
        yield f":::MLLOG {json.dumps(line, allow_nan=False)}\n"


def _start(run: dict[str, Any]) -> Iterator[_Line]:
    said = {
        "submission_division": "open",
        "submission_org": "unofficial, by stratbench",
        "submission_platform": ", ".join(filter(None, [run["cpu_model"] or "unknown CPU", run["gpus"]])),
        "submission_status": "research",
        # Nothing empties the caches of the file system.
        "cache_clear": False,
        "seed": run["seed"],
        "global_batch_size": run["global_batch"],
        "train_samples": _count(run["train_examples"]),
        "eval_samples": _count(run["validation_examples"]),
        "opt_name": run["optimizer"],
        "opt_base_learning_rate": json_cell(run["learning_rate"]),
        "opt_learning_rate_warmup_epochs": json_cell(run["warmup_epochs"]),
    }
    how = {name: run[name] for name in ("model", "dataset", "strategy", "options", "replicas")}
    yield 0.0, _START, "init_start", None, how
    for key, value in said.items():
        yield 0.0, _POINT, key, value, {}
    yield run["startup_seconds"], _END, "init_stop", None, {}


def _training(run: dict[str, Any], epochs: list[dict[str, Any]], evaluated: list[dict[str, Any]]) -> Iterator[_Line]:
    ready = now = run["startup_seconds"]
    yield now, _START, "run_start", None, {}
    by_epoch: dict[int, list[dict[str, Any]]] = {}
    for each in evaluated:
        if math.isfinite(each["value"]):
            by_epoch.setdefault(each["epoch"], []).append(each)
    for row, end in zip(epochs, ends(epochs, now), strict=True):
        number = {"epoch_num": row["epoch"] + 1}
        yield now, _START, "epoch_start", None, number
        # An evaluation within an epoch is within it here, too; one at its end comes after it.
        own = [(each, ready + each["seconds"]) for each in by_epoch.get(row["epoch"], [])]
        for each, moment in own:
            if moment < end:
                yield from _evaluation(run, each, moment)
        now = end
        yield now, _END, "epoch_stop", None, number
        for each, moment in own:
            if not moment < end:
                yield from _evaluation(run, each, now)
    yield now, _END, "run_stop", None, {"status": "success" if run["status"] == "ok" else "aborted"}


def _evaluation(run: dict[str, Any], evaluated: dict[str, Any], now: float) -> Iterator[_Line]:
    epochs = evaluated["epochs"]
    number = {"epoch_num": int(epochs) if epochs.is_integer() else epochs}
    yield now, _START, "eval_start", None, number
    yield now, _POINT, "eval_accuracy", evaluated["value"], number | {"metric": run["metric"]}
    yield now, _END, "eval_stop", None, number


def _count(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
