"""Decentralised SGD: each process exchanges weights with few others only, and no task ever has the mean of all.

θ_i ← Σ_j W_ij θ_j − η·g_i(θ_i) on every process i, in each step. W is doubly stochastic; W_ij = 0 where j sends
nothing to i. Weights are sent while the gradient is computed, which is that of the process's own weights.

- ``graph=ring``: j = i ± 1, all with the weight 1/3 (two processes: 1/2). Source: Lian et al., *Can Decentralized
  Algorithms Outperform Centralized Algorithms?*, NIPS 2017 (D-PSGD).
- ``graph=exponential``: in step t only j = i − 2^(t mod ⌈log₂ N⌉), and W_ii = W_ij = 1/2: one message a step, and after
  ⌈log₂ N⌉ steps every process has heard of every other. Source: Ying et al., *Exponential Graph is Provably Efficient
  for Decentralized Deep Training*, NeurIPS 2021 (one-peer exponential graph).
- ``graph=random`` (AD-PSGD): no process waits for a step of another. The processes of even rank are active. While one
  computes its gradient, it averages its weights with those of a random process of odd rank, which answers at once, also
  within a step: (θ_i, θ_j) ← ((θ_i + θ_j)/2, (θ_i + θ_j)/2), as one change. Then θ_i ← θ_i − η·g_i(θ̂_i), with the
  weights θ̂_i that the step began with. Source: Lian et al., *Asynchronous Decentralized Parallel Stochastic Gradient
  Descent*, ICML 2018.

The table ``epochs`` has the consensus distance √((1/N) Σ ‖θ_i − θ̄‖²) at each epoch's end (Kong et al., *Consensus
Control for Decentralized Deep Learning*, ICML 2021). What is evaluated is θ̄, which no process trains with.

Limits: on a ring and on the exponential graph, processes wait for their neighbours in each step. The optimizer's state
stays where it is. Moving statistics are mixed like weights. With ``graph=random`` the result depends on timing, and
messages go over TCP connections of their own, neither encrypted nor authenticated, at an address of the process's host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..base import Task, Traits, option
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange
from ._collective import Collective, barrier, replicate
from ._pairs import actives

if TYPE_CHECKING:
    from types import ModuleType

    import keras
    import tensorflow as tf


def peers(graph: str, rank: int, size: int) -> list[list[int]]:
    """To whom that rank sends, in each of the steps that repeat; it receives from as many."""
    if size == 1:
        return [[]]
    if graph == "ring":
        return [sorted({(rank - 1) % size, (rank + 1) % size})]
    return [[(rank + 2**number) % size] for number in range((size - 1).bit_length())]


@dataclasses.dataclass(frozen=True)
class Gossip(Collective):
    """One process a replica, which knows its neighbours only."""

    name = "gossip"
    summary = (
        "decentralised SGD: in each step, every process mixes its weights with its neighbours' (Horovod's alltoall)"
    )
    family = "relaxed"
    good_for = "many processes on a network where one all-reduce of all takes long"
    synchronous = False
    compiles = True
    traits = Traits(
        synchronous="for neighbours; random: no",
        consistent="no; their mean is evaluated",
        traffic="ring: 2W each way; exponential, random: W",
        memory="W + S",
        failure="the run ends",
    )

    graph: Literal["ring", "exponential", "random"] = option(
        "ring",
        "who sends to whom; exponential: to one process a step, at distances 1, 2, 4, …; random: to a random one, and "
        "nobody waits (AD-PSGD)",
    )

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """Each process sends its weights to its peers, and receives as many."""
        if self.graph == "random":
            return 4.0 * weights_bytes * (len(actives(replicas)) if replicas > 1 else 0)
        return 2.0 * replicas * weights_bytes * len(peers(self.graph, 0, replicas)[0])

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """To each peer at once, however many processes there are."""
        if replicas == 1:
            return Exchange(0.0, 0.0)
        if self.graph == "random":
            return Exchange(2.0, 2.0, waits=False, hides=True)
        return Exchange(1.0, float(len(peers(self.graph, 0, replicas)[0])))

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Weights are exchanged in each step."""
        if accumulate == 1:
            return None
        return "gossip exchanges weights in each step; leave --accumulate out, or use local-sgd"

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """One ``tf.function``: sends, computes, mixes, updates."""
        with self.joined(workload, exchanges=True) as hvd:
            from .._shared import marks
            from .._shared.accumulation import Accumulation
            from .._shared.replica import KerasTrainer, loss_and_gradients, size_bytes
            from .._shared.vectors import parts
            from ._mixing import GossipTrainer, Mixing, consensus

            model, optimizer = replicate(hvd, workload)
            trained = model.trainable_variables
            mixed = [v.value for v in model.weights if v.value.dtype.is_floating]
            if self.graph == "random":
                with _pair_trainer(hvd, workload, model, optimizer, mixed) as pairs:
                    pairs.traffic_bytes = self.traffic_bytes(size_bytes(mixed), hvd.size())
                    yield pairs
                return
            mixing = Mixing(hvd, peers(self.graph, hvd.rank(), hvd.size()), mixed)

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                # Before the gradient, which neither waits for it nor holds it up.
                change = mixing.change()
                loss, gradients = loss_and_gradients(workload, model, batch)
                return loss, [*gradients, change]

            def apply(found: list[tf.Tensor]) -> None:
                *gradients, change = found
                marks.ready(gradients)
                marks.came(found)
                # What a forward pass moves stays moved.
                for variable, each in zip(mixed, parts(change, mixed), strict=True):
                    variable.assign_add(each)
                optimizer.apply(gradients, trained)

            steps = Accumulation(1, [v.value for v in trained], compute, apply)  # type: ignore[arg-type]
            local = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            trainer = GossipTrainer(local, mixed, consensus(hvd, mixed))
            trainer.traffic_bytes = self.traffic_bytes(size_bytes(mixed), hvd.size())
            yield trainer


@contextmanager
def _pair_trainer(
    hvd: ModuleType,
    workload: Workload,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    mixed: list[tf.Variable],
) -> Iterator[Trainer]:
    """Steps by this process alone; the weights are exchanged beside them."""
    from .._shared.accumulation import Accumulation
    from .._shared.replica import KerasTrainer, loss_and_gradients
    from .._shared.vectors import flat
    from ._mixing import PairTrainer, consensus
    from ._pairs import Pairs, connections

    trained = model.trainable_variables

    def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return loss_and_gradients(workload, model, batch)

    steps = Accumulation(1, [v.value for v in trained], compute, lambda gradients: optimizer.apply(gradients, trained))
    local = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
    with connections(hvd) as messages, Pairs(messages, flat(mixed).numpy()) as pairs:
        yield PairTrainer(local, mixed, consensus(hvd, mixed), pairs, lambda: barrier(hvd))
        # Those that answer do so until all have ended.
        barrier(hvd)
