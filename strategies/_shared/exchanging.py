"""An exchange where an optimizer is given its gradients, as in Horovod's ``DistributedOptimizer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from . import marks

if TYPE_CHECKING:
    import keras

Exchange = Callable[[list[tf.Tensor]], Sequence[tf.Tensor]]
"""Gradients of one replica → their means, or sums, over all."""


def exchanging(
    optimizer: keras.optimizers.Optimizer,
    exchange: Exchange,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> keras.optimizers.Optimizer:
    """The optimizer, whose ``apply`` now exchanges the gradients first. Those that are None stay so.

    Args:
        within: makes what exchange and update take place in.
    """
    kind = type(optimizer)

    class Exchanging(kind):  # type: ignore[misc, valid-type]
        def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
            known = [place for place, each in enumerate(grads) if each is not None]
            found = list(grads)
            with within():
                given = [tf.convert_to_tensor(grads[place]) for place in known]
                marks.ready(given)
                taken = list(exchange(given))
                marks.came(taken)
                for place, each in zip(known, taken, strict=True):
                    found[place] = each
                super().apply(found, trainable_variables)

    Exchanging.__name__ = kind.__name__
    optimizer.__class__ = Exchanging
    return optimizer
