"""The mean of a number over all workers, within a step that all of them take."""

from __future__ import annotations

import itertools

import tensorflow as tf

from ._variables import FIRST

v1 = tf.compat.v1


class MeanOverWorkers:
    """A `stratbench.strategies.trainer.Mean` in the graph of one worker.

    The first ps task adds up the numbers. Worker 0 takes their mean and puts it into a queue of each worker. A worker
    that has handed in its number waits for the mean, so that no number of a later step can come before.

    Args:
        worker: this one.
        workers: how many there are.
    """

    def __init__(self, worker: int, workers: int):
        self._worker, self._workers = worker, workers
        self._numbers = itertools.count()

    def __call__(self, value: tf.Tensor) -> tf.Tensor:
        """The mean, once every worker has computed its value."""
        name = f"mean_{next(self._numbers)}"
        with tf.device(FIRST):
            sums = v1.ConditionalAccumulator(tf.float32, (), shared_name=name)
            means = [
                tf.queue.FIFOQueue(-1, [tf.float32], [()], shared_name=f"{name}_{i}") for i in range(self._workers)
            ]
            # No number is too old: the accumulator counts its means, and would drop those of an earlier one.
            given = [sums.apply_grad(value, local_step=tf.int64.max)]
            if self._worker == 0:
                with tf.control_dependencies(given):
                    mean = sums.take_grad(self._workers)
                given = [queue.enqueue(mean) for queue in means]
            with tf.control_dependencies(given):
                return means[self._worker].dequeue()
