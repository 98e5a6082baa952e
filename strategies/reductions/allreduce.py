"""Data parallelism whose all-reduce is written out in messages, by one of six algorithms.

g = (1/N) Σ g_i, after the backward pass and in one vector; every process applies the same update. What the other
strategies leave to a library can be read here, in ``_algorithms.py``. With S the bytes of the gradients:

- ``ring``: 2(N−1) rounds of S/N.
- ``tree``: up a binomial tree and down again, 2⌈log₂ N⌉ rounds of S.
- ``butterfly``: recursive doubling, log₂ N rounds of S.
- ``rabenseifner``: recursive halving, then doubling: 2 log₂ N rounds, 2(N−1)/N·S.
- ``central``: rank 0 receives, adds up and sends, 2(N−1) rounds of S.
- ``shared-memory``: on one host. Messages only tell when to go on.

Where N is no power of two, butterfly and rabenseifner take two rounds more.
Source: Thakur, Rabenseifner & Gropp, *Optimization of Collective Communication Operations in MPICH*, International
Journal of High Performance Computing Applications 19(1), 2005.

Limits: nothing is sent before the backward pass has ended. Additions are NumPy's, in one thread. The connections are
TCP, neither encrypted nor authenticated; they listen at the workers' own addresses.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from .._shared.devices import skip_for_gpus
from .._shared.messages import PEERS_VARIABLE, connected
from ..base import Place, Strategy, Task, Traits, option
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange, Group, Transport
from ._algorithms import BESIDE, EXPECTED, LONGEST, barrier, broadcast

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class AllReduce(Strategy):
    """One process a replica, and a TCP connection between each two."""

    name = "allreduce"
    summary = (
        "all-reduce in messages that can be read here: ring, tree, butterfly, rabenseifner, central, shared-memory"
    )
    family = "reductions"
    good_for = "seeing what an all-reduce does, and which algorithm suits a size and a network"
    needs = "one free TCP port a replica"
    traits = Traits("yes", "yes", "ring: 2(N−1)/N·W each way", "W + S, and 2W to 4W in transit", "the run ends")
    compiles = True
    runs_own_steps = True
    transports = tuple(f"allreduce:algorithm={name}" for name in EXPECTED)

    algorithm: Literal["ring", "tree", "butterfly", "rabenseifner", "central", "shared-memory"] = option(
        "ring", "how the sum is formed"
    )
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port; 0 takes free ones")

    def skip(self, replicas: int) -> str | None:
        """Shared memory is Linux's; replicas need a GPU each where there are any."""
        if self.algorithm == "shared-memory" and sys.platform != "linux":
            return "algorithm=shared-memory needs Linux; take another algorithm"
        return skip_for_gpus(replicas)

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """By the algorithm. What is sent is received, too. Barriers send a byte a message."""
        multiple, rounds = EXPECTED[self.algorithm](replicas)
        sent = replicas * rounds if self.algorithm == "shared-memory" else multiple * weights_bytes
        return 2.0 * sent / accumulate

    def reduced(self, accumulate: int = 1) -> float:
        """The gradients."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """By the algorithm; through shared memory, no bytes pass a link."""
        if self.algorithm == "shared-memory":
            return None
        rounds = EXPECTED[self.algorithm](replicas)[1]
        return Exchange(rounds, LONGEST[self.algorithm](replicas)).scaled(1 / accumulate)

    def rounds(self, replicas: int) -> int | None:
        """By the algorithm."""
        return EXPECTED[self.algorithm](replicas)[1]

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """N workers, each with the addresses of all."""
        hosts = [place.host(index) for index in range(replicas)]
        addresses = [place.address(host, self.port + index if self.port else None) for index, host in enumerate(hosts)]
        peers = {PEERS_VARIABLE: ",".join(addresses)}
        return [Task(index=index, host=host, first_replica=index, env=peers) for index, host in enumerate(hosts)]

    @contextmanager
    def transport(self, task: Task, group: Group) -> Iterator[Transport]:
        """The algorithm by itself."""
        from ._transport import MessageTransport

        with connected(task.index) as messages:
            yield MessageTransport(messages, self.algorithm)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """The ``tf.function`` of a step calls NumPy between the backward pass and the update."""
        from .._shared import marks
        from .._shared.own_step import steps_of
        from .._shared.replica import KerasTrainer, loss_and_gradients, size_bytes, use_gpu
        from .._shared.threads import set_threads
        from ._reduce import Reduce

        set_threads(1, workload.cores_per_replica)
        use_gpu(task.index)
        with connected(task.index) as messages:
            reduce = Reduce(messages, self.algorithm)
            model, optimizer = workload.model(), workload.optimizer()
            trained = model.trainable_variables
            optimizer.build(trained)
            for variable in model.variables + optimizer.variables:
                value = variable.numpy().reshape(-1)
                broadcast(messages, value)
                variable.assign(value.reshape(variable.shape))
            # What is still on its way would count as traffic of the first steps.
            barrier(messages)

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                return loss_and_gradients(workload, model, batch, optimizer, mean=reduce.mean)

            def apply(gradients: Sequence[tf.Tensor]) -> None:
                means = reduce.means(marks.held(marks.ready, gradients))
                optimizer.apply(marks.held(marks.came, means), trained)

            steps = steps_of(workload, model, optimizer, compute, apply, reduce.means)
            trainer = KerasTrainer(model, optimizer, workload, steps, rank=task.index, shards=workload.replicas)
            # The gradients as one vector, the sum, and what the algorithm needs beside it.
            in_transit = int((2 + BESIDE[self.algorithm]) * size_bytes(trained))
            trainer.memory = dataclasses.replace(trainer.memory, transient_bytes=in_transit)
            yield trainer
