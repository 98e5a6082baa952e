"""A model that leaves it to Keras to tell its layers that it is being trained."""

from __future__ import annotations

from typing import Any

import keras


class Dropped(keras.Model):
    """Most of its inputs are dropped, but only in training."""

    def __init__(self, classes: int):
        super().__init__()
        self.dropout = keras.layers.Dropout(0.9, seed=5)
        self.normal = keras.layers.BatchNormalization()
        self.dense = keras.layers.Dense(classes)

    def call(self, x: Any) -> Any:
        """Without an argument ``training``."""
        return self.dense(self.normal(self.dropout(keras.ops.reshape(x, (-1, 784)))))


def model(shape: tuple[int, ...], classes: int) -> keras.Model:
    """For images of 28×28 pixels."""
    return Dropped(classes)
