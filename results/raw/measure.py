"""A run's rates, quantiles and losses, from its journals.

The definitions are the same for every strategy:

- ``step_seconds`` of a step is the time from the end of the previous step to the end of this one, with the overhead of
  the loop. The first step of an epoch starts with the epoch.
- Warm-up steps are in the steps table, but rates and quantiles leave them out; the others are *measured*.
- A task's rate is the examples of its measured steps divided by their seconds. A run's rate is the sum of its tasks'
  rates, never the rate of one task times their number.
- Quantiles pool the measured steps of all tasks.
- Losses are training facts, not timings: their means weigh all steps, warm-up included, by examples. A task that
  counts no examples of a step knows no loss of it.

A figure without data is NaN: a run may be skipped, too short, or dead in the middle. Only tasks that did steps count
here, so a parameter server has memory but no rate. ``peak_rss_bytes_total`` is the sum of what was reported: a task
that was killed reports nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import exchange, quality
from .journal import TaskLog

_QUANTILES = {
    "p05": 0.05,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "p99": 0.99,
    "min": 0,
    "max": 1,
}


_EPOCH_FIGURES = ("consensus_distance",)
_NOTES, _FIGURES = (
    ("cut", "bubble_expected", "work_seconds", "depth_seconds"),
    ("bubble", "evaluations_per_step", "portions_repeated"),
)
"""What strategies tell after an epoch, before the first step, and after the last one."""

_OF_END = ("peak_rss_bytes", "gpu_peak_bytes", "cpu_seconds", "sent_bytes", "received_bytes")


def measured(log: TaskLog, column: str) -> np.ndarray:
    """A column of the steps that rates are of. By columns, as copies of whole rows would take much memory."""
    return log.steps[column][~log.steps["warmup"]]


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def rank_zero(logs: Sequence[TaskLog]) -> TaskLog | None:
    """The log of the task that reports for the run: of the workers that did not die, that of lowest rank."""
    started = [(log.end is None, log.start["rank"], log) for log in logs if log.start and log.start["role"] == "worker"]
    return min(started, key=lambda each: each[:2])[2] if started else None


def task(log: TaskLog) -> dict[str, Any]:
    """The columns of the tasks table that come from a journal; units as in ``schema``."""
    examples, seconds = int(measured(log, "examples").sum()), float(measured(log, "step_seconds").sum())
    start, ready, end = log.start or {}, log.ready or {}, log.end or {}
    memory = (log.ready or log.serving or {}).get("memory") or {}
    return {
        "host": start.get("host", ""),
        "pid": start.get("pid"),
        "replicas": start.get("replicas"),
        "cores": ",".join(str(core) for core in start.get("cores", [])),
        "examples": examples,
        "measured_seconds": seconds,
        "examples_per_second": _ratio(examples, seconds),
        **{name: memory.get(name) for name in ("weights_bytes", "optimizer_bytes", "transient_bytes")},
        "activation_bytes": memory.get("activation_bytes") or ready.get("activation_bytes"),
        **{name: end.get(name) for name in _OF_END},
        **exchange.updates([log]),
        "involuntary_switches": (log.trained or {}).get("involuntary_switches"),
        "injected_seconds": end.get("injected_seconds"),
        "starts": len(log.starts) or None,
        "start_method": start.get("start_method", ""),
        "outcome": _outcome(log),
    }


def _outcome(log: TaskLog) -> str:
    if log.failed:
        return f"failed: {log.failed['error']}"
    return "ended" if log.end else ""


def epochs(logs: Sequence[TaskLog]) -> list[dict[str, Any]]:
    """A row for each epoch in which any task did a step; columns of the epochs table."""
    numbers = np.unique(np.concatenate([np.empty(0, "i8"), *(log.steps["epoch"] for log in logs)]))
    rates, losses = np.zeros(len(numbers)), np.zeros(len(numbers))
    weights, known = np.zeros(len(numbers)), np.zeros(len(numbers), dtype=bool)
    for log in logs:
        used = log.steps["examples"] > 0
        counts, places = log.steps["examples"][used], log.steps["epoch"][used]
        losses += _sums(numbers, places, log.steps["loss"][used] * counts)
        weights += _sums(numbers, places, counts)
        places = measured(log, "epoch")
        seconds = _sums(numbers, places, measured(log, "step_seconds"))
        timed = seconds > 0
        rates[timed] += _sums(numbers, places, measured(log, "examples"))[timed] / seconds[timed]
        known |= timed
    first = rank_zero(logs)
    times = {event["epoch"]: event["seconds"] for event in first.epochs} if first else {}
    figures = {event["epoch"]: event.get("figures", {}) for event in first.epochs} if first else {}
    evaluations = quality.after_epochs(first) if first else {}
    traffic = exchange.traffic(logs)
    return [
        {
            "epoch": epoch,
            "seconds": times.get(epoch),
            "examples_per_second": float(rates[i]) if known[i] else math.nan,
            "train_loss": _ratio(float(losses[i]), float(weights[i])),
            **quality.columns(evaluations.get(epoch), "validation"),
            **{name: figures.get(epoch, {}).get(name) for name in _EPOCH_FIGURES},
            **traffic.get(epoch, {}),
        }
        for i, epoch in enumerate(numbers.tolist())
    ]


def _sums(numbers: np.ndarray, epochs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of ``values`` (one per step, in ``epochs``) over each of the epochs in ``numbers``."""
    return np.bincount(np.searchsorted(numbers, epochs), weights=values, minlength=len(numbers))


def run(logs: Sequence[TaskLog], started: float) -> dict[str, Any]:
    """The columns of the runs table that come from the journals; ``started``: time of the launch, Unix seconds."""
    seconds = np.concatenate([np.empty(0, "f8"), *(measured(log, "step_seconds") for log in logs)])
    waits = np.concatenate([np.empty(0, "f8"), *(measured(log, "input_seconds") for log in logs)])
    rates = [rate for log in logs if not math.isnan(rate := task(log)["examples_per_second"])]
    peaks = [log.end["peak_rss_bytes"] for log in logs if log.end]
    epoch_rows = epochs(logs)
    columns = {
        "examples_done": sum(int(log.steps["examples"].sum()) for log in logs),
        "examples_per_second": sum(rates) if rates else math.nan,
        "input_seconds_median": float(np.median(waits)) if len(waits) else math.nan,
        "peak_rss_bytes": max(peaks, default=math.nan),
        "peak_rss_bytes_total": sum(peaks) if peaks else math.nan,
        "final_loss": epoch_rows[-1]["train_loss"] if epoch_rows else math.nan,
        "involuntary_switches_per_second": max(filter(math.isfinite, map(_switch_rate, logs)), default=math.nan),
        **exchange.run(logs),
    }
    if len(seconds):
        values = np.quantile(seconds, list(_QUANTILES.values())).tolist()
        columns |= {f"step_seconds_{name}": value for name, value in zip(_QUANTILES, values, strict=True)}
    first = rank_zero(logs)
    columns |= _reported(first, started) if first else {}
    return columns | _work(first, columns["examples_per_second"])


def _work(log: TaskLog | None, rate: float) -> dict[str, Any]:
    """What an example is, as rank 0 says it, and how much of it all tasks do in a second."""
    tokens = ((log and log.ready) or {}).get("tokens_per_example")
    flops = ((log and log.work) or {}).get("flops_per_example")
    return {
        "tokens_per_second": math.nan if tokens is None else rate * tokens,
        "flops_per_example": flops,
        "flops_per_second": math.nan if flops is None else rate * flops,
    }


def _switch_rate(log: TaskLog) -> float:
    """Involuntary context switches per second while the task trained."""
    if not log.ready or not log.trained:
        return math.nan
    return _ratio(log.trained["involuntary_switches"], log.trained["time"] - log.ready["time"])


def _reported(log: TaskLog, started: float) -> dict[str, Any]:
    """What rank 0 reports for the whole run."""
    ready = log.ready or {}
    # A task that was started again was ready twice.
    first = next(iter(log.readies), ready)
    steps = log.steps["step_seconds"]
    last = log.evaluations[-1] if log.evaluations else None
    return {
        "startup_seconds": first["time"] - started if first else math.nan,
        "first_step_seconds": float(steps[0]) if len(steps) else math.nan,
        "tracing_seconds": _tracing_seconds(log),
        "train_seconds": _train_seconds(log),
        "evaluation_seconds": log.end["time"] - log.epochs[-1]["time"] if log.end and log.epochs else math.nan,
        "steps_done": len(steps),
        "warmup_steps": int(log.steps["warmup"].sum()),
        "parameters": ready.get("parameters"),
        "unused": ready.get("unused", ""),
        "compiled": ready.get("compiled", False),
        "updates_skipped": (log.trained or {}).get("updates_skipped"),
        "metric": quality.metric(last),
        **{name: ready.get("notes", {}).get(name) for name in _NOTES},
        **{name: (log.trained or {}).get("figures", {}).get(name) for name in _FIGURES},
        **quality.columns(last, "validation"),
        **quality.columns(last, "test"),
    }


def _tracing_seconds(log: TaskLog) -> float:
    """How much longer the first step took than a measured one, half of which take less."""
    later = measured(log, "step_seconds")
    return max(float(log.steps["step_seconds"][0] - np.median(later)), 0.0) if len(later) else math.nan


def _train_seconds(log: TaskLog) -> float:
    """Sum of its epochs; of its steps if no epoch has ended or one is incomplete, as after a restart."""
    epochs = [event["seconds"] for event in log.epochs]
    if epochs and None not in epochs:
        return float(sum(epochs))
    return float(log.steps["step_seconds"].sum()) if len(log.steps) else math.nan


def oversubscribed(logs: Sequence[TaskLog], cores_per_replica: int) -> bool:
    """Whether the replicas on a host together got fewer cores than ``cores_per_replica`` for each."""
    wanted: dict[str, int] = {}
    given: dict[str, set[int]] = {}
    for start in (log.start for log in logs if log.start):
        host = start["host"]
        wanted[host] = wanted.get(host, 0) + start["replicas"] * cores_per_replica
        # A parameter server's cores don't count for the replicas.
        given.setdefault(host, set()).update(start["cores"] if start["replicas"] else ())
    return any(wanted[host] > len(given[host]) for host in wanted)
