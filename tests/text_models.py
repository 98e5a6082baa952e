"""Models that look their text up, for `test_datasets_text`."""

from __future__ import annotations

import keras
from keras import layers

WORDS = ["red", "grün", "blue"]


def tabular() -> keras.Model:
    """A column of text and one of numbers."""
    colour = keras.Input((1,), dtype="string", name="colour")
    size = keras.Input((1,), name="size")
    found = layers.StringLookup(vocabulary=WORDS, output_mode="one_hot")(colour)
    hashed = layers.Hashing(8, output_mode="one_hot")(colour)
    x = layers.Dense(8, activation="tanh")(layers.Concatenate()([found, hashed, size]))
    model = keras.Model({"colour": colour, "size": size}, layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    return model


def hashed() -> keras.Model:
    """One that parameter servers' graphs can train: without a table."""
    colour = keras.Input((1,), dtype="string", name="colour")
    size = keras.Input((1,), name="size")
    found = layers.Hashing(8, output_mode="one_hot")(colour)
    x = layers.Dense(8, activation="tanh")(layers.Concatenate()([found, size]))
    model = keras.Model({"colour": colour, "size": size}, layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    return model
