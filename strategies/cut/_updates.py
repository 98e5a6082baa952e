"""The updates of a cut model's weights: each where the weight is, in every copy, by the mean gradient of all copies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from .._shared.clip import Clip
from .._shared.keras_rule import KerasRule
from .._shared.update_rules import update_of
from ..trainer import Workload
from ._copy import Copy, zeros_variable
from ._parts import Cut


@dataclasses.dataclass(frozen=True)
class _Fed:
    """The learning rate, which comes with each step."""

    tensor: tf.Tensor

    def read_value(self) -> tf.Tensor:
        return tf.identity(self.tensor)


def updates(
    cut: Cut, copies: Sequence[Copy], workload: Workload, rules: Mapping[int, KerasRule], rate: tf.Tensor
) -> tuple[tf.Operation, tf.Operation]:
    """(what updates all weights, what only adds the gradients up for a later update)."""
    trained = [(part, index) for part, each in enumerate(cut.parts) for index in range(len(each.trained))]
    means = [_total(place, cut, part, index, copies) for place, (part, index) in enumerate(trained)]
    moved = [each for copy in copies for each in copy.moved]
    add, sums = tf.no_op(), list[tf.Variable]()
    if workload.accumulate > 1:
        sums = [zeros_variable(f"sum_{place}", each, each.device) for place, each in enumerate(means)]
        pairs = list(zip(sums, means, strict=True))
        add = tf.group(*[total.assign_add(each, read_value=False) for total, each in pairs], *moved)
        means = [(total.read_value() + each) / workload.accumulate for total, each in pairs]
    settings, applied = workload.optimizer_settings, []
    for (part, index), gradient in zip(trained, Clip.of(settings)(means), strict=True):
        key = id(cut.parts[part].trained[index])
        for copy in copies:
            update = update_of(copy.variables[key], _Fed(rate), settings, False, rules.get(key))
            # The weights are read until then.
            with tf.control_dependencies([copy.over[part]]):
                applied.append(update(gradient))
    with tf.control_dependencies(applied):
        cleared = [total.assign(tf.zeros_like(total), read_value=False) for total in sums]
    return tf.group(*applied, *moved, *cleared), add


def _total(place: int, cut: Cut, part: int, index: int, copies: Sequence[Copy]) -> tf.Tensor:
    """The sum of all copies' gradients of a weight. The copies take turns at adding up, weight by weight."""
    variable = cut.parts[part].trained[index]
    home = copies[place % len(copies)].variables[id(variable)]
    found = [each for copy in copies if (each := copy.gradients[part][index]) is not None]
    with tf.device(home.device):
        return tf.add_n(found) if found else tf.zeros(variable.shape, variable.dtype)
