"""What a leaf of a tree of parameter servers repeats: take the mean of its workers, push it to the root, fetch θ."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from ._count import Counter, at_servers
from ._graph import Shared
from ._sync import Barrier


def combine(
    leaf: Barrier,
    root: Barrier,
    share_of_all: float,
    index: int,
    shared: Shared,
    copies: list[tf.Variable],
    told: tf.Variable,
) -> tf.Operation:
    """One step of a leaf: it pushes the weighted mean of its workers to the root and fetches the root's θ.

    Args:
        share_of_all: n_l L / N, so that the root's plain mean over L leaves is the mean over all workers.
    """
    clock = leaf.begin()
    _, pushed = root.push(index, [mean * share_of_all for mean in leaf.take()], clock)
    with tf.control_dependencies(pushed):
        token, _ = root.wait(index)
    with tf.control_dependencies([token]):
        taken = [copy.assign(weight.read_value(), read_value=False) for copy, weight in _pairs(copies, shared)]
        taken.append(told.assign(tf.stack([clock, clock, clock]), read_value=False))
    with tf.control_dependencies(taken):
        return leaf.open()


def push_at_once(
    leaf: Barrier, counter: Counter, shared: Shared, copies: list[tf.Variable], told: tf.Variable
) -> tf.Operation:
    """One step of a leaf that waits for no other: its mean is applied, and θ is fetched, each as one atomic act.

    Args:
        told: for the workers: the number of their update; how many updates the θ had that it was computed with; how
            many the θ has that they compute with now.
    """
    with tf.device(told.device):
        fetched = tf.identity(told.read_value()[2])
    means = at_servers(leaf.take(), shared.trained)
    with tf.control_dependencies([fetched]):
        number, pushed = counter.push(means, lambda: shared.apply(means))
    with tf.control_dependencies([pushed]):
        now, values, left = counter.fetch(shared.weights)
    taken = [copy.assign(value, read_value=False) for copy, value in zip(copies, values, strict=True)]
    with tf.control_dependencies([left, *taken]):
        kept = told.assign(tf.stack([number, fetched, now]), read_value=False)
    with tf.control_dependencies([kept]):
        return leaf.open()


def _pairs(copies: list[tf.Variable], shared: Shared) -> Iterator[tuple[tf.Variable, tf.Variable]]:
    return zip(copies, shared.weights, strict=True)
