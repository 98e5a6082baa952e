"""Gradients of large embedding tables are exchanged as the rows that each replica has, by all-gather.

Source: ``hvd.allreduce`` of ``tf.IndexedSlices`` (https://horovod.readthedocs.io), which gathers values and indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .._shared.clip import Clip
from .._shared.lookups import each_row_once
from .._shared.replica import size_bytes
from .._shared.rows import fewer, row_bytes, updates_by_rows
from ..base import ring_bytes

if TYPE_CHECKING:
    import keras


class RowExchange:
    """For the step of one rank.

    Args:
        trained: the model's trained weights.
        settings: of the optimizer. It is given rows if it updates by rows, and else dense gradients.

    Attributes:
        ids: path of a table → ids that a rank looks up in a step, repeated ones too. Known once the step is traced.
    """

    def __init__(self, hvd: ModuleType, trained: Sequence[keras.Variable], settings: Mapping[str, Any]):
        self._hvd, self._trained = hvd, trained
        self._dense = not updates_by_rows(settings) or bool(Clip.of(settings))
        self.ids: dict[str, int] = {}

    def chooses(self, place: int, ids: int | None) -> bool:
        """Whether that weight's rows are fewer to send: those of all ranks together are at most half of the table."""
        table = self._trained[place]
        if ids is None or not fewer(ids * self._hvd.size(), table):
            return False
        self.ids[table.path] = ids
        return True

    def mean(self, place: int, gradient: tf.IndexedSlices) -> tf.Tensor | tf.IndexedSlices:
        """Over all ranks."""
        values = self._hvd.allgather(gradient.values) / self._hvd.size()
        ids = self._hvd.allgather(gradient.indices)
        if self._dense:
            return tf.math.unsorted_segment_sum(values, ids, gradient.dense_shape[0])
        return each_row_once([ids], [values], self._trained[place].shape)

    def traffic_bytes(self) -> float:
        """Sent and received by all ranks in a step: at most, as repeated ids are sent once."""
        ranks = self._hvd.size()
        rows = sum(row_bytes(self.ids[each.path], each) for each in self._trained if each.path in self.ids)
        rest = size_bytes([each for each in self._trained if each.path not in self.ids])
        return ring_bytes(rest, ranks) + 2.0 * ranks * (ranks - 1) * rows
