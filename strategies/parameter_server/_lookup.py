"""Rows of embedding tables: a step fetches and updates those that its batch looks up, not the whole table.

Each worker asks the table's ps task for the rows of its different ids, and pushes a gradient for each of these rows.
Source: Li et al., *Scaling Distributed Machine Learning with the Parameter Server*, OSDI 2014, section 3 (workers pull
the parts of w that they need).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from .._shared.graph_model import placeholders
from .._shared.lookups import Lookups, Read, each_row_once
from .._shared.replica import loss_with
from .._shared.rows import embeddings, fewer

if TYPE_CHECKING:
    from ..trainer import Workload

v1 = tf.compat.v1
Tables = Mapping[int, int]
"""Place of a weight in ``model.trainable_variables`` → ids that one replica looks up in a step, repeated ones too."""
NOTHING: Mapping[int, Any] = MappingProxyType({})
"""No tables, and nothing to read."""


def tables_of(workload: Workload, model: keras.Model) -> Tables:
    """The weights of which a step needs few rows, and nothing else. Every task finds the same ones.

    The model is traced in a graph of its own, as a table may be used in other ways, too: by a regulariser, or as the
    weights of the last layer.
    """
    tables = {id(layer._embeddings) for layer in embeddings(model) if layer.built}
    places = {place: v for place, v in enumerate(model.trainable_variables) if id(v) in tables}
    if not places or workload.accumulate > 1:
        return {}
    examples = workload.global_batch // workload.replicas
    with tf.Graph().as_default():
        batch = placeholders(workload, examples)
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
    return {place: ids for place, ids in found.items() if ids and fewer(ids, places[place])}


def readers(model: keras.Model, tables: Mapping[int, tf.Variable], after: Sequence[tf.Tensor]) -> Read:
    """For `Lookups`: each reads rows of a table on its ps task, once ``after`` is computed.

    Args:
        tables: on the ps tasks, by their places in ``model.trainable_variables``.
    """

    def reader(table: tf.Variable) -> Callable[[tf.Tensor], tf.Tensor]:
        def read(ids: tf.Tensor) -> tf.Tensor:
            with tf.device(table.device), tf.control_dependencies(after):
                return table.sparse_read(ids)

        return read

    return {id(model.trainable_variables[place]): reader(table) for place, table in tables.items()}


def gradient_of(loss: tf.Tensor, lookups: Lookups, variable: keras.Variable) -> tf.IndexedSlices:
    """Of the rows that were looked up, each once, in the order of their ids."""
    ids, rows = zip(*lookups.found[id(variable)], strict=True)
    found = tf.gradients(loss, list(rows), unconnected_gradients="zero")
    return each_row_once(ids, found, variable.shape)
