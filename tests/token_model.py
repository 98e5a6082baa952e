"""A model of token ids, for the conformance suite: ``token_model:model``."""

from __future__ import annotations


def model(shape: tuple[int, ...], classes: int):
    """The mean of the tokens' vectors, and a dense layer."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(shape, dtype="uint8"),
            layers.Embedding(250, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(classes),
        ]
    )
