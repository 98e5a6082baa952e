"""What a server in a tree of parameter servers repeats: take the mean of its members, push it upwards, fetch θ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from ._count import Counter, at_servers
from ._sync import Barrier
from ._weights import Shared


@dataclasses.dataclass(frozen=True)
class Above:
    """The server above a server.

    Attributes:
        barrier: at which it collects what is pushed to it.
        weights: that it holds, in the order of ``model.weights``.
        told: what it tells those below; None for the root, whose updates are counted by its barrier's clock.
    """

    barrier: Barrier
    weights: Sequence[tf.Variable]
    told: tf.Variable | None


def combine(
    own: Barrier,
    above: Above,
    share_of_all: float,
    index: int,
    copies: list[tf.Variable],
    told: tf.Variable,
) -> tf.Operation:
    """One step of a server: it pushes the weighted mean of its members to the one above and fetches θ from there.

    Args:
        share_of_all: n M / n_above, so that the plain mean above, over M servers, is the mean over all workers there.
        index: of this server among those that the one above waits for.
    """
    clock = own.begin()
    _, pushed = above.barrier.push(index, [mean * share_of_all for mean in own.take()], clock)
    with tf.control_dependencies(pushed):
        token, _ = above.barrier.wait(index)
    with tf.control_dependencies([token]):
        taken = [copy.assign(w.read_value(), read_value=False) for copy, w in zip(copies, above.weights, strict=True)]
        said = tf.stack([clock, clock, clock]) if above.told is None else above.told.read_value()
        taken.append(told.assign(said, read_value=False))
    with tf.control_dependencies(taken):
        return own.open()


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
