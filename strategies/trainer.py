"""What a strategy does inside a task: see `base` for the whole contract.

Everything here holds for any Keras backend: batches and weights are NumPy arrays, and what `Workload` computes it
computes by Keras's operations. TensorFlow stays inside the strategies that are TensorFlow's.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import keras
    import numpy as np

Structure = Any
"""An array, or a tuple, list or dictionary of structures, as in ``keras.tree`` and ``tf.nest``."""

Batch = Structure
"""NumPy arrays whose first axis counts the examples. Only the `Workload` knows which of them is what."""

Tensor = Any
"""Of the Keras backend that is loaded."""

Mean = Callable[[Tensor], Tensor]
"""Scalar → its mean over all replicas. Within a step, every replica calls it as often and in the same order."""


class Workload(Protocol):
    """The work that is the same under every strategy. Built by the harness, used by trainers.

    Attributes:
        empty_batch: a batch without examples, which shows the structure, shapes and types of all batches.
        first_step: that this process takes; later than 0 in a worker that was started again.
        total_steps: of the run.
        whole_batches: whether each global batch has all training examples.
        optimizer_settings: ``name``, the optimizer's class in ``keras.optimizers``, and settings.
        accumulate: steps whose gradients make one update: their mean is exchanged and applied after the last of them.
        jit: whether XLA compiles what computes gradients; only under strategies that can (`Strategy.compiles`). It is
            known once `model` was called, as are `scales_loss` and `own_step`.
        own_step: whether the model has a ``train_step`` of its own, which is to be called.
        delays: by the label of a task that this process slows down on purpose, itself or one that it drives: gives the
            seconds by which a step is to take longer. A strategy asks for them that has `Strategy.delays_parts`.
    """

    replicas: int
    global_batch: int
    empty_batch: Batch
    first_step: int
    total_steps: int
    whole_batches: bool
    cores_per_replica: int
    optimizer_settings: Mapping[str, Any]
    accumulate: int
    jit: bool
    own_step: bool
    delays: Mapping[str, Callable[[], float]]

    def model(self) -> keras.Model:
        """A new model; every call gives the same initial weights."""

    def optimizer(self) -> keras.optimizers.Optimizer:
        """A new Keras optimizer, as `optimizer_settings` says, for the newest model. It does not accumulate.

        For a model whose ``train_step`` uses others, `stratbench.strategies._shared.own_optimizers.OwnOptimizers`.
        """

    @property
    def scales_loss(self) -> bool:
        """Whether `optimizer` scales the loss and expects scaled gradients. Only under strategies that can do so."""

    def scratch(self) -> Path:
        """A folder for the strategy's own files, removed after the run."""

    def workers_left(self) -> list[int]:
        """The workers that still take part: all but those that died and were not started again."""

    def inputs(self, batch: Batch) -> Structure:
        """What the model is called with, of a batch of arrays or tensors: examples as stored, or scaled, in float32."""

    def total_loss(self, model: keras.Model, batch: Batch, mean: Mean | None = None) -> Tensor:
        """Call the model in training. → scalar: its loss over the batch, with regularisers and ``add_loss``, as Keras
        computes it. The mean of several replicas' losses is that of their batches together, if these are of one size.

        Args:
            mean: for losses that are means over what a mask leaves, or over the sum of sample weights. Without it, a
                replica's loss is that of its own batch.
        """

    def fit_arguments(self, batch: Batch) -> tuple[Structure, Structure, Structure | None]:
        """What ``model.fit`` takes for this batch of arrays: x, y, sample_weight."""

    def step_data(self, batch: Batch) -> Structure:
        """What ``fit`` gives to the model's ``train_step`` for this batch of arrays or tensors."""

    def loss(self, batch: Batch, outputs: Structure) -> Tensor:
        """Scalar: of that loss, only what compares outputs with targets, for who calls a model part by part.

        Raises UsageError for a model whose own ``compute_loss`` can't be called so.
        """


class Recorder(Protocol):
    """Records what a library does, for ``--profile``."""

    def start(self, folder: Path) -> None:
        """Record from now on, into files of this folder."""

    def stop(self) -> None:
        """Complete the files."""


@dataclasses.dataclass(frozen=True, slots=True)
class Update:
    """What happened to an update that a worker pushed to shared weights, as counted where the weights are.

    Attributes:
        number: how many updates had been applied before it; of a dropped one, when it was dropped.
        fetched: how many had been applied when this worker fetched the weights that it computed with.
        staleness: updates of other workers applied in between: ``number - fetched`` less the worker's own.
        slowest_clock: the fewest steps that any worker had finished when this one was allowed to continue; None if
            the strategy keeps no clocks.
        blocked_seconds: how long the worker waited for others, at a barrier or at a bound.
        applied: False for an update that came too late.
    """

    number: int
    fetched: int
    staleness: int
    slowest_clock: int | None = None
    blocked_seconds: float = 0.0
    applied: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    """A death that this worker recovered from: with the weights of a checkpoint, or of another worker.

    Attributes:
        update: how many updates these weights have had.
        steps: of this worker whose updates are undone.
        seconds: from the failure that this worker noticed until it continued.
        by_this: whether this worker reports it for all.
    """

    update: int
    steps: int
    seconds: float
    by_this: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Where the seconds of a step went in this process. What is left of the step is the loop's, or not known.

    Attributes:
        computing_seconds: forward and backward pass, and the update.
        communicating_seconds: in which it could not compute, as what it sends or needs was on the way. What is sent
            while it computes does not count.
        waiting_seconds: in which it waited for others, as far as it knows that by itself.
        ready_at: Unix seconds when it was ready for the first exchange of this step, if all workers take part in that;
            else None. The harness compares these moments. What a worker then waited for others is in
            `communicating_seconds` here, and in ``waiting_seconds`` in the table.
    """

    computing_seconds: float
    communicating_seconds: float = 0.0
    waiting_seconds: float = 0.0
    ready_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did in this process.

    Attributes:
        loss: mean training loss over the examples that this process counts; None where it counts none.
        examples: that this process counts. Every example of the global batch is counted by exactly one task: of a
            model that is cut into parts, by the part that knows the loss.
        update: of shared weights; None where updates have only one possible order, or nothing was pushed.
        split: where its seconds went; None if that is not measured.
    """

    loss: float | None
    examples: int
    update: Update | None = None
    split: Split | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the model that a task holds between steps, summed over its own variables.

    Attributes:
        weights_bytes: of weights, trained or not.
        optimizer_bytes: of the optimizer's state, such as momentum.
        transient_bytes: the most that is held in addition within a step, for weights or gradients in transit; None
            where it is not counted.
        activation_bytes: of the outputs of its layers that it keeps for backward passes, at most; None for those of
            the whole model.
    """

    weights_bytes: int
    optimizer_bytes: int
    transient_bytes: int | None = None
    activation_bytes: int | None = None


class Trainer(ABC):
    """A strategy that is connected and ready, inside one worker.

    Attributes:
        rank: of this process among the workers. The first worker that is left reports for the run.
        shards, shard, count: this process reads the parts ``shard … shard + count - 1``, of ``shards``, of every
            global batch. One that computes several replicas, or drives the tasks that do, reads the parts of all.
        memory: what this task holds; None where it is not counted.
        traffic_bytes: what all workers send and receive in one step, where it depends on the model and
            `Strategy.traffic_bytes` can't tell; None elsewhere.
        sparse: paths of the embedding tables whose gradients hold only the rows that a batch looks up.
        finished: whether this worker needs no further step, for example because others have done its work.
        restored: the deaths that it recovered from since `train` last emptied the list.
        notes: what is known before the first step, by the column of the table ``runs`` that it is for.
    """

    rank: int = 0
    shards: int = 1
    shard: int = 0
    count: int = 1
    memory: Memory | None = None
    traffic_bytes: float | None = None
    sparse: Sequence[str] = ()
    finished: bool = False
    restored: Sequence[Restored] = ()
    notes: Mapping[str, str | float] = MappingProxyType({})

    @abstractmethod
    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """One update from this process's view. It is over when this returns.

        Args:
            batch: the examples of its shards as stored, global_batch / shards · count, one shard after the other.
                Fewer, even none, where the last batch of an epoch is kept and the strategy is `uneven`.
            learning_rate: for this update.
        """

    def skipped_updates(self) -> int | None:
        """How many updates were left out because a gradient was not finite; None where the loss is not scaled."""
        return None

    def figures(self) -> Mapping[str, float]:
        """What was measured in all steps, by the column of the table ``runs`` that it is for."""
        return {}

    def settle(self) -> None:
        """After an epoch's last step, off the clock: wait for what others still send, so that it can be counted.

        Every rank calls it at the same steps. By default all has arrived when a step is over.
        """
        return

    def epoch_figures(self) -> Mapping[str, float]:
        """What is measured at the end of an epoch, by the column of the table ``epochs`` that it is for.

        Every rank calls it at the same steps, off the clock.
        """
        return {}

    def logs(self) -> Mapping[str, float]:
        """Mean of what a model's own ``train_step`` returned in the steps since the last call, by name, if any."""
        return {}

    @abstractmethod
    def weights(self) -> list[np.ndarray | None]:
        """A consistent copy, in the order of ``model.weights``. Every rank calls it at the same steps.

        None stands for a weight that this task does not hold. The tasks together give every weight, and the first
        worker gives at least one.
        """


class OwnLoop(Trainer):
    """A trainer whose steps another library's loop runs. The harness takes its word for their times."""

    @abstractmethod
    def epoch(
        self, batches: Iterable[Batch], learning_rates: Sequence[float], note: Callable[[StepResult, float], float]
    ) -> None:
        """Train on these batches, in order.

        Args:
            batches: a sequence if all of them are in memory; else they are read anew at each iteration.
            learning_rates: one a batch.
            note: called after each step, with its result and its seconds. Gives the seconds for which the clock
                rested then, which are no part of the next step.
        """

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """Not by itself."""
        raise NotImplementedError


class Server:
    """What a task yields that takes no steps by itself: it serves the workers until the launcher ends it.

    Attributes:
        memory: what this task holds of the model.
    """

    memory: Memory | None = None

    def serve(self) -> None:
        """Called once, in a thread of its own; an exception ends the run. By default there is nothing to do."""


def examples_of(batch: Batch) -> int:
    """How many examples a batch has."""
    while not hasattr(batch, "shape"):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(batch)
