"""Accuracy and loss of the saved weights, computed after training so that no worker waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...results.raw.journal import Journal
from ...strategies.trainer import Batch, examples_of
from . import backend, snapshots
from .workload import SpecWorkload

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Tensor

EVALUATION_BATCH = 1000

Measure = Callable[[np.ndarray], tuple[float, float]]


def evaluate(workload: SpecWorkload, folder: Path, journal: Journal) -> None:
    """Journal each epoch's validation loss and accuracy, with the test set's for the last epoch."""
    model = workload.model()
    measure = _measure(workload, model)
    epochs = snapshots.epochs(folder)
    for epoch in epochs:
        model.set_weights(snapshots.load(folder, epoch, len(model.weights)))
        loss, accuracy = measure(workload.rows["validation"])
        results = {"validation_loss": loss, "validation_accuracy": accuracy}
        if epoch == epochs[-1]:
            results["test_loss"], results["test_accuracy"] = measure(workload.rows["test"])
        journal.event("evaluation", epoch=epoch, **results)


def batch_measure(workload: SpecWorkload, model: keras.Model) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """A function of a batch → its mean loss and its number of right answers, as float32."""
    from keras import ops

    def measure(batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = model(workload.inputs(batch), training=False)
        return ops.cast(workload.loss(batch, outputs), "float32"), workload.hits(batch, outputs)

    return backend.compiled(measure)


def _measure(workload: SpecWorkload, model: keras.Model) -> Measure:
    of_batch = batch_measure(workload, model)

    def measure(rows: np.ndarray) -> tuple[float, float]:
        losses = hits = 0.0
        for batch in workload.in_order(rows, EVALUATION_BATCH):
            loss, right = of_batch(batch)
            losses += float(loss) * examples_of(batch)
            hits += float(right)
        return losses / len(rows), hits / len(rows)

    return measure
