"""A model's own ``train_step``, as ``model.fit`` calls it, in place of the step that the strategies share.

Replicas exchange gradients where the model's optimizer applies them, as Horovod's ``DistributedOptimizer`` does.
Source: https://keras.io/guides/custom_train_step_in_tensorflow/; https://horovod.readthedocs.io/en/stable/keras.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .accumulation import Accumulation, Apply, Body, Compute, Steps
from .exchanging import Exchange, exchanging

if TYPE_CHECKING:
    import keras

    from ..trainer import Batch, Workload


class OwnStep:
    """The body of a step, for `KerasTrainer`.

    Args:
        optimizer: takes the place of the one that the model was compiled with.
        means: by default there is one replica.
        part: of a batch that this replica computes; by default all of it.

    Attributes:
        update: a step.
        add, sums: as of `Accumulation`, which is not possible here.
    """

    def __init__(
        self,
        workload: Workload,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        means: Exchange | None = None,
        part: Callable[[Batch], Batch] = lambda batch: batch,
    ):
        self._workload, self._model, self._part = workload, model, part
        model.optimizer = exchanging(optimizer, means) if means else optimizer
        if tf.distribute.has_strategy():
            # As in fit: replicas can't create the metrics' variables within their step.
            one = tf.nest.map_structure(lambda each: np.zeros((1, *each.shape[1:]), each.dtype), workload.empty_batch)
            model._maybe_symbolic_build(data_batch=self._data(one))
        self.update: Body = self._update
        self.add: Body | None = None
        self.sums: list[tf.Variable] = []

    def _data(self, batch: Batch) -> Any:
        """As fit gives it to ``train_step``."""
        import keras

        _, y, weights = self._workload.fit_arguments(batch)
        return keras.utils.pack_x_y_sample_weight(self._workload.inputs(batch), y, weights)

    def _update(self, batch: Batch) -> tf.Tensor:
        # What train_step returns is of all steps since the last reset.
        for variable in self._model.metrics_variables:
            variable.value.assign(tf.zeros_like(variable.value))
        logs = self._model.train_step(self._data(self._part(batch)))
        if not isinstance(logs, dict) or "loss" not in logs:
            raise ValueError(f"train_step must return a dictionary with the key 'loss'. Received: {_keys(logs)}.")
        return tf.reshape(tf.cast(logs["loss"], tf.float32), ())


def _keys(logs: Any) -> str:
    return ", ".join(map(str, logs)) or "an empty one" if isinstance(logs, dict) else type(logs).__name__


def steps_of(
    workload: Workload,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    compute: Compute,
    apply: Apply | None = None,
    means: Exchange | None = None,
    part: Callable[[Batch], Batch] = lambda batch: batch,
) -> Steps:
    """The model's own steps if the workload says so, and else those of ``compute`` and ``apply``, accumulated.

    Args:
        apply: by default what the optimizer does.
        means, part: for the model's own steps; see `OwnStep`.
    """
    if workload.own_step:
        return OwnStep(workload, model, optimizer, means, part)
    trained = model.trainable_variables
    return Accumulation(workload.accumulate, trained, compute, apply or (lambda g: optimizer.apply(g, trained)))
