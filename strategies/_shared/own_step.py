"""A model's own ``train_step``, as ``model.fit`` calls it, in place of the step that the strategies share.

Replicas exchange gradients where the model's optimizers apply them, as Horovod's ``DistributedOptimizer`` does.
Source: https://keras.io/guides/custom_train_step_in_tensorflow/; https://horovod.readthedocs.io/en/stable/keras.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .accumulation import Accumulation, Apply, Body, Compute, Steps
from .exchanging import Exchange, exchanging
from .own_optimizers import OwnOptimizers, each
from .turns import kept

if TYPE_CHECKING:
    import keras

    from ..trainer import Batch, Workload

LOSS = "loss"


class OwnStep:
    """The body of a step, for `KerasTrainer`.

    Args:
        optimizer: takes the place of the one that the model was compiled with. `OwnOptimizers` are the model's anyway.
        means: by default there is one replica.
        part: of a batch that this replica computes; by default all of it.

    Attributes:
        update: a step. → the loss, and all values that ``train_step`` returns, in the order of `names`
        names: of these values. Known once a step was traced, as is `loss`.
        loss: the name of the value that is the loss; see `loss_name`.
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
        for one in each(optimizer):
            # Alone, too: gradients are then dense, as those of several replicas are.
            exchanging(one, means or (lambda gradients: gradients), lambda: kept(model))
        if not isinstance(optimizer, OwnOptimizers):
            model.optimizer = optimizer
        self.names: list[str] = []
        self.loss = ""
        self.update: Body = self._update
        self.add: Body | None = None
        self.sums: list[tf.Variable] = []

    def _update(self, batch: Batch) -> tf.Tensor:
        # What train_step returns is of all steps since the last reset.
        for variable in self._model.metrics_variables:
            variable.value.assign(tf.zeros_like(variable.value))
        logs = self._model.train_step(self._workload.step_data(self._part(batch)))
        numbers = _numbers(logs)
        self.names, self.loss = list(numbers), loss_name(numbers)
        if not self.loss:
            raise ValueError(
                f"train_step must return a dictionary with a value that has loss in its name. Received: {_keys(logs)}."
            )
        return tf.stack([numbers[self.loss], *numbers.values()])


def loss_name(names: Iterable[str]) -> str:
    """``loss``, or the first name with this word in it; empty for none."""
    losses = [name for name in names if LOSS in name]
    return LOSS if LOSS in losses else next(iter(losses), "")


def mean_of(logged: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each value, over steps."""
    return {name: sum(each[name] for each in logged) / len(logged) for name in logged[0]} if logged else {}


def _numbers(logs: Any) -> dict[str, tf.Tensor]:
    """The values of one element, by name."""
    if not isinstance(logs, dict):
        return {}
    tensors = {str(name): tf.cast(value, tf.float32) for name, value in logs.items() if not isinstance(value, dict)}
    return {name: tf.reshape(value, ()) for name, value in tensors.items() if value.shape.num_elements() == 1}


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
