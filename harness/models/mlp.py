"""A multi-layer perceptron with next to no work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Model

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

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

        def half_squared_error(y: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
            return 0.5 * keras.ops.sum(keras.ops.square(predictions - y), axis=-1)

        model.compile(optimizer=None, loss=half_squared_error)
        return model
