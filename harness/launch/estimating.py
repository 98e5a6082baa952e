"""How long runs will take, by a short one of each."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datasets.batches import steps_per_epoch
from ..plan import bounds, optimizers
from ..plan.spec import RunSpec
from .run import WhyNot, open_store, run_one
from .starter import Starter

_STEPS = 10
"""After the warm-up."""


def short(spec: RunSpec) -> RunSpec:
    """The same work for a few steps, without faults and without what is kept of a run."""
    parsed = optimizers.parse(spec.optimizer)
    steps = bounds.warm_up(parsed.accumulate, spec.create_strategy().together) + _STEPS
    changes: dict[str, Any] = {"epochs": None, "inject": (), "profile": 0, "evaluate_every": "", "save_model": ""}
    return spec.model_copy(update={"steps": min(steps, spec.steps or steps), "repeat": 0, **changes})


def seconds(spec: RunSpec, row: Mapping[str, Any]) -> float:
    """Of a whole run.

    Args:
        row: of the runs table, of the `short` one; 0 if it is not ok, as the whole one will end as soon.
    """
    if row["status"] != "ok":
        return 0.0
    examples = int(row["train_examples"])
    steps = spec.total_steps(examples)
    epoch = max(steps_per_epoch(examples, spec.global_batch, spec.last_batch), 1)
    sizes = {part: row[f"{part}_examples"] for part in ("train", "validation", "test")}
    # The last evaluation is of all three, earlier ones are of the validation examples.
    evaluations = 1 + (spec.evaluations.number(steps, epoch) - 1) * sizes["validation"] / sum(sizes.values())
    around = row["total_seconds"] - row["train_seconds"] - row["evaluation_seconds"]
    # Of a run that is all warm-up, no step is measured.
    step = 0.0 if math.isnan(row["step_seconds_median"]) else row["step_seconds_median"]
    return float(around + row["first_step_seconds"] + steps * step + evaluations * row["evaluation_seconds"])


def estimate(
    specs: Sequence[RunSpec],
    starter: Starter,
    why_not: WhyNot,
    stop: threading.Event,
    show: Callable[[str], None],
) -> dict[str, float]:
    """Seconds of each spec, by its run's name; fewer if ``stop`` was set before all were tried.

    Args:
        specs: without repeats.
        why_not: a run is skipped, beside the reasons of its spec; empty if it is not.
        show: is told how far it is.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="stratbench-") as folder, open_store(Path(folder)) as store:
        for number, spec in enumerate(specs, start=1):
            if stop.is_set():
                break
            show(f"{number}/{len(specs)} {spec.title}")
            record = run_one(short(spec), store, stop, lambda label, event: None, starter=starter, why_not=why_not)
            found[spec.run_id] = seconds(spec, record.run)
    return found
