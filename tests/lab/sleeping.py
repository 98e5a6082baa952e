"""A model that sleeps in place of computing, so that several replicas of it can share a core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def make(
    shape: tuple[int, ...], classes: int, layers: int = 3, units: int = 512, milliseconds: float = 1.0
) -> keras.Model:
    """Dense layers, and before each a pause.

    Args:
        milliseconds: of an example in all layers, a third forward and the rest backward, as multiplying matrices takes.
            The first pause has no backward pass, as nothing before it is trained: of 3 layers, 7/9 are slept.
    """
    import keras

    each = milliseconds / 1000 / layers / 3
    hidden = [layer for _ in range(layers) for layer in (_pause(each), keras.layers.Dense(units, activation="gelu"))]
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), *hidden, keras.layers.Dense(classes)], name="sleeping"
    )


def wide(shape: tuple[int, ...], classes: int) -> keras.Model:
    """As large as ``mlp-wide:units=1024`` and a layer more."""
    return make(shape, classes, units=1024)


def deep(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Of many small tensors, as ``deep:make`` is."""
    return make(shape, classes, layers=40, units=192)


def _pause(seconds: float) -> keras.Layer:
    import keras
    import tensorflow as tf

    def sleep(values: np.ndarray, times: int) -> np.ndarray:
        time.sleep(times * seconds * len(values))
        return values

    def slept(values: tf.Tensor, times: int) -> tf.Tensor:
        after = tf.numpy_function(lambda array: sleep(array, times), [values], values.dtype, stateful=False)
        after.set_shape(values.shape)
        return after

    @tf.custom_gradient
    def paused(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return slept(values, 1), lambda gradient: slept(gradient, 2)

    class Pause(keras.layers.Layer):
        """Returns what it gets, later."""

        def call(self, values: tf.Tensor) -> tf.Tensor:
            return paused(values)

    return Pause()
