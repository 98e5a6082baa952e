"""Layers of which each process has a part of the weights.

Source: Shoeybi et al., *Megatron-LM*, arXiv 1909.08053, 2019: with a matrix cut by columns and the next one by rows, a
pair needs one sum forward and one backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from .._shared import marks


class Exchange:
    """Horovod's collectives over all processes, with the gradients that belong to replicated computing.

    Attributes:
        moved_bytes: that all processes send and receive, by what was called so far, if the shapes were known.
    """

    def __init__(self, hvd: ModuleType):
        self._hvd, self._calls = hvd, 0
        self.moved_bytes = 0.0

    def columns(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """x·kernel, with some columns of the whole kernel: each process computes a part of the gradient of ``x``.

        The kernel's own gradient is computed while those parts are summed.
        """
        exchange, own = list[Any](), list[tf.Tensor]()

        def note() -> None:
            if exchange and own:
                marks.beside(exchange[0], own)

        def of_x(g: tf.Tensor) -> tf.Tensor:
            total = self._sum(g)
            exchange.append(marks.newest())
            note()
            return total

        def of_kernel(g: tf.Tensor) -> tf.Tensor:
            own.append(g)
            note()
            return g

        x = tf.custom_gradient(lambda each: (tf.identity(each), of_x))(x)
        kernel = tf.custom_gradient(lambda each: (tf.identity(each), of_kernel))(kernel)
        return ops.matmul(x, kernel)

    def summed(self, x: tf.Tensor) -> tf.Tensor:
        """The sum of all processes' tensors."""
        return tf.custom_gradient(lambda each: (self._sum(each), tf.identity))(x)

    def joined(self, x: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
        """All processes' tensors, side by side along the last axis, where they have these sizes."""
        start = sum(sizes[: self._hvd.rank()])
        size = sizes[self._hvd.rank()]
        return tf.custom_gradient(lambda each: (self._join(each), lambda g: g[..., start : start + size]))(x)

    def _sum(self, x: tf.Tensor) -> tf.Tensor:
        (sent,) = marks.held(marks.ready, [_sendable(x)])
        self._count(sent, 4 * (self._hvd.size() - 1))
        total = self._hvd.allreduce(sent, op=self._hvd.Sum, name=self._name(), ignore_name_scope=True)
        (total,) = marks.held(marks.came, [total])
        return tf.cast(total, x.dtype)

    def _join(self, x: tf.Tensor) -> tf.Tensor:
        (sent,) = marks.held(marks.ready, [_sendable(x)])
        self._count(sent, 2 * (self._hvd.size() - 1) * self._hvd.size())
        last = x.shape.rank - 1
        first = tf.transpose(sent, [last, *range(last)])
        whole = self._hvd.allgather(first, name=self._name(), ignore_name_scope=True)
        (whole,) = marks.held(marks.came, [whole])
        return tf.cast(tf.transpose(whole, [*range(1, last + 1), 0]), x.dtype)

    def _name(self) -> str:
        self._calls += 1
        return f"tensor_split_{self._calls}"

    def _count(self, x: tf.Tensor, times: int) -> None:
        self.moved_bytes += times * (x.shape.num_elements() or 0) * x.dtype.size


def _sendable(x: tf.Tensor) -> tf.Tensor:
    """Horovod has no bfloat16, and its sums of float16 would be of that, too."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.bfloat16, tf.float16) else x


class Part:
    """A process's part of a variable.

    Args:
        axis: along which it is cut.
        sizes: of all processes' parts, in order.
    """

    def __init__(self, variable: keras.Variable, axis: int, sizes: Sequence[int], rank: int):
        self.axis, self.sizes = axis, sizes
        begin = sum(sizes[:rank])
        own = np.take(variable.numpy(), range(begin, begin + sizes[rank]), axis=axis)
        self.variable = keras.Variable(own, dtype=variable.dtype, name=variable.name)

    def whole(self, hvd: ModuleType, name: str) -> np.ndarray:
        """All parts together. Every process calls it."""
        value = tf.experimental.numpy.moveaxis(self.variable.value, self.axis, 0)
        return np.moveaxis(hvd.allgather(value, name=name).numpy(), 0, self.axis)


class _Split:
    """A layer that has been split, of Keras's class, too."""

    exchange: Exchange

    def replace(self: Any, attribute: str, part: Part) -> None:
        """Have a part in place of a variable."""
        self._untrack_variable(getattr(self, attribute))
        self._tracker.unlock()
        setattr(self, attribute, part.variable)
        self._tracker.lock()


class Columns(_Split, keras.layers.Dense):
    """Has the columns of some units. ``sizes`` of all processes: then its outputs are whole."""

    sizes: Sequence[int] | None

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """See Keras."""
        x = self.exchange.columns(inputs, tf.convert_to_tensor(self.kernel.value))
        x = x if self.bias is None else ops.add(x, self.bias)
        x = x if self.sizes is None else self.exchange.joined(x, self.sizes)
        return x if self.activation is None else self.activation(x)


class Rows(_Split, keras.layers.Dense):
    """Has the rows of those units of the layer before that this process has. Its outputs are whole."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """See Keras."""
        x = self.exchange.summed(ops.matmul(inputs, self.kernel))
        x = x if self.bias is None else ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)


class Words(_Split, keras.layers.Embedding):
    """Has the rows of some ids, ``begin`` and those after it. Its outputs are whole."""

    begin: int

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """See Keras."""
        place = ops.cast(inputs, "int32") - self.begin
        count = self.embeddings.shape[0]
        mine = ops.logical_and(place >= 0, place < count)
        found = ops.take(self.embeddings, ops.clip(place, 0, count - 1), axis=0)
        found = ops.where(ops.expand_dims(mine, -1), found, ops.zeros_like(found))
        return ops.cast(self.exchange.summed(found), dtype=self.compute_dtype)
