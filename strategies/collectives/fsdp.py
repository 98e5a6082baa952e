"""Fully sharded data parallelism: each of N processes holds 1/N of every layer's weights and optimizer state.

Before a layer's forward pass its weights are all-gathered; after it they are released. The backward pass gathers them
once more, and computes the forward pass again. A layer's gradients are reduce-scattered, g = (1/N) Σ g_i, and θ_r ← θ_r
− step(g_r): each process r updates its own part of θ by a Keras optimizer of its own.
Source: Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, SC 2020 (stage 3);
Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, VLDB 2023.

`Memory.transient_bytes` counts two buffers of the largest layer, padding included: its weights and their gradients, or
the gradients and the copy that is being reduced. It adds the process's part of the gradients of all layers.

Limits: Sequential and Functional models only, without constraints on weights. Nothing is prefetched: transfers don't
overlap with computation. Layers of parallel branches may be gathered at the same time. Each process builds the whole
model first, and takes a whole copy between epochs, so its peak resident memory is that of a whole model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..base import Task, Traits
from ..trainer import Batch, Memory, Trainer, Workload
from ._collective import Collective

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Fsdp(Collective):
    """One process a replica. It holds its part of the weights and gathers a layer's weights when it needs them."""

    name = "fsdp"
    summary = "fully sharded (ZeRO-3): weights and optimizer state cut over N processes, gathered a layer at a time"
    traits = Traits("yes", "yes", "3(N−1)/N·W each way", "(W + S)/N", "the run ends")

    def traffic_bytes(self, weights_bytes: int, replicas: int) -> float:
        """Two all-gathers and a reduce-scatter: in each, a worker sends (N−1)/N·W, and receives as much."""
        return 6.0 * (replicas - 1) * weights_bytes

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Shards the model. The shards take the place of the weights in the ``tf.function``."""
        with self.joined(workload) as hvd:
            from .._replica import KerasTrainer, loss_and_gradients, size_bytes
            from ._sharding import ShardedModel

            model, optimizer = ShardedModel(workload.model(), hvd), workload.optimizer()
            optimizer.build(model.trainable_variables)

            def body(batch: Batch) -> tf.Tensor:
                loss, gradients = loss_and_gradients(workload, model, batch)
                optimizer.apply(gradients, model.trainable_variables)
                return loss

            trainer = KerasTrainer(model, optimizer, body, rank=hvd.rank(), shards=hvd.size())
            held = size_bytes(model.variables), size_bytes(optimizer.variables)
            trainer.memory = Memory(*held, model.transient_bytes)
            yield trainer
