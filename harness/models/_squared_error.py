"""Half of the squared error, as in the textbooks of back-propagation: its derivative is the difference itself."""

from __future__ import annotations

import keras
from keras import ops


def half_squared_error(y: keras.KerasTensor, predictions: keras.KerasTensor) -> keras.KerasTensor:
    """½ Σ (ŷ − y)² of each example; both of shape (examples, classes)."""
    return 0.5 * ops.sum(ops.square(predictions - y), axis=-1)


def sum_over_blocks(y: keras.KerasTensor, predictions: keras.KerasTensor) -> keras.KerasTensor:
    """The sum of all blocks' errors, of predictions of shape (examples, blocks, classes); y as stored."""
    return ops.sum(half_squared_error(_rows(y, predictions)[:, None], predictions), axis=-1)


class LastAccuracy(keras.metrics.Mean):
    """Accuracy of the last block's predictions."""

    def __init__(self) -> None:
        super().__init__(name="accuracy")

    def update_state(self, y: keras.KerasTensor, predictions: keras.KerasTensor, sample_weight: object = None) -> None:
        """Args: labels as stored, predictions of shape (examples, blocks, classes)."""
        right = ops.equal(ops.argmax(predictions[:, -1], axis=-1), ops.argmax(_rows(y, predictions), axis=-1))
        super().update_state(ops.cast(right, "float32"), sample_weight=sample_weight)


def _rows(y: keras.KerasTensor, predictions: keras.KerasTensor) -> keras.KerasTensor:
    """Class labels as one-hot rows, if they are not."""
    classes = predictions.shape[-1]
    if len(y.shape) == 2 and y.shape[-1] == classes:
        return ops.cast(y, predictions.dtype)
    return ops.one_hot(ops.cast(ops.reshape(y, [-1]), "int32"), classes, dtype=predictions.dtype)
