"""A model of two layers with the same initial weights on every Keras backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def waves(shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Small numbers without any random generator, whose draws differ between backends."""
    values = np.sin(np.arange(np.prod(shape)) * 0.7).reshape(shape) * 0.05
    return keras.ops.convert_to_tensor(values.astype("float32"))


def model(shape: tuple[int, ...], classes: int) -> keras.Model:
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="relu", kernel_initializer=waves, name="first"),
        keras.layers.Dense(classes, kernel_initializer=waves, name="last"),
    ]
    return keras.Sequential([keras.Input(shape), *layers])
