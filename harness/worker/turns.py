"""What layers hold in Python while replicas take turns.

tf.distribute traces the replicas of one process in threads that take turns: wherever a replica computes something
together with the others, these are traced up to the same place. They call the same layers, which then hold another
replica's tensors: losses that a call has added, or an output that ``compute_loss`` will use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Mean


def keeping(model: keras.Model, mean: Mean) -> Mean:
    """``mean``, during which the model's layers may change, but not beyond it."""

    def kept(value: Any) -> Any:
        layers = list(model._flatten_layers())
        before = [(dict(vars(layer)), list(layer._losses), set(layer._loss_ids)) for layer in layers]
        found = mean(value)
        for layer, (attributes, losses, ids) in zip(layers, before, strict=True):
            now = vars(layer)
            for name in [each for each in now if _has_tensors(now[each]) or _has_tensors(attributes.get(each))]:
                if name in attributes:
                    now[name] = attributes[name]
                else:
                    del now[name]
            layer._losses[:], layer._loss_ids = losses, ids
        return found

    return kept


def _has_tensors(value: Any) -> bool:
    import tensorflow as tf

    if isinstance(value, dict | list | tuple):
        return any(map(_has_tensors, value.values() if isinstance(value, dict) else value))
    return isinstance(value, tf.Tensor)
