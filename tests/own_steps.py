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
    """See `Two`: its step does not use the second one."""
    x = keras.Input((6,))
    model = Two(x, _layers(x))
    model.compile(keras.optimizers.Adam(), optimizer="adam", loss="mse")
    return model


class Nameless(Guide):
    """Its loss has another name."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return {"error": super().train_step(data)["loss"]}


def nameless() -> keras.Model:
    """See `Nameless`."""
    x = keras.Input((6,))
    model = Nameless(x, _layers(x))
    model.compile("adam", loss="mse")
    return model


class Gan(keras.Model):
    """Two models with an optimizer each, and no call. Its noise comes from the data, so that replicas draw the same."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(8, activation="gelu"), layers.Dense(6)])
        self.discriminator = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="gelu"), layers.Dense(1)])
        self.seen = {name: keras.metrics.Mean(name=name) for name in ("d_loss", "g_loss")}

    @property
    def metrics(self) -> list[Any]:
        return list(self.seen.values())

    def compile(self, d_optimizer: Any, g_optimizer: Any) -> None:
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def _loss(self, target: float, x: Any) -> Any:
        scores = self.discriminator(x)
        return keras.ops.mean(keras.losses.binary_crossentropy(target * tf.ones_like(scores), scores, from_logits=True))

    def train_step(self, x: Any) -> dict[str, Any]:
        # Kept, as a step may do, and used after an exchange.
        self.noise = x[:, :2]
        with tf.GradientTape() as tape:
            d_loss = self._loss(1.0, x) + self._loss(0.0, self.generator(self.noise))
        trained = self.discriminator.trainable_variables
        self.d_optimizer.apply(tape.gradient(d_loss, trained), trained)
        with tf.GradientTape() as tape:
            g_loss = self._loss(1.0, self.generator(self.noise))
        trained = self.generator.trainable_variables
        self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, trained), trained, strict=True))
        self.seen["d_loss"].update_state(d_loss)
        self.seen["g_loss"].update_state(g_loss)
        return {name: metric.result() for name, metric in self.seen.items()}


def gan() -> keras.Model:
    """See `Gan`."""
    model = Gan()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.1), keras.optimizers.Adam(0.002, beta_1=0.5))
    return model


def scheduled_gan() -> keras.Model:
    """As `gan`, with a schedule."""
    model = Gan()
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)), "adam")
    model.g_optimizer = keras.optimizers.Adam(0.002)
    return model


class ByHand(Guide):
    """Applies its gradients without an optimizer, so that replicas could not exchange them."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        for variable, gradient in zip(
            self.trainable_variables, tape.gradient(loss, self.trainable_variables), strict=True
        ):
            variable.assign_sub(0.01 * gradient)
        return {"loss": loss}


def by_hand() -> keras.Model:
    """See `ByHand`."""
    x = keras.Input((6,))
    model = ByHand(x, _layers(x))
    model.compile("adam", loss="mse")
    return model


class Hidden(Guide):
    """Its second optimizer is no attribute."""

    def train_step(self, data: Any) -> dict[str, Any]:
        logs = super().train_step(data)
        x, _ = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(self(x))
        HIDDEN.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return logs


HIDDEN = keras.optimizers.Adam()


def hidden() -> keras.Model:
    """See `Hidden`."""
    x = keras.Input((6,))
    model = Hidden(x, _layers(x))
    model.compile("adam", loss="mse")
    return model


def aliased() -> keras.Model:
    """The optimizer of ``compile`` has a second name."""
    model = guide()
    model.compile("adam", loss="mse")
    model.mine = model.optimizer
    return model


class Late(Denoise):
    """Has a layer that only its step calls."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.Sequential([layers.Dense(6)])

    def train_step(self, x: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self.head(self.body(x)) - x))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def late() -> keras.Model:
    """See `Late`."""
    model = Late()
    model.compile("adam")
    return model


def looking_up() -> keras.Model:
    """Its gradients would be sparse, of ids that a batch repeats."""
    x = keras.Input((6,))
    ids = keras.ops.cast(x > 0, "int32")
    model = Guide(x, layers.Dense(3)(layers.Flatten()(layers.Embedding(2, 4)(ids))))
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    return model
