"""Gradients of embedding tables that hold only the rows that a batch looks up.

Where an id repeats in a batch, TensorFlow's sparse gradient has its row several times, and Keras's optimizers treat
these as several gradients (Adagrad then adds up g², not (Σg)²). So they are added up first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .clip import Clip

if TYPE_CHECKING:
    import keras


def updates_by_rows(settings: Mapping[str, Any]) -> bool:
    """Whether an optimizer leaves the rows of a weight as they are whose gradient is 0."""
    name, decay = settings["name"], settings.get("weight_decay")
    return not decay and (name == "Adagrad" or (name == "SGD" and not settings.get("momentum")))


def kept_as_rows(settings: Mapping[str, Any], accumulate: int) -> bool:
    """Whether Keras's optimizer can be given rows: it updates by rows, and needs no whole gradient before."""
    return updates_by_rows(settings) and accumulate == 1 and not Clip.of(settings)


def each_row_once(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The gradients of one row added up."""
    ids, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(ids))
    return tf.IndexedSlices(values, ids, gradient.dense_shape)


def tables(model: keras.Model) -> Iterable[str]:
    """Paths of all embedding tables."""
    import keras

    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Embedding) and hasattr(layer, "_embeddings"):
            yield layer._embeddings.path
