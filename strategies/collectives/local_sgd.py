"""Periodic model averaging: each process trains alone, and every τ steps all take the mean of their weights.

θ_i ← θ_i − η·g_i(θ_i) on every process i; after each τ-th step θ_i ← (1/N) Σ θ_j by one grouped all-reduce.
``period=1`` is parallel SGD for plain SGD, as the mean of the steps is the step of the mean, and for momentum if that
is averaged as well. ``period=end`` is one-shot averaging, after the last step only.
Source: Zinkevich et al., *Parallelized Stochastic Gradient Descent*, NIPS 2010 (one-shot); Zhang et al., *Parallel SGD:
When does averaging help?*, 2016; Stich, *Local SGD Converges Fast and Communicates Little*, ICLR 2019.

Limits: the state of other optimizers, such as Adam's, is averaged or kept, but no period gives the weights of one
replica. Weights evaluated between two averagings are the mean at that step, which no process trains with. Averaging for
them is not in the steps' time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from ..base import Task, Traits, option, ring_bytes
from ..trainer import Batch, StepResult, Trainer, Workload
from ..transport import Exchange, ring_exchange
from ._collective import Collective, replicate, weights_with

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from .._shared.replica import KerasTrainer


@dataclasses.dataclass(frozen=True)
class LocalSgd(Collective):
    """One process a replica, on its own between two averagings."""

    name = "local-sgd"
    summary = "local SGD: every process trains alone, weights are averaged every period steps (Horovod's collectives)"
    family = "relaxed"
    good_for = "a slow network: it exchanges weights once in some steps"
    synchronous = False
    compiles = True
    runs_own_steps = True
    traits = Traits("every τ steps", "after averaging", "2(N−1)/N·W/τ each way", "W + S", "the run ends")

    period: Annotated[int, Ge(1)] | Literal["end"] = option(
        10, "steps τ from one averaging to the next; end averages once, after the last"
    )
    average_momentum: bool = option(False, "average the optimizer's state too, such as momentum")

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """One ring all-reduce every τ steps. A trainer knows how many that are in a run, and what else is averaged."""
        return 0.0 if self.period == "end" else ring_bytes(weights_bytes, replicas) / self.period

    def reduced(self, accumulate: int = 1) -> float:
        """The weights, every so many steps."""
        return 0.0 if self.period == "end" else 1 / self.period

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """One ring all-reduce of the weights every so many steps."""
        return Exchange(0.0, 0.0) if self.period == "end" else ring_exchange(replicas).scaled(1 / self.period)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Two ``tf.function``: the local step, and the averaging."""
        with self.joined(workload) as hvd:
            import tensorflow as tf

            from .._shared.own_step import steps_of
            from .._shared.replica import KerasTrainer, loss_and_gradients, size_bytes

            model, optimizer = replicate(hvd, workload)
            averaged = [v.value for v in model.weights if v.value.dtype.is_floating]
            if self.average_momentum:
                averaged += [v.value for v in _state(optimizer)]

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                return loss_and_gradients(workload, model, batch)

            @tf.function(autograph=False)
            def means() -> list[tf.Tensor]:
                return hvd.grouped_allreduce(averaged, op=hvd.Average)

            steps = steps_of(workload, model, optimizer, compute)
            local = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            period = workload.total_steps if self.period == "end" else self.period
            # Traced now: the first averaging comes after the warm-up steps, so its tracing would be measured.
            trainer = LocalTrainer(local, averaged, means.get_concrete_function(), period)
            averagings = workload.total_steps // period
            trainer.traffic_bytes = ring_bytes(size_bytes(averaged), hvd.size()) * averagings / workload.total_steps
            yield trainer


class LocalTrainer(Trainer):
    """Steps of ``local``; the mean of ``averaged`` over all processes, by ``means``, after each ``period`` of them."""

    def __init__(
        self, local: KerasTrainer, averaged: list[tf.Variable], means: Callable[[], list[tf.Tensor]], period: int
    ):
        self.rank, self.shard, self.shards = local.rank, local.shard, local.shards
        self.memory = local.memory
        self._local = local
        self._averaged = averaged
        self._means = means
        self._period = period
        self._steps = 0

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`. The averaging belongs to the step that it follows."""
        result = self._local.step(batch, learning_rate)
        self._steps += 1
        if self._steps % self._period:
            return result
        ready = time.time()
        means = self._means()
        seconds = time.time() - ready
        for variable, mean in zip(self._averaged, means, strict=True):
            variable.assign(mean)
        split = result.split and dataclasses.replace(result.split, communicating_seconds=seconds, ready_at=ready)
        return dataclasses.replace(result, split=split)

    def logs(self) -> Mapping[str, float]:
        """See `Trainer.logs`."""
        return self._local.logs()

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`: the mean over all processes. Between two averagings no process trains with it."""
        if self._steps % self._period == 0:
            return self._local.weights()
        return weights_with(self._local.model, self._averaged, self._means())


def _state(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Momentum and similar state. The learning rate and the step count are variables too, and equal on all ranks."""
    return [v for v in optimizer.variables if v.value.dtype.is_floating and v is not optimizer.learning_rate]
