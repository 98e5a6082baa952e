"""What layers hold in Python while replicas take turns.

tf.distribute traces the replicas of one process in threads that take turns: wherever a replica computes something
together with the others, these are traced up to the same place. They call the same layers, which then hold another
replica's tensors: losses that a call has added, or an output that ``compute_loss`` will use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from ..trainer import Mean


@contextmanager
def kept(model: keras.Model) -> Iterator[None]:
    """Around what lets other replicas go on: the model's layers then hold the same tensors as before."""
    layers = list(model._flatten_layers())
    before = [(dict(vars(layer)), list(layer._losses), set(layer._loss_ids)) for layer in layers]
    yield
    for layer, (attributes, losses, ids) in zip(layers, before, strict=True):
        now = vars(layer)
        for name in [each for each in now if _has_tensors(now[each]) or _has_tensors(attributes.get(each))]:
            if name in attributes:
                now[name] = attributes[name]
            else:
                del now[name]
        layer._losses[:], layer._loss_ids = losses, ids


def keeping(model: keras.Model, mean: Mean) -> Mean:
    """``mean``, around which the layers are `kept`."""

    def alone(value: Any) -> Any:
        with kept(model):
            return mean(value)

    return alone


def _has_tensors(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(_has_tensors, value.values() if isinstance(value, dict) else value))
    return isinstance(value, tf.Tensor)
