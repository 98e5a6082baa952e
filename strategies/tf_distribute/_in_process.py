"""A step of the strategies of ``tf.distribute`` whose replicas are devices of one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import tensorflow as tf

from .._shared.marks import Marked
from .._shared.own_step import steps_of
from .._shared.replica import KerasTrainer, loss_and_gradients
from ..trainer import Batch, Workload
from ._all_reduce import mean_over_replicas, sum_first


def trainer_of(
    strategy: tf.distribute.Strategy,
    workload: Workload,
    copies: int,
    create: Callable[..., Any] | None = None,
    gradients: Callable[..., tuple[tf.Tensor, list[tf.Tensor]]] = loss_and_gradients,
) -> KerasTrainer:
    """Reads the shards of all replicas, one after the other. Each replica takes its own slice.

    Args:
        copies: of the weights and the optimizer's state.
        create: see ``tf.variable_creator_scope``.
        gradients: what computes them; see `loss_and_gradients`.
    """
    replicas = strategy.num_replicas_in_sync
    share = workload.global_batch // replicas

    def part(batch: Batch) -> Batch:
        start = tf.distribute.get_replica_context().replica_id_in_sync_group * share
        # Of a size that is known: XLA, and so a TPU, computes nothing else.
        return tf.nest.map_structure(
            lambda each: tf.slice(each, [start, *[0] * (len(each.shape) - 1)], [share, *each.shape[1:]]), batch
        )

    def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
        # Keras's optimizer sums gradients over the replicas; 1/N makes that the mean.
        scale, mean = 1 / replicas, mean_over_replicas
        return gradients(workload, model, part(batch), optimizer, scale=scale, mean=mean)

    def around(step: Marked) -> Marked:
        def run(batch: Batch) -> tuple[tf.Tensor, ...]:
            losses, *moments = strategy.run(step, (batch,))
            loss = strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)
            return loss, *[tf.concat(strategy.experimental_local_results(each), 0) for each in moments]

        return run

    # The last scope has the first word.
    with strategy.scope(), tf.variable_creator_scope(create) if create else nullcontext():
        model = workload.model()
        optimizer = sum_first(workload.optimizer(), workload.own_step)
        optimizer.build(model.trainable_variables)
        steps = steps_of(workload, model, optimizer, compute, means=mean_over_replicas, part=part)
    return KerasTrainer(model, optimizer, workload, steps, around, shards=replicas, copies=copies, count=replicas)
