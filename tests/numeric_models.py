"""Models for `test_numerics`: 16 bits with a loss that is scaled too much at first, and compiled by XLA."""

from __future__ import annotations

import keras
from keras import layers

SCALE = 2.0**24
"""Of the loss. Gradients of float16 are infinite until it has been halved a few times."""


def _dense() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(16, activation="gelu"), layers.Dense(3, dtype="float32")])


def overflows() -> keras.Model:
    """Its policy is its own."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _dense()
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.5)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=SCALE), loss="mse")
    return model


def compiled() -> keras.Model:
    """By XLA, as it says itself, with what changes in a step beside the weights."""
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), layers.Dense(3)]
    )
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss="mse", jit_compile=True)
    return model


def recurrent() -> keras.Model:
    """With a mask, by which its loss is divided."""
    model = keras.Sequential(
        [keras.Input((8,), dtype="uint8"), layers.Embedding(20, 6, mask_zero=True), layers.Dense(5)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
