"""Shared by the strategies that call a Keras model in a graph of TensorFlow 1, whose variables other tasks hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from ...errors import RunError
from ..trainer import Batch, Workload
from .clip import unclipped
from .keras_rule import KerasRule
from .update_rules import has_kernel


def placeholders(workload: Workload, examples: int | None) -> Batch:
    """A batch of so many examples, or of any number, to be fed."""
    return tf.nest.map_structure(
        lambda like: tf.compat.v1.placeholder(like.dtype, (examples, *like.shape[1:])), workload.empty_batch
    )


def keep_constants(model: keras.Model) -> None:
    """Turn tensors that layers and regularisers have as attributes, as `Normalization` its mean, into arrays.

    A graph takes arrays, but no tensors that were made outside of it.
    """
    layers = list(model._flatten_layers())
    held = [value for layer in layers for value in vars(layer).values()]
    held += [getattr(variable, "regularizer", None) for variable in model.variables]
    for each in (*layers, *[value for value in held if isinstance(value, keras.regularizers.Regularizer)]):
        for name, value in list(vars(each).items()):
            if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
                setattr(each, name, value.numpy())


def rule_of(workload: Workload, weight: keras.Variable) -> KerasRule | None:
    """The update of a trained weight, if no kernel computes it. Call it outside of a graph.

    No kernel applies a weight's constraint.
    """
    if has_kernel(workload.optimizer_settings) and weight.constraint is None:
        return None
    return KerasRule(unclipped(workload.optimizer()), weight)


@contextmanager
def explained() -> Iterator[None]:
    """Around a call of the model. Raises RunError, which names the fix, for what only works outside of a graph."""
    try:
        yield
    except RuntimeError as error:
        if "EagerTensor" not in str(error):
            raise
        raise RunError(
            "the model uses a tensor or a lookup table that was made before, which a graph over several tasks can't; "
            "keep a tensor as a NumPy array or as a weight, and look text up before training"
        ) from error
