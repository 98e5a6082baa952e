"""Losses and metrics of the saved weights, computed by Keras after training so that no worker waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RunError
from ...results.raw.journal import Journal
from ...strategies.trainer import Structure
from . import backend, snapshots
from .wording import one_line
from .workload import SpecWorkload

if TYPE_CHECKING:
    import keras

EVALUATION_BATCH = 1000


def evaluate(workload: SpecWorkload, folder: Path, journal: Journal) -> None:
    """Journal each epoch's validation loss and metrics, with the test set's for the last epoch."""
    model = workload.model()
    epochs = snapshots.epochs(folder)
    for epoch in epochs:
        model.set_weights(snapshots.load(folder, epoch, len(model.weights)))
        results = {"validation": measure(workload, model, workload.rows["validation"])}
        if epoch == epochs[-1]:
            results["test"] = measure(workload, model, workload.rows["test"])
        journal.event("evaluation", epoch=epoch, **results)
    if workload.spec.save_model:
        save(model, Path(workload.spec.save_model) / f"{workload.spec.run_id}.keras")


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
            yield keras.tree.map_structure(np.asarray, (x, y) if weights is None else (x, y, weights))

    steps = -(-len(rows) // EVALUATION_BATCH)
    source = backend.one_batch(next(batches())) if steps == 1 else batches()
    results = model.evaluate(source, steps=steps, verbose=0, return_dict=True)
    # In the order of compile(): evaluate sorts the names.
    ordered = {name: results[name] for name in model.get_metrics_result() if name in results} | results
    return {name: float(value) for name, value in ordered.items()}
