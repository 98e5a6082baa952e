"""A model of many small tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def make(shape: tuple[int, ...], classes: int, layers: int = 40, units: int = 192) -> keras.Model:
    """``layers`` dense layers and the output."""
    import keras

    hidden = [keras.layers.Dense(units, activation="gelu") for _ in range(layers)]
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), *hidden, keras.layers.Dense(classes)], name="deep"
    )
