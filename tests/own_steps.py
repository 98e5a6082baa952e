"""Models with a ``train_step`` of their own, for `test_own_step`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers


class Guide(keras.Model):
    """As in Keras's guide: the loss and metrics of ``compile()``, and gradients that are taken twice."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = 2.0 * self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


def _layers(x: Any) -> Any:
    return layers.Dense(3)(layers.Dense(16, activation="gelu")(x))


def guide() -> keras.Model:
    """See `Guide`."""
    x = keras.Input((6,))
    model = Guide(x, _layers(x))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0), loss="mse", metrics=["mae"])
    return model


class Denoise(keras.Model):
    """Without targets, and with a loss that only its train_step and test_step know."""

    def __init__(self) -> None:
        super().__init__()
        self.body = keras.Sequential([layers.Dense(8, activation="gelu"), layers.Dense(6)])
        self.seen = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.seen]

    def call(self, x: Any) -> Any:
        return self.body(x)

    def train_step(self, x: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self.body(x * 0.9) - x))
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
        )
        self.seen.update_state(loss)
        return {"loss": self.seen.result()}

    def test_step(self, x: Any) -> dict[str, Any]:
        self.seen.update_state(keras.ops.mean(keras.ops.square(self.body(x * 0.9) - x)))
        return {"loss": self.seen.result()}


def denoise() -> keras.Model:
    """See `Denoise`."""
    model = Denoise()
    model.compile("adam")
    return model


class Two(Guide):
    """With a second optimizer."""

    def compile(self, second: Any, **kwargs: Any) -> None:
        super().compile(**kwargs)
        self.second = second


def two() -> keras.Model:
    """See `Two`."""
    x = keras.Input((6,))
    model = Two(x, _layers(x))
    model.compile(keras.optimizers.Adam(), optimizer="adam", loss="mse")
    return model


class Nameless(Guide):
    """Its loss has another name."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return {"loss_of_mine": super().train_step(data)["loss"]}


def nameless() -> keras.Model:
    """See `Nameless`."""
    x = keras.Input((6,))
    model = Nameless(x, _layers(x))
    model.compile("adam", loss="mse")
    return model
