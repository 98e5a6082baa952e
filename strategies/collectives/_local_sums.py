"""Local gradient aggregation: several steps' gradients are added up before anything is exchanged.

https://horovod.readthedocs.io/en/stable/tensorflow.html (``backward_passes_per_step``)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    import keras

Gradients = Sequence[tf.Tensor]


def every(passes: int, model: keras.Model, update: Callable[[Gradients], None]) -> Callable[[Gradients], None]:
    """Adds up gradients. Every ``passes`` calls it gives the sums to ``update`` and starts from zero."""
    sums = [tf.Variable(tf.zeros_like(variable.value), trainable=False) for variable in model.trainable_variables]
    calls = tf.Variable(0, dtype=tf.int64, trainable=False)

    def flush() -> None:
        update([total.read_value() for total in sums])
        for total in sums:
            total.assign(tf.zeros_like(total))

    def add(gradients: Gradients) -> None:
        for total, gradient in zip(sums, gradients, strict=True):
            total.assign_add(gradient)
        calls.assign_add(1)
        tf.cond(calls % passes == 0, flush, lambda: None)

    return add
