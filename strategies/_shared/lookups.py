"""Rows of embedding tables: layers look up those that their batch needs, each once, by a function of the strategy.

Keras's own lookup first reads the table as one tensor: all of it is sent where the table is in another process, and
copied where the table is updated in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

Read = Mapping[int, Callable[[tf.Tensor], tf.Tensor]]
"""Of each table, by the id of its Keras variable: different ids, int64, (u,) → rows (u, width)."""


class Lookups:
    """While `recorded`, embedding layers look up their rows by the functions here.

    Attributes:
        found: (different ids, their rows) of each lookup, by the id of the table's Keras variable.
        ids: how many ids are looked up in a table in all, repeated ones too; None where the graph does not tell.
    """

    def __init__(self, read: Read):
        self._read = read
        self._graph = tf.compat.v1.get_default_graph()
        self.found: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        self.ids: dict[int, int | None] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keras's own layers, and those derived from them that leave ``call`` as it is."""
        original = keras.layers.Embedding.call

        def call(layer: keras.layers.Embedding, inputs: Any) -> Any:
            key = id(getattr(layer, "_embeddings", None))
            # In the body of a loop the rows can't be reached from outside.
            inside = tf.compat.v1.get_default_graph() is not self._graph
            plain = isinstance(inputs, tf.Tensor) and not layer.lora_enabled and layer.quantization_mode is None
            if key not in self._read or inside or not plain:
                return original(layer, inputs)
            return tf.cast(self._look_up(key, inputs, layer.input_dim), layer.compute_dtype)

        keras.layers.Embedding.call = call
        try:
            yield
        finally:
            keras.layers.Embedding.call = original

    def _look_up(self, key: int, inputs: tf.Tensor, rows: int) -> tf.Tensor:
        ids = tf.cast(inputs, tf.int64)
        ids = tf.where(ids < 0, ids + rows, ids)
        number = ids.shape.num_elements()
        known = self.ids.get(key, 0)
        self.ids[key] = None if number is None or known is None else known + number
        different, places = tf.unique(tf.reshape(ids, [-1]))
        found = tf.identity(self._read[key](different))
        self.found.setdefault(key, []).append((different, found))
        return tf.gather(found, tf.reshape(places, tf.shape(ids)))


def each_row_once(ids: Sequence[tf.Tensor], values: Sequence[tf.Tensor], shape: Sequence[int]) -> tf.IndexedSlices:
    """The sum of several gradients of one table, in the order of the ids.

    Args:
        ids: of each, (u,).
        values: the rows of each, (u, width).
        shape: of the table.
    """
    different, places = tf.unique(tf.concat(ids, 0))
    together = tf.concat([tf.convert_to_tensor(each) for each in values], 0)
    total = tf.math.unsorted_segment_sum(together, places, tf.size(different))
    order = tf.argsort(different)
    return tf.IndexedSlices(tf.gather(total, order), tf.gather(different, order), tf.constant(list(shape), tf.int64))
