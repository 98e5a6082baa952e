"""The contract between a strategy, the launcher that starts its tasks and the loop that measures them.

To add a strategy, put a file in this folder that defines one frozen dataclass derived from `Strategy`. Its fields
are the user's options. Files whose name starts with ``_`` hold what several strategies share.
"""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

Address = Callable[[int | None], str]
"""Reserves a TCP port on this host: ``address(None)`` any free one, ``address(2222)`` that one. → ``"host:port"``"""

TASK_VARIABLE = "STRATBENCH_TASK"


@dataclasses.dataclass(frozen=True)
class Task:
    """One OS process of a run: what the launcher needs to start it, here or on another host.

    Attributes:
        role: ``worker`` or ``ps``.
        index: position within its role; a worker's index is also its rank.
        first_replica, replicas: the replicas that this task computes are
            ``first_replica … first_replica + replicas - 1``; 0 replicas for a task that only serves.
        env: variables that the task needs beside the launcher's own environment.
        command: what is put before the worker's command line, such as ``horovodrun -np 2``.
        starts: how many worker processes ``command`` starts, with the indices 0 … starts - 1. They find their own
            index in their environment.
        exit_patterns: where ``command`` starts the workers, the regular expressions that find a worker's end in what
            the command prints: its ``(?P<index>…)`` and either its exit ``(?P<code>…)`` or its ``(?P<signal>…)``.
        attempt: how often this task was started before, and died.
    """

    role: str = "worker"
    index: int = 0
    first_replica: int = 0
    replicas: int = 1
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    command: tuple[str, ...] = ()
    starts: int = 1
    exit_patterns: tuple[str, ...] = ()
    attempt: int = 0

    @property
    def label(self) -> str:
        """``worker-0``: the name of this task in file names, tables and messages."""
        return f"{self.role}-{self.index}"

    def to_json(self) -> str:
        """What the worker process needs to know of itself, for the variable ``STRATBENCH_TASK``.

        Where `command` starts several, each takes its index and its replica from that job's environment instead.
        """
        fields = ("role", "replicas") if self.command else ("role", "replicas", "index", "first_replica", "attempt")
        return json.dumps({name: getattr(self, name) for name in fields})


class Reaction(Enum):
    """What becomes of a run when one of its tasks died."""

    END = "the run ended"
    GO_ON = "the others went on"
    RESTART = "it was started again"


class Workload(Protocol):
    """The work that is the same under every strategy. Built by the harness, used by trainers."""

    replicas: int
    global_batch: int
    first_step: int
    total_steps: int
    cores_per_replica: int
    input_shape: tuple[int, ...]
    input_dtype: str
    optimizer_settings: Mapping[str, Any]

    def model(self) -> keras.Model:
        """A new model; every call gives the same initial weights."""

    def optimizer(self) -> keras.optimizers.Optimizer:
        """A new Keras optimizer, as `optimizer_settings` says."""

    def scratch(self) -> Path:
        """A folder for the strategy's own files, gone with the run."""

    def workers_left(self) -> list[int]:
        """Which workers the run still counts on: all but those that died without being started again."""

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        """Examples as stored → as the model takes them: the same, or scaled as the data set says, in float32."""

    def loss(self, y: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """Scalar: the mean over the examples given. ``y`` int32 (n,), ``predictions`` (n, classes)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Update:
    """What became of what a worker pushed to shared weights, as those who hold them counted it.

    Attributes:
        number: how many updates had been applied before it; of a dropped one, when it was dropped.
        fetched: how many had been applied when this worker fetched the weights that it computed with.
        staleness: updates of others applied in between: ``number - fetched`` less the worker's own.
        slowest_clock: the fewest steps that any worker had ended when this one was let go on; None if nobody counts.
        blocked_seconds: how long the worker waited for others, at a barrier or at a bound.
        applied: False for one that came too late.
    """

    number: int
    fetched: int
    staleness: int
    slowest_clock: int | None = None
    blocked_seconds: float = 0.0
    applied: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    """A death that this worker got over: with the weights of a checkpoint, or of another worker.

    Attributes:
        update: how many updates these weights have had.
        steps: of this worker whose updates are undone.
        seconds: from the failure that told this worker of it until it could go on.
        by_this: whether this worker tells for all.
    """

    update: int
    steps: int
    seconds: float
    by_this: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did, from this process's view.

    Attributes:
        loss: mean training loss over the examples that this process computed.
        examples: how many these were.
        update: what became of what it pushed; None where no order of updates can differ, or nothing was pushed.
    """

    loss: float
    examples: int
    update: Update | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a task holds of the model between steps, added up over its own variables.

    Attributes:
        weights_bytes: of weights, trained or not.
        optimizer_bytes: of the optimizer's state, such as momentum.
        transient_bytes: the most that is held beside these within a step for weights or gradients in transit;
            None where nobody counts.
    """

    weights_bytes: int
    optimizer_bytes: int
    transient_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Traits:
    """What distinguishes a strategy, a few words each, for ``stratbench list strategies``.

    N is the number of replicas, W the bytes of the weights, S those of the optimizer's state.

    Attributes:
        synchronous: whether workers wait for one another.
        consistent: whether all replicas compute with the same weights.
        traffic: what each worker sends and receives in a step.
        memory: what each worker holds of weights and optimizer state.
        failure: what becomes of the run when a worker dies.
    """

    synchronous: str
    consistent: str
    traffic: str
    memory: str
    failure: str


class Trainer(ABC):
    """A strategy connected and ready, inside one worker process.

    Attributes:
        rank: of this process among the workers; rank 0 reports.
        shards, shard, count: this process reads the parts ``shard … shard + count - 1``, of ``shards``, of every
            global batch: one for each replica that it computes.
        memory: what this task holds; None where nobody counts.
        finished: whether the run needs no further step of this worker, as when others have done its work.
        restored: the deaths that it got over and nobody has asked it about yet; `train` empties the list.
    """

    rank: int = 0
    shards: int = 1
    shard: int = 0
    count: int = 1
    memory: Memory | None = None
    finished: bool = False
    restored: Sequence[Restored] = ()

    @abstractmethod
    def step(self, x: np.ndarray, y: np.ndarray, learning_rate: float) -> StepResult:
        """One update from this process's view, over when it returns.

        Args:
            x: examples of its shards as stored, (global_batch / shards · count, …), one shard after the other.
                Fewer, even none, where the last batch of an epoch is kept and the strategy says that it is `uneven`.
            y: class indices, int32, one an example.
            learning_rate: for this update.
        """

    @abstractmethod
    def weights(self) -> list[np.ndarray]:
        """A full, consistent copy, in the order of ``model.weights``. Every rank calls it at the same steps."""


class Server:
    """What a task without replicas yields: it serves until the launcher ends it.

    Attributes:
        memory: what this task holds of the model.
    """

    memory: Memory | None = None

    def serve(self) -> None:
        """Called once, in a thread of its own; an exception ends the run. By default there is nothing to do."""


@dataclasses.dataclass(frozen=True)
class Strategy(ABC):
    """One way to distribute training. Fields are the user's options, each with ``metadata={"help": …}``.

    Attributes:
        synchronous: whether it gives one replica's weights up to rounding, by default options.
        uneven: whether that holds for shards of different sizes too, as those of an incomplete last batch are.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    traits: ClassVar[Traits]
    needs: ClassVar[str] = "nothing beside TensorFlow"
    synchronous: ClassVar[bool] = True
    uneven: ClassVar[bool] = False
    max_replicas: ClassVar[int | None] = None

    def global_batch(self, asked: int, examples: int) -> int:
        """The global batch of a run that was asked for ``asked``, of ``examples`` training examples."""
        return asked

    def traffic_bytes(self, weights_bytes: int, replicas: int) -> float:
        """What all workers together send and receive in one step, by the algorithm: no headers, no control messages.

        Args:
            weights_bytes: of all trained weights, and so of one gradient.
        """
        return 0.0

    def skip(self, replicas: int) -> str | None:
        """Why it can't run here with so many replicas, in one sentence that names the fix; None if it can."""
        return None

    def skip_sharding(self, sharding: str) -> str | None:
        """Why it can't run on data that is shared by ``batch`` or ``static``, naming the fix; None if it can."""
        return None

    def after_death(self, task: Task, left: Sequence[Task], everyone: Sequence[Task]) -> Reaction:
        """What the launcher does when ``task`` died.

        Args:
            left: those of ``everyone`` that neither died nor ended; of the workers, the first saves and evaluates.
        """
        return Reaction.END

    @abstractmethod
    def tasks(self, replicas: int, address: Address) -> list[Task]:
        """The processes that the launcher starts."""

    @abstractmethod
    def trainer(self, task: Task, workload: Workload) -> AbstractContextManager[Trainer | Server]:
        """In the worker: connect, place variables. A `Server` for a task that only serves until it is ended."""


def ring_bytes(weights_bytes: int, replicas: int) -> float:
    """`Strategy.traffic_bytes` of one ring all-reduce: each worker sends 2(N−1)/N of it, and receives as much."""
    return 4.0 * (replicas - 1) * weights_bytes


def option(default: Any, text: str) -> Any:
    """A strategy's option: a dataclass field with its help text."""
    return dataclasses.field(default=default, metadata={"help": text})


def gpus() -> int:
    """NVIDIA GPUs that a task here may use, counted without loading TensorFlow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
    if visible is None:
        return devices
    return min(devices, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))


def skip_for_gpus(replicas: int) -> str | None:
    """The reason not to run where there are GPUs, but fewer than replicas. One replica a GPU, or all on CPUs."""
    count = gpus()
    if 0 < count < replicas:
        return (
            f"{replicas} replicas need {replicas} GPUs and there are {count}; "
            f"ask for at most {count}, or hide the GPUs with CUDA_VISIBLE_DEVICES=''"
        )
    return None
