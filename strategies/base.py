"""The contract between a strategy, the launcher that starts its tasks and the loop that measures them.

To add a strategy, put a file in this folder, or in its family's, that defines one frozen dataclass derived from
`Strategy`. Its fields are the user's options. Files and folders whose name starts with ``_`` hold what several share.

A strategy answers three questions: can it run here (`Strategy.skip`), which processes does it need
(`Strategy.tasks`), and what does each of them do (`Strategy.trainer`)? A process of the role ``worker`` yields a
`Trainer`, which the measured loop calls step by step. Any other one yields a `Server`, which serves until the run ends.
`trainer` has what is used inside a task.

The contract holds for data parallelism and for what is not:

- **Batches** are structures of arrays, with the examples along the first axis. A strategy slices, sends and counts them
  without knowing what they mean. `Workload.total_loss` calls the model with what it needs of a batch, and Keras
  computes the loss. So a model may have any inputs, outputs and targets.
- **The loss** is known where the last layer is. A task that has other layers reports None, and counts no examples: each
  example is counted by one task, so that rates and losses of tasks can be added up. Accuracy and other metrics are
  computed after training, from the weights, so no strategy reports them.
- **Weights and the optimizer's state** may be spread over tasks. `Trainer.weights` leaves out what another task holds,
  and the evaluation puts the parts together. `Memory` is a task's own share.
- **One client may drive other tasks**, as a session does TensorFlow's servers. It is a worker that reads the shards of
  all; the tasks that compute for it are `Server` tasks of another role with replicas, which gives them cores.
- **Hosts**: a `Task` names the host that it runs on. `Place` tells a strategy which hosts there are, and reserves its
  ports there. Today the launcher starts tasks on this machine only.
- **The Keras backend** is the strategy's (`Strategy.backend`). Arrays cross the contract, and the workload computes by
  Keras's operations, so that only TensorFlow's own strategies use TensorFlow. One seed gives other initial weights on
  each backend.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from .trainer import Recorder, Server, Trainer, Workload
from .transport import Exchange, Group, Transport

if TYPE_CHECKING:
    import keras

TASK_VARIABLE = "STRATBENCH_TASK"
THIS_HOST = "127.0.0.1"
FAMILIES = {
    "baselines": "one replica",
    "data parallel": "replicas wait for one another in every step",
    "relaxed": "replicas wait now and then, or never",
    "cut": "the model's layers are spread over tasks",
    "reductions": "one all-reduce, by the algorithm of your choice",
    "tf.distribute": "TensorFlow's own strategies",
}
CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")
"""Settings of Keras's optimizers, of which one at most is set."""


class Place(Protocol):
    """Where the launcher can start tasks."""

    def host(self, replica: int) -> str:
        """Name or address of the host that computes a replica. Tasks without replicas go where replica 0 is."""

    def address(self, host: str, port: int | None = None) -> str:
        """Reserve a TCP port on a host, any free one by default. → ``"host:port"``"""


@dataclasses.dataclass(frozen=True)
class Task:
    """One OS process of a run: what the launcher needs to start it, here or on another host.

    Attributes:
        role: ``worker`` for a task that takes steps and ends by itself. Another one, such as ``ps``, serves the workers
            until the launcher ends it.
        index: position within its role; a worker's index is also its rank.
        host: that it runs on.
        first_replica, replicas: the replicas that this task computes are
            ``first_replica … first_replica + replicas - 1``. It gets their cores, with 0 replicas those of all.
        env: variables that the task needs in addition to the launcher's own environment.
        command: what is put before the worker's command line, such as ``horovodrun -np 2``.
        starts: how many worker processes ``command`` starts, with the indices 0 … starts - 1. They find their own
            index in their environment.
        exit_patterns: where ``command`` starts the workers, the regular expressions that find a worker's end in what
            the command prints: its ``(?P<index>…)`` and either its exit ``(?P<code>…)`` or its ``(?P<signal>…)``.
        attempt: how often this task was started before, and died.
    """

    role: str = "worker"
    index: int = 0
    host: str = THIS_HOST
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

    @property
    def serves(self) -> bool:
        """Whether it takes no steps, and does not end by itself."""
        return self.role != "worker"

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


@dataclasses.dataclass(frozen=True)
class Strategy(ABC):
    """One way to distribute training. Fields are the user's options, each with ``metadata={"help": …}``.

    Attributes:
        family: one of `FAMILIES`, by its default options.
        good_for: when to take it, in a few words.
        fixed_batch: whether all batches must be of one size, also with one replica.
        synchronous: whether it gives one replica's weights up to rounding, by default options.
        uneven: whether that holds for shards of different sizes too, as those of an incomplete last batch are.
        backend: of Keras, that its tasks load.
        max_replicas: the most that it can have; None where there is no limit.
        own_loop: whether its trainer is an `OwnLoop`. Faults can't be injected into its steps.
        keras_loop: whether that is Keras's, which divides the loss by the number of replicas, and compiles by itself.
        together: how many steps are one call of TensorFlow, and so have equal times.
        joins_jobs: whether its workers may be the processes of a job that ``horovodrun`` or ``mpirun`` started.
        compiles: whether XLA can compile what computes its gradients.
        runs_own_steps: whether it can call a model's own ``train_step`` (`Workload.own_step`).
        tries_models: whether `skip_model` may have something to say of the models that come along, too.
        synchronizes: whether what layers reduce over replicas is over all, as ``synchronized=True`` of a normalisation.
        new_models: whether the model must be made when it asks for it, as within a scope of tf.distribute.
        transports: references, with options, of its all-reduces that `transport` gives by themselves; none if it has
            none.
        delays_parts: whether its trainer slows down on purpose what `Workload.delays` says, rather than the workload.

    What of these is otherwise by some option may be set anew in ``__post_init__``, for that object.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    family: ClassVar[str]
    good_for: ClassVar[str]
    traits: ClassVar[Traits]
    needs: ClassVar[str] = "nothing beside TensorFlow"
    synchronous: ClassVar[bool] = True
    uneven: ClassVar[bool] = False
    max_replicas: ClassVar[int | None] = None
    backend: ClassVar[Literal["tensorflow", "jax"]] = "tensorflow"
    own_loop: ClassVar[bool] = False
    keras_loop: ClassVar[bool] = False
    together: ClassVar[int] = 1
    joins_jobs: ClassVar[bool] = False
    compiles: ClassVar[bool] = False
    runs_own_steps: ClassVar[bool] = False
    delays_parts: ClassVar[bool] = False
    synchronizes: ClassVar[bool] = False
    new_models: ClassVar[bool] = False
    tries_models: ClassVar[bool] = False
    transports: ClassVar[tuple[str, ...]] = ()
    fixed_batch: ClassVar[bool] = False

    def global_batch(self, asked: int, examples: int) -> int:
        """The global batch of a run. The user asked for ``asked``, and there are ``examples`` training examples."""
        return asked

    @property
    def own_optimizer(self) -> str:
        """What updates the weights in place of the run's optimizer, rate and schedule, in words; empty if they do."""
        return ""

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """What all workers together send and receive in one step, by the algorithm: no headers, no control messages.

        Args:
            weights_bytes: of all trained weights, and so of one gradient.
            accumulate: steps whose gradients make one update. A step counts for its part of it.
        """
        return 0.0

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """What a step exchanges, for ``stratbench predict``; None if no formula of this kind tells it."""
        return None

    def reduced(self, accumulate: int = 1) -> float:
        """The bytes that a step all-reduces, by whatever algorithm, divided by those of the trained weights.

        0 if what it exchanges is no sum or mean over all.
        """
        return 0.0

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Why a run with this optimizer would not be what it is elsewhere, in one sentence that names the fix.

        Args:
            settings: ``name``, its class in ``keras.optimizers``, and settings.
            accumulate: steps whose gradients make one update.
        """
        return None

    def divides(self, replicas: int) -> bool:
        """Whether an update is by the mean of several losses, each of a part of the batch. Not all models allow it."""
        return replicas > 1

    def skip_normaliser(self) -> str | None:
        """Why it can't train a loss for which `Workload.total_loss` needs the mean over all replicas; None if it can.

        By options where each replica's update is its own anyway, it can.
        """
        return None

    def skip_loss_scaling(self) -> str | None:
        """Why it can't train with a scaled loss, as float16 needs it, naming the fix; None if it can."""
        return f"{self.name} has no loss scaling, which float16 needs; use --precision mixed_bfloat16 or float32"

    def skip(self, replicas: int) -> str | None:
        """Why it can't run here with so many replicas, in one sentence that names the fix; None if it can."""
        return None

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """Why it can't distribute this model, in one sentence that names the fix; None if it can.

        Called in a process that has loaded Keras, before anything runs.
        """
        return None

    def skip_batch(self, global_batch: int, replicas: int) -> str | None:
        """Why it can't divide this global batch, in one sentence that names the fix; None if it can."""
        return None

    def skip_sharding(self, sharding: str) -> str | None:
        """Why it can't run on data that is shared by ``batch`` or ``static``, naming the fix; None if it can."""
        return None

    def after_death(self, task: Task, left: Sequence[Task], everyone: Sequence[Task]) -> Reaction:
        """What the launcher does when ``task`` died.

        Args:
            left: the tasks of ``everyone`` that neither died nor ended. The first worker of these saves and evaluates.
        """
        return Reaction.END

    @abstractmethod
    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The processes that the launcher starts."""

    @abstractmethod
    def trainer(self, task: Task, workload: Workload) -> AbstractContextManager[Trainer | Server]:
        """In the task's process: connect and place variables. A `Server` for a task that `serves`."""

    def recorders(self) -> Sequence[Recorder]:
        """In the task's process, before `trainer`: what records the strategy's own library in a run with a profile."""
        return ()

    def rounds(self, replicas: int) -> int | None:
        """Messages of one all-reduce of which each waits for the one before, by the algorithm; None if not known."""
        return None

    def skip_transport(self) -> str | None:
        """Why its all-reduce can't be measured with these options, naming the fix; None if it can."""
        return None

    def transport(self, task: Task, group: Group) -> AbstractContextManager[Transport | Server]:
        """In the task's process: connect, but build no model. For a strategy that has `transports`."""
        raise NotImplementedError


def option(default: Any, text: str) -> Any:
    """A strategy's option: a dataclass field with its help text."""
    return dataclasses.field(default=default, metadata={"help": text})


def ring_bytes(weights_bytes: int, replicas: int) -> float:
    """`Strategy.traffic_bytes` of one ring all-reduce: each worker sends 2(N−1)/N of it, and receives as much."""
    return 4.0 * (replicas - 1) * weights_bytes
