"""A small convolutional network.

`cnn`, `mlp` and `mlp-wide` are smooth on purpose. ReLU and max-pooling are not smooth: if rounding puts two strategies
on different sides of a kink, their weights differ by 1e-4 and more within a few steps. A test of equality could not
distinguish this from a bug.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Model

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info

SMALLEST_IMAGE = 13
"""Smallest height and width, in pixels, for both convolutions."""


@dataclass(frozen=True)
class Cnn(Model):
    """Two 5×5 convolutions (32, 64) of stride 2 and a dense layer of 128."""

    name = "cnn"
    summary = "two 5×5 convolutions (32, 64) of stride 2 and a dense layer of 128: enough work to distribute"

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        self.classes(info)
        self.images(info, SMALLEST_IMAGE)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras

        # No biases in convolutions: their gradient sums over positions, nearly cancels, and would be mostly rounding.
        return keras.Sequential(
            [
                keras.layers.Input(info.shape),
                keras.layers.Conv2D(32, 5, strides=2, activation="gelu", use_bias=False),
                keras.layers.Conv2D(64, 5, strides=2, activation="gelu", use_bias=False),
                keras.layers.Flatten(),
                keras.layers.Dense(128, activation="gelu"),
                keras.layers.Dense(self.classes(info)),
            ],
            name=self.name,
        )
