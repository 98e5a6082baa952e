"""Keras's own ``model.fit``: the baseline that users have.

θ ← θ − η·g, as `single`, in Keras's loop. Beside the step, it computes the compiled metrics of every batch. It is
called once an epoch, without shuffling, so that it trains on the same batches as all others: with that epoch's examples
as arrays or, if they are too large to be kept in memory, with a ``tf.data.Dataset`` of batches, which are made ready
ahead. What a call takes before its first step and after its last one is not in any step.
``distribute=mirrored`` calls it in the scope of ``tf.distribute.MirroredStrategy``, as Keras's guide does. Keras then
divides its losses by the number of replicas and sums their gradients, g = (1/N) Σ g_i.
Source: https://keras.io/api/models/model_training_apis/; https://keras.io/guides/distributed_training_with_tensorflow/

Limits: examples that are kept in memory are there twice. The loss of a step is computed from Keras's mean over the
epoch so far, so it is less exact. Waiting for data is not measured, and is in computing. If the loss is scaled and
gradients are accumulated, Keras leaves out a step whose gradients are not finite, and `single` the whole update. With
``distribute=mirrored`` Keras clips and checks each replica's gradient before the sum, takes the mean of masks by
replica, and does not divide the loss of a model's own ``compute_loss``: such runs are skipped or fail, with the reason.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from ...errors import RunError
from .._shared.devices import replica_devices, skip_for_gpus
from ..base import CLIPPING, Place, Strategy, Task, Traits, option
from ..trainer import Batch, Memory, OwnLoop, Split, StepResult, Trainer, Workload

if TYPE_CHECKING:
    import keras
    import numpy as np

Note = Callable[[StepResult, float], float]


@dataclasses.dataclass(frozen=True)
class Fit(Strategy):
    """Keras's loop."""

    name = "fit"
    summary = "Keras's own model.fit, one process: what single, or mirrored, is to be compared with"
    family = "baselines"
    good_for = "knowing what a script with model.fit does today"
    traits = Traits("–", "yes", "none", "W + S", "the run ends")
    uneven = True
    own_loop = True
    keras_loop = True
    synchronizes = True
    max_replicas = 1
    compiles = True
    runs_own_steps = True

    distribute: Literal["none", "mirrored"] = option("none", "one replica, or N under tf.distribute.MirroredStrategy")

    def __post_init__(self) -> None:
        """What holds by default does not with several replicas."""
        if self._mirrored:
            of_class = {"max_replicas": None, "compiles": False, "runs_own_steps": False, "uneven": False}
            for name, value in of_class.items():
                object.__setattr__(self, name, value)

    @property
    def _mirrored(self) -> bool:
        return self.distribute == "mirrored"

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any."""
        return skip_for_gpus(replicas) if self._mirrored else None

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Keras's optimizers clip and accumulate by replica."""
        if self._mirrored and accumulate > 1:
            return "Keras does not accumulate gradients under tf.distribute; leave --accumulate out, or use mirrored"
        if self._mirrored and any(settings.get(key) for key in CLIPPING):
            return "under tf.distribute, Keras clips each replica's gradient instead of their mean; use mirrored"
        return None

    def skip_normaliser(self) -> str | None:
        """Keras divides by each replica's own count."""
        return "under tf.distribute, Keras takes the mean over each replica's own mask; use mirrored"

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it; of several replicas, each checks its own gradients."""
        apart = "under tf.distribute, Keras checks each replica's gradient by itself; use mirrored"
        return apart if self._mirrored else None

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker, that computes all replicas."""
        return [Task(host=place.host(0), replicas=replicas)]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The compiled model, with the run's optimizer."""
        from .._shared.own_optimizers import OwnOptimizers
        from .._shared.replica import size_bytes, use_gpu
        from .._shared.threads import set_threads

        set_threads(task.replicas, workload.cores_per_replica)
        if not self._mirrored:
            use_gpu(0)
        with self._scope(task.replicas):
            model, optimizer = workload.model(), workload.optimizer()
            if workload.accumulate > 1:
                inner = getattr(optimizer, "inner_optimizer", optimizer)
                inner.gradient_accumulation_steps = workload.accumulate
            optimizer.build(model.trainable_variables)
        if task.replicas > 1:
            _check(model)
        model.jit_compile = workload.jit
        model.steps_per_execution, model.run_eagerly = 1, False
        if not isinstance(optimizer, OwnOptimizers):
            model.optimizer = optimizer
        sizes = [task.replicas * size_bytes(each.variables) for each in (model, optimizer)]
        yield FitTrainer(model, optimizer, workload, Memory(*sizes), task.replicas)

    def _scope(self, replicas: int) -> AbstractContextManager[Any]:
        if not self._mirrored:
            return nullcontext()
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(replica_devices(replicas)).scope()


def _check(model: keras.Model) -> None:
    """Raises RunError for a model whose loss Keras would not divide by the number of replicas."""
    import keras

    if type(model).compute_loss is not keras.Model.compute_loss:
        raise RunError(
            "under tf.distribute, Keras does not divide the loss of a model's own compute_loss by the number of "
            "replicas, and so sums their gradients; use mirrored"
        )


class FitTrainer(OwnLoop):
    """Calls ``fit``, and notes what its callbacks tell."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        workload: Workload,
        memory: Memory,
        replicas: int,
    ):
        self._model, self._optimizer, self._workload, self.memory = model, optimizer, workload, memory
        self._logged: list[Mapping[str, float]] | None = [] if workload.own_step else None
        self.shards = self.count = replicas
        self._known = replicas == 1
        self._steps = 0
        self.sparse = [variable.path for variable in model.trainable_variables]

    def epoch(self, batches: Iterable[Batch], learning_rates: Sequence[float], note: Note) -> None:
        """See `OwnLoop.epoch`."""
        from .._shared import fit_data

        examples: dict[int, int] = {}
        if isinstance(batches, Sequence):
            data = fit_data.arrays(self._workload, batches, examples)
        else:
            data = fit_data.stream(self._workload, batches, examples, len(learning_rates))
        steps = _steps(self._optimizer, examples, learning_rates, note, self._logged, self._known)
        self._model.fit(**data, shuffle=False, verbose=0, callbacks=[steps])
        self._steps += len(learning_rates)

    def logs(self) -> Mapping[str, float]:
        """See `Trainer.logs`."""
        from .._shared.own_step import mean_of

        found = mean_of(self._logged or [])
        if self._logged:
            self._logged.clear()
        return found

    def skipped_updates(self) -> int | None:
        """See `Trainer.skipped_updates`."""
        from .._shared.replica import skipped_updates

        return skipped_updates(self._workload, self._model.optimizer, self._steps)

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self._model.get_weights()


def _steps(
    optimizer: keras.optimizers.Optimizer,
    examples: Mapping[int, int],
    learning_rates: Sequence[float],
    note: Note,
    logged: list[Mapping[str, float]] | None,
    known: bool,
) -> keras.callbacks.Callback:
    """Sets the learning rate before each step, and notes its time and loss after it.

    Args:
        known: whether nothing is exchanged in Keras's call of a step, so that all of it is computing.
        logged: gets what each call of the model's own ``train_step`` returned; None for Keras's.
    """
    import keras

    from .._shared.own_step import loss_name

    class Steps(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._begin, self._seen, self._sum, self._rate = 0.0, 0, 0.0, 0.0
            self._called = 0.0

        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self._begin = self._begin or time.perf_counter()
            if learning_rates[batch] != self._rate:
                self._rate = learning_rates[batch]
                optimizer.learning_rate.assign(self._rate)
            if logged is not None:
                # It may return means since the last reset, or values of its own: now both are of this step.
                self.model.reset_metrics()
            self._called = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            now, before = time.perf_counter(), self._sum
            self._seen += examples[batch]
            values = {name: float(value) for name, value in (logs or {}).items()}
            loss = values[loss_name(values)]
            if logged is None:
                self._sum = loss * self._seen
                loss = (self._sum - before) / examples[batch]
            else:
                logged.append(values)
            split = Split(now - self._called) if known else None
            self._begin = now + note(StepResult(loss, examples[batch], split=split), now - self._begin)

    return Steps()
