"""Losses and metrics of the saved weights, computed by Keras after training so that no worker waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RunError
from ...results.raw.journal import Journal
from ...strategies.trainer import Structure
from . import backend, operations, snapshots
from .wording import one_line
from .workload import SpecWorkload

if TYPE_CHECKING:
    import keras

EVALUATION_BATCH = 1000
EXAMPLES = 8
"""With which a trial finds whether a model can be trained and evaluated."""


def evaluate(workload: SpecWorkload, folder: Path, journal: Journal) -> None:
    """Journal the saved weights' validation loss and metrics, for the last ones those of all sets, and the work."""
    model = workload.model()
    steps = snapshots.steps(folder)
    last = snapshots.load(folder, steps[-1], len(model.weights))
    for done in steps if _can_be(workload, model) else ():
        model.set_weights(last if done == steps[-1] else snapshots.load(folder, done, len(model.weights)))
        results = {"validation": measure(workload, model, workload.rows["validation"])}
        if done == steps[-1]:
            results["test"] = measure(workload, model, workload.rows["test"])
            results["train"] = measure(workload, model, _spread(workload.rows["train"], len(workload.rows["test"])))
        journal.event("evaluation", epoch=(done - 1) // workload.steps_per_epoch, step=done, **results)
    flops = operations.flops_per_example(workload, model)
    journal.event("work", flops_per_example=flops, final_weights=snapshots.digest(last))
    if workload.spec.save_model:
        model.set_weights(last)
        save(model, Path(workload.spec.save_model) / f"{workload.spec.run_id}.keras")


def _can_be(workload: SpecWorkload, model: keras.Model) -> bool:
    """Whether the model can be evaluated, which one with its own ``train_step`` need not be; the trial has said why."""
    if not workload.own_step:
        return True
    try:
        measure(workload, model, workload.rows["train"][:EXAMPLES])
    except Exception:
        return False
    return True


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, at equal distances, so that a file's order does not matter."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=np.int64)]


def save(model: keras.Model, path: Path) -> None:
    """Save the model, without the state of an optimizer. Raises RunError, in one line, if it can't be."""
    model.optimizer = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not under its name before it is whole.
        unfinished = path.with_name(f".{path.name}")
        model.save(unfinished)
        unfinished.replace(path)
    except Exception as error:
        raise RunError(f"the trained model can't be saved as {path}: {one_line(error)}") from error


def measure(workload: SpecWorkload, model: keras.Model, rows: np.ndarray) -> dict[str, float]:
    """What ``model.evaluate`` gives for these rows: the loss, and every metric, by Keras's names."""
    import keras

    def batches() -> Iterator[Structure]:
        for batch in workload.in_order(rows, EVALUATION_BATCH):
            x, y, weights = workload.unpack(batch)
            given = x if y is None else (x, y) if weights is None else (x, y, weights)
            yield keras.tree.map_structure(np.asarray, given)

    steps = -(-len(rows) // EVALUATION_BATCH)
    source = backend.one_batch(next(batches())) if steps == 1 else backend.stream(batches)
    results = model.evaluate(source, steps=steps, verbose=0, return_dict=True)
    # In the order of compile(): evaluate sorts the names.
    ordered = {name: results[name] for name in model.get_metrics_result() if name in results} | results
    return {name: float(value) for name, value in ordered.items()}
