"""Keras's own ``model.fit`` on one device: the baseline that users have.

θ ← θ − η·g, as `single`, in Keras's loop. Beside the step, it computes the compiled metrics of every batch. It is
called once an epoch, with that epoch's examples as arrays and without shuffling, so that it trains on the same batches
as all others. What a call takes before its first step and after its last one is not in any step.
Source: https://keras.io/api/models/model_training_apis/

Limits: an epoch's examples are in memory, twice. The loss of a step is computed from Keras's mean over the epoch so
far, so it is less exact. Waiting for data is not measured. If the loss is scaled and gradients are accumulated, Keras
leaves out a step whose gradients are not finite, and `single` the whole update.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .base import Place, Strategy, Task, Traits
from .trainer import Batch, Memory, OwnLoop, StepResult, Trainer, Workload, examples_of

if TYPE_CHECKING:
    import keras
    import numpy as np

Note = Callable[[StepResult, float], None]


@dataclasses.dataclass(frozen=True)
class Fit(Strategy):
    """No distribution, in Keras's loop."""

    name = "fit"
    summary = "Keras's own model.fit, one replica, one process: what single is to be compared with"
    traits = Traits("–", "yes", "none", "W + S", "the run ends")
    uneven = True
    own_loop = True
    max_replicas = 1
    compiles = True
    runs_own_steps = True

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker."""
        return [Task(host=place.host(0))]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The compiled model, with the run's optimizer."""
        from ._shared.replica import set_threads, size_bytes, use_gpu

        set_threads(1, workload.cores_per_replica)
        use_gpu(0)
        model, optimizer = workload.model(), workload.optimizer()
        if workload.accumulate > 1:
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            inner.gradient_accumulation_steps = workload.accumulate
        model.jit_compile = workload.jit
        model.steps_per_execution, model.run_eagerly = 1, False
        optimizer.build(model.trainable_variables)
        model.optimizer = optimizer
        memory = Memory(size_bytes(model.variables), size_bytes(optimizer.variables))
        yield FitTrainer(model, workload, memory)


class FitTrainer(OwnLoop):
    """Calls ``fit``, and notes what its callbacks tell."""

    def __init__(self, model: keras.Model, workload: Workload, memory: Memory):
        self._model, self._workload, self.memory = model, workload, memory
        self._steps = 0
        self.sparse = [variable.path for variable in model.trainable_variables]

    def epoch(self, batches: Sequence[Batch], learning_rates: Sequence[float], note: Note) -> None:
        """See `OwnLoop.epoch`."""
        import keras
        import numpy as np

        whole = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *batches)
        given = self._workload.fit_arguments(whole)
        x, y, weights = (None if each is None else keras.tree.map_structure(np.asarray, each) for each in given)
        self._model.fit(
            x,
            y,
            sample_weight=weights,
            batch_size=self._workload.global_batch,
            shuffle=False,
            verbose=0,
            callbacks=[_steps(list(map(examples_of, batches)), learning_rates, note)],
        )
        self._steps += len(batches)

    def skipped_updates(self) -> int | None:
        """See `Trainer.skipped_updates`."""
        from ._shared.replica import skipped_updates

        return skipped_updates(self._workload, self._model.optimizer, self._steps)

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self._model.get_weights()


def _steps(examples: Sequence[int], learning_rates: Sequence[float], note: Note) -> keras.callbacks.Callback:
    """Sets the learning rate before each step, and notes its time and loss after it."""
    import keras

    class Steps(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._begin, self._seen, self._sum, self._rate = 0.0, 0, 0.0, 0.0

        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self._begin = self._begin or time.perf_counter()
            if learning_rates[batch] != self._rate:
                self._rate = learning_rates[batch]
                self.model.optimizer.learning_rate.assign(self._rate)

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            now, before = time.perf_counter(), self._sum
            self._seen += examples[batch]
            self._sum = float((logs or {})["loss"]) * self._seen
            note(StepResult((self._sum - before) / examples[batch], examples[batch]), now - self._begin)
            self._begin = now

    return Steps()
