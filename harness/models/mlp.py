"""A multi-layer perceptron with next to no work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Model

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info


@dataclass(frozen=True)
class Mlp(Model):
    """784-16-16-10 with sigmoids and squared error, as in the student study."""

    name = "mlp"
    summary = "784-16-16-10 with sigmoids and squared error: so little work that overheads show"

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        self.classes(info)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras

        from ._squared_error import half_squared_error

        model = keras.Sequential(
            [
                keras.layers.Input(info.shape),
                keras.layers.Flatten(),
                keras.layers.Dense(16, activation="sigmoid"),
                keras.layers.Dense(16, activation="sigmoid"),
                keras.layers.Dense(self.classes(info)),
            ],
            name=self.name,
        )

        model.compile(optimizer=None, loss=half_squared_error)
        return model
