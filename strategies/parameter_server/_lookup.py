"""Rows of embedding tables: a step fetches and updates those that its batch looks up, not the whole table.

Each worker asks the table's ps task for the rows of its different ids, and pushes a gradient for each of these rows.
Source: Li et al., *Scaling Distributed Machine Learning with the Parameter Server*, OSDI 2014, section 3 (workers pull
the parts of w that they need).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from .._shared.replica import loss_with

if TYPE_CHECKING:
    from ..trainer import Workload

v1 = tf.compat.v1
Tables = Mapping[int, int]
"""Place of a weight in ``model.trainable_variables`` → ids that one replica looks up in a step, repeated ones too."""
_LEAST_RATIO = 2
"""A table has at least so many times as many rows as a step has ids: otherwise all of it is hardly more to send."""
_ID_BYTES = 8


class Lookups:
    """While `recorded`, embedding layers look up their rows by the functions here.

    Args:
        read: of each table, by the id of its Keras variable: different ids, int64, (u,) → rows (u, width).
    """

    def __init__(self, read: Mapping[int, Callable[[tf.Tensor], tf.Tensor]]):
        self._read = read
        self._graph = v1.get_default_graph()
        self._found: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        self.ids: dict[int, int | None] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keras's own layers, and those derived from them that leave ``call`` as it is."""
        original = keras.layers.Embedding.call

        def call(layer: keras.layers.Embedding, inputs: Any) -> Any:
            key = id(getattr(layer, "_embeddings", None))
            # In the body of a loop the rows can't be reached from outside.
            inside = v1.get_default_graph() is not self._graph
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
        self._found.setdefault(key, []).append((different, found))
        return tf.gather(found, tf.reshape(places, tf.shape(ids)))

    def gradient(self, loss: tf.Tensor, variable: keras.Variable) -> tf.IndexedSlices:
        """Of the rows that were looked up, each once, in the order of their ids."""
        pairs = self._found[id(variable)]
        found = tf.gradients(loss, [rows for _, rows in pairs], unconnected_gradients="zero")
        ids = tf.concat([different for different, _ in pairs], 0)
        values = tf.concat([tf.convert_to_tensor(each) for each in found], 0)
        different, places = tf.unique(ids)
        values = tf.math.unsorted_segment_sum(values, places, tf.size(different))
        order = tf.argsort(different)
        return tf.IndexedSlices(
            tf.gather(values, order), tf.gather(different, order), tf.constant(list(variable.shape), tf.int64)
        )


def tables_of(workload: Workload, model: keras.Model) -> Tables:
    """The weights of which a step needs few rows, and nothing else. Every task finds the same ones.

    The model is traced in a graph of its own, as a table may be used in other ways, too: by a regulariser, or as the
    weights of the last layer.
    """
    embeddings = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)]
    tables = {id(layer._embeddings): layer.input_dim for layer in embeddings if hasattr(layer, "_embeddings")}
    places = {place: v for place, v in enumerate(model.trainable_variables) if id(v) in tables}
    if not places or workload.accumulate > 1:
        return {}
    examples = workload.global_batch // workload.replicas
    with tf.Graph().as_default():
        batch = tf.nest.map_structure(
            lambda like: v1.placeholder(like.dtype, (examples, *like.shape[1:])), workload.empty_batch
        )
        trained, fixed = (
            [v1.placeholder(v.dtype, v.shape) for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        read = {id(v): lambda ids, v=v: v1.placeholder(v.dtype, (None, v.shape[1])) for v in places.values()}
        lookups = Lookups(read)
        try:
            with lookups.recorded():
                loss, _ = loss_with(workload, model, trained, fixed, batch)
        except RuntimeError:
            # `compute` tells what is wrong.
            return {}
        gradients = tf.gradients(loss, [trained[place] for place in places])
        alone = {place for place, gradient in zip(places, gradients, strict=True) if gradient is None}
    found = {place: lookups.ids.get(id(variable)) for place, variable in places.items() if place in alone}
    return {place: ids for place, ids in found.items() if ids and tables[id(places[place])] >= _LEAST_RATIO * ids}


def readers(
    model: keras.Model, tables: Tables, shared: Sequence[tf.Variable], after: Sequence[tf.Tensor]
) -> dict[int, Callable[[tf.Tensor], tf.Tensor]]:
    """For `Lookups`: each reads rows of a table on its ps task, once ``after`` is computed.

    Args:
        shared: the tables on the ps tasks, in the order of ``model.trainable_variables``.
    """

    def reader(table: tf.Variable) -> Callable[[tf.Tensor], tf.Tensor]:
        def read(ids: tf.Tensor) -> tf.Tensor:
            with tf.device(table.device), tf.control_dependencies(after):
                return table.sparse_read(ids)

        return read

    return {id(model.trainable_variables[place]): reader(shared[place]) for place in tables}


def row_bytes(tables: Tables, trained: Sequence[tf.Variable]) -> int:
    """Bytes of the rows that a replica fetches in a step, with their ids; at most, as repeated ids are sent once."""
    return sum(
        ids * (math.prod(trained[place].shape[1:]) * trained[place].dtype.size + _ID_BYTES)
        for place, ids in tables.items()
    )
