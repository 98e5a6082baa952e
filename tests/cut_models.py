"""Models whose graphs are more than a chain, for images of 28×28 pixels."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


def _conv(x: Any, filters: int) -> Any:
    # A bias before the normalisation has no gradient but what rounding leaves.
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.5)(x)


def residual(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Batch normalisation, and a connection over two cuts."""
    inputs = keras.Input(shape)
    x = skip = layers.Activation("gelu", name="skipped")(_conv(layers.AveragePooling2D(2)(inputs), 6))
    x = layers.Activation("gelu")(_conv(x, 6))
    x = layers.Activation("gelu")(layers.Add(name="sum")([_conv(x, 6), skip]))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def dropped(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Random masks in both halves."""
    inner = keras.Sequential([layers.Dense(16, activation="gelu"), layers.Dropout(0.3, seed=7)], name="inner")
    parts = [layers.Flatten(), layers.Dropout(0.5, seed=5), layers.Dense(24, activation="gelu"), inner]
    return keras.Sequential([keras.Input(shape), *parts, layers.Dense(classes)])


def nested(shape: tuple[int, ...], classes: int) -> keras.Model:
    """A model within a model, called twice by layers without weights around it, and losses that layers add."""
    features = keras.Input((28,))
    hidden = layers.Dense(8, activation="gelu", kernel_regularizer="l2")(features)
    body = keras.Model(features, layers.Dense(6, activity_regularizer=keras.regularizers.L2(1e-3))(hidden))
    inputs = keras.Input(shape)
    rows = ops.squeeze(inputs, -1)
    x = layers.Concatenate()([body(ops.mean(rows, 1)), layers.Dense(4, activation="gelu")(ops.max(rows, 2))])
    x = layers.Dense(12, activation="gelu", bias_regularizer="l1")(x)
    return keras.Model(inputs, layers.Dense(classes)(ops.concatenate([x, layers.Flatten()(rows[:, :2])], -1)))


def twins(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Two models whose layers have the same names."""
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    for number in range(2):
        taken = keras.Input((x.shape[-1],))
        hidden = layers.Dense(16, activation="gelu", name="same")(taken)
        x = keras.Model(taken, layers.Dropout(0.3, seed=number, name="dropped")(hidden), name=f"twin_{number}")(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def shared(shape: tuple[int, ...], classes: int) -> keras.Model:
    """One layer at both ends."""
    layer = layers.Dense(784, name="twice")
    inputs = keras.Input(shape)
    x = layers.Dense(784, activation="gelu", name="between")(layer(layers.Flatten()(inputs)))
    return keras.Model(inputs, layers.Dense(classes)(layer(x)))


class Own(keras.Model):
    """Computes by code of its own."""

    def __init__(self, classes: int):
        super().__init__()
        self.dense = layers.Dense(classes)

    def call(self, x: Any) -> Any:
        return self.dense(ops.reshape(x, (-1, 784)))


def own(shape: tuple[int, ...], classes: int) -> keras.Model:
    return Own(classes)


class Scored(keras.Model):
    """A graph of Keras's, but a loss of its own."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return ops.mean(ops.square(y_pred - ops.one_hot(ops.reshape(y, (-1,)), 10)))


def scored(shape: tuple[int, ...], classes: int) -> keras.Model:
    inputs = keras.Input(shape)
    return Scored(inputs, layers.Dense(classes)(layers.Dense(8)(layers.Flatten()(inputs))))


def equal(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Eight layers of one size."""
    middle = [layers.Dense(784, activation="relu", name=f"dense_{number}") for number in range(8)]
    return keras.Sequential([keras.Input(shape), layers.Flatten(), *middle, layers.Dense(classes, name="last")])
