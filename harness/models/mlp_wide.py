"""A multi-layer perceptron with many weights and little arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Model, option

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info


@dataclass(frozen=True)
class MlpWide(Model):
    """784-1024-1024-10, about 1.9 M parameters."""

    name = "mlp-wide"
    summary = "784-1024-1024-10, 1.9 M parameters and little arithmetic: communication-bound on purpose"

    units: int = option(1024, "units of each hidden layer")

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        self.classes(info)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras

        return keras.Sequential(
            [
                keras.layers.Input(info.shape),
                keras.layers.Flatten(),
                keras.layers.Dense(self.units, activation="gelu"),
                keras.layers.Dense(self.units, activation="gelu"),
                keras.layers.Dense(self.classes(info)),
            ],
            name=self.name,
        )
