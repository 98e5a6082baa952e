"""The usual figure of a language model: e to the mean cross-entropy of the next token. 1 is the best."""

from __future__ import annotations

import keras
from keras import ops


class Perplexity(keras.metrics.Mean):
    """Of scores, not probabilities. The lowest is 1; a model that knows nothing has the size of the vocabulary."""

    def __init__(self) -> None:
        super().__init__(name="perplexity")

    def update_state(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: object = None) -> None:
        """Args: ids of shape (examples, length), scores of shape (examples, length, vocabulary)."""
        loss = keras.losses.sparse_categorical_crossentropy(y_true, ops.cast(y_pred, "float32"), from_logits=True)
        super().update_state(loss, sample_weight=sample_weight)

    def result(self) -> keras.KerasTensor:
        """e to the mean."""
        return ops.exp(super().result())
