"""Accuracy and loss of weight snapshots, computed after training so that no worker waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.batches import sequential
from ...results.raw.journal import Journal
from .workload import SpecWorkload

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    Totals = tuple[tf.Tensor, tf.Tensor]

EVALUATION_BATCH = 1000

Measure = Callable[[np.ndarray], tuple[float, float]]


def evaluate(workload: SpecWorkload, snapshots: Path, journal: Journal) -> None:
    """Journal each epoch's validation loss and accuracy, with the test set's for the last epoch."""
    model = workload.model()
    measure = _measure(workload, model)
    files = sorted(snapshots.glob("epoch-*.npz"), key=_epoch)
    for path in files:
        with np.load(path) as saved:
            model.set_weights([saved[name] for name in saved.files])
        loss, accuracy = measure(workload.rows["validation"])
        results = {"validation_loss": loss, "validation_accuracy": accuracy}
        if path is files[-1]:
            results["test_loss"], results["test_accuracy"] = measure(workload.rows["test"])
        journal.event("evaluation", epoch=_epoch(path), **results)


def _epoch(snapshot: Path) -> int:
    return int(snapshot.stem.split("-")[1])


def batch_measure(workload: SpecWorkload, model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], Totals]:
    """A compiled function of a batch, (x, y) → its sum of losses and its number of right answers, as float32."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def batch_totals(x: tf.Tensor, y: tf.Tensor) -> Totals:
        predictions = model(workload.inputs(x), training=False)
        hits = tf.equal(tf.argmax(predictions, -1, output_type=tf.int32), y)
        loss = tf.cast(workload.loss(y, predictions), tf.float32)
        return loss * tf.cast(tf.size(y), tf.float32), tf.reduce_sum(tf.cast(hits, tf.float32))

    return batch_totals


def _measure(workload: SpecWorkload, model: keras.Model) -> Measure:
    batch_totals = batch_measure(workload, model)

    def measure(rows: np.ndarray) -> tuple[float, float]:
        totals = np.zeros(2)
        for x, y in _batches(workload, rows):
            totals += [float(value) for value in batch_totals(x, y)]
        loss, accuracy = totals / len(rows)
        return float(loss), float(accuracy)

    return measure


def _batches(workload: SpecWorkload, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return sequential(workload.dataset, rows, EVALUATION_BATCH)
