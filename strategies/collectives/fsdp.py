"""Fully sharded data parallelism: each of N processes holds 1/N of every layer's weights and optimizer state.

A layer's weights are all-gathered before its forward pass and released after it, and gathered again for its backward
pass. Its gradients are reduce-scattered, g = (1/N) Σ g_i, and θ_r ← θ_r − step(g_r): each process r updates its own
part of θ by a Keras optimizer of its own. Small layers that follow one another are gathered together. The next layer's
weights are gathered, and the last one's gradients exchanged, while a layer computes, as far as memory allows.

Memory within a step: at most two buffers of the largest layer (weights, or gradients in transit) and the process's part
of all gradients. What fits into these is kept from the forward to the backward pass, and not gathered again.
``reshard_after_forward=false`` keeps all weights, and nothing waits for memory. `Memory.transient_bytes` is the most by
the order of the step that is run; it does not count activations.
Source: Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, SC 2020 (stage 3);
Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, VLDB 2023.

Limits: no constraints on weights. A layer that is used at several places stays whole from the first to the last one, so
that a model may need more than two buffers. The weights in the loop of a recurrent layer stay in memory between the
forward and the backward pass, uncounted. Each process builds the whole model first, and takes a whole copy between
epochs, so its peak resident memory is that of a whole model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._shared.whole_weights import skip_constraints, skip_optimizers
from ..base import Task, Traits, option
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange
from ._collective import Collective

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Fsdp(Collective):
    """One process a replica. It holds its part of the weights and gathers a layer's weights when it needs them."""

    name = "fsdp"
    summary = "fully sharded (ZeRO-3): weights and optimizer state cut over N processes, gathered a layer at a time"
    family = "data parallel"
    good_for = "weights and optimizer state that do not fit one GPU"
    new_models = True
    traits = Traits("yes", "yes", "2 to 3(N−1)/N·W each way", "(W + S)/N", "the run ends")

    reshard_after_forward: bool = option(
        True, "release weights after the forward pass; false holds all of them until the backward pass"
    )

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Those that use a whole weight's norm, rows or columns."""
        return skip_optimizers(settings)

    def skip_model(self, model: keras.Model, replicas: int) -> str | None:
        """Constraints are of whole weights."""
        return skip_constraints(model)

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """The most: two all-gathers and a reduce-scatter, in each of which a worker sends (N−1)/N·W, and receives it.

        The trainer knows what need not be gathered again.
        """
        return 6.0 * (replicas - 1) * weights_bytes

    def reduced(self, accumulate: int = 1) -> float:
        """A gather and a reduce-scatter are one, a second gather is half of one."""
        return 1.5 if self.reshard_after_forward else 1.0

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Weights are gathered for both passes, and gradients reduced, each in N−1 messages."""
        gathers = 2 if self.reshard_after_forward else 1
        return Exchange(1.0, 1 / replicas, in_turn=True).scaled((gathers + 1) * (replicas - 1))

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Shards the model. The shards take the place of the weights in the ``tf.function``."""
        with self.joined(workload, exchanges=True) as hvd:
            from .._shared.accumulation import Accumulation
            from .._shared.clip import Clip, unclipped
            from .._shared.replica import KerasTrainer
            from ._sharding import ShardedModel

            model = ShardedModel(workload.model(), hvd, self.reshard_after_forward)
            clip, optimizer = Clip.of(workload.optimizer_settings), unclipped(workload.optimizer())
            shards = model.trainable_variables
            optimizer.build(shards)

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                return model.loss_and_gradients(workload, batch)

            def apply(means: Sequence[tf.Tensor]) -> None:
                optimizer.apply(model.clipped(means, clip), shards)

            steps = Accumulation(workload.accumulate, shards, compute, apply)
            trainer = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            trainer.trace()
            trainer.memory = dataclasses.replace(trainer.memory, transient_bytes=model.transient_bytes)
            trainer.traffic_bytes = model.traffic_bytes
            yield trainer
