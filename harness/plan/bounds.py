"""Limits of the values that a user may give, so that they can be stored, listed and used.

The command line and TOML accept numbers of any length. Outside these limits, a run would fail later, or hang.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UsageError
from .task import MOST_COUNT, MOST_REPLICAS

MOST_RUNS = 10_000
"""Of one command. Each run has a folder and rows, and takes at least some seconds."""
MOST_FAULTS = 100
"""Of one run."""
MOST_CORES = 4096
MOST_TEXT = 4096
"""Characters of a model's or a data set's reference: the tables hold them in every row."""
LEAST_RATE, MOST_RATE = 1e-30, 1e30
"""Of learning rates: in TensorFlow they are 32-bit floats, also after scaling."""

WARMUP_STEPS = 2
"""Updates at the start of a run that trace, compile and fill caches: kept in the table, left out of rates."""
MOST_PROFILED = 1000
"""Steps that may be recorded: each has thousands of events, all of them in memory."""

_POSITIVE: dict[str, float] = {
    "global_batch": MOST_COUNT,
    "per_replica_batch": MOST_COUNT,
    "epochs": MOST_COUNT,
    "steps": MOST_COUNT,
    "learning_rate": MOST_RATE,
    "clip_norm": MOST_RATE,
    "accumulate": MOST_COUNT,
    "reference_batch": MOST_COUNT,
    "repeats": MOST_RUNS,
    "cores_per_replica": MOST_CORES,
    "profile": MOST_PROFILED,
    "timeout": MOST_COUNT,
}
"""Values that must be greater than 0, and their maximum: enough for any use, and small enough to be stored."""


def check(experiment: Mapping[str, Any]) -> None:
    """Raise UsageError, which names the flag, for a number or a text outside its limits.

    Args:
        experiment: the fields of an `Experiment` by name.
    """
    for name, most in _POSITIVE.items():
        value = experiment[name]
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{_flag(name)} must be greater than 0. Received: {value}.")
        _at_most(name, value, most)
    if not 0 <= experiment["warmup_epochs"] < float("inf"):
        raise UsageError(f"--warmup-epochs must be 0 or more. Received: {experiment['warmup_epochs']}.")
    _at_most("warmup_epochs", experiment["warmup_epochs"], MOST_COUNT)
    if experiment["learning_rate"] is not None and experiment["learning_rate"] < LEAST_RATE:
        raise UsageError(f"--learning-rate must be at least {LEAST_RATE:g}. Received: {experiment['learning_rate']}.")
    if not 0 <= experiment["seed"] < 2**31:
        raise UsageError(f"--seed must be from 0 to 2³¹ − 1. Received: {experiment['seed']}.")
    for count in set(experiment["replicas"]):
        if count < 1:
            raise UsageError(f"--replicas must be at least 1. Received: {count}.")
        _at_most("replicas", count, MOST_REPLICAS)
    for name in ("model", "dataset", "split"):
        if len(experiment[name]) > MOST_TEXT:
            raise UsageError(
                f"{_flag(name)} must have at most {MOST_TEXT} characters. Received: {len(experiment[name])}."
            )
    if len(experiment["inject"]) > MOST_FAULTS:
        raise UsageError(f"--inject must be given at most {MOST_FAULTS} times. Received: {len(experiment['inject'])}.")


def check_runs(runs: int) -> None:
    """Raise UsageError for more than `MOST_RUNS`."""
    if runs > MOST_RUNS:
        raise UsageError(f"one command makes at most {MOST_RUNS} runs: strategies × sizes × repeats. Received: {runs}.")


def warm_up(accumulate: int, together: int) -> int:
    """Steps of the warm-up.

    Args:
        accumulate: steps of an update.
        together: steps of one call. Whole calls are left out: the first one traces.
    """
    return -(-WARMUP_STEPS * accumulate // together) * together


def left_out(profile: int, together: int) -> int:
    """Steps after the warm-up that rates leave out: those recorded, and what begins while records are written."""
    return (-(-profile // together) + 1) * together if profile else 0


def check_profile(steps: int, total: int, accumulate: int, together: int) -> None:
    """Raise UsageError if a run of ``total`` steps has none left to measure."""
    others = warm_up(accumulate, together) + left_out(steps, together) - steps
    if steps and total <= steps + others:
        raise UsageError(
            f"--profile must leave steps to measure, beside those and {others} for warm-up and writing. "
            f"Received: {steps} of {total} steps; use more --steps or --epochs."
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _at_most(name: str, value: float | None, most: float) -> None:
    if value is not None and value > most:
        raise UsageError(f"{_flag(name)} must be at most {most}. Received: {value}.")
