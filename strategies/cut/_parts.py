"""The parts of a cut model: which calls each has, and what crosses from one to another."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from ...errors import UsageError
from ._calls import Call, Calls, Value

if TYPE_CHECKING:
    from ..trainer import Structure


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a cut model.

    Attributes:
        calls: in order.
        trained, fixed: variables of these calls; ``fixed`` has what is not trained, as moving statistics and seeds.
        takes: tensors that it does not compute itself.
        gives: tensors of its own that other parts, or the loss, take.
    """

    calls: Sequence[Call]
    trained: Sequence[keras.Variable]
    fixed: Sequence[keras.Variable]
    takes: Sequence[Value]
    gives: Sequence[Value]

    @property
    def last_layer(self) -> str:
        """Name of it."""
        return next(call.name for call in reversed(self.calls) if call.name)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A model in parts.

    Attributes:
        inputs: of the model.
        outputs: the structure that the model gives. The last part takes all of it, for the loss.
        home: the part that computes a tensor; none for the inputs.
        learned: what depends on trained weights, so that its gradient is needed.
    """

    parts: Sequence[Part]
    inputs: Sequence[Value]
    outputs: Structure
    home: dict[Value, int]
    learned: set[Value]


def cut(model: keras.Model, calls: Calls, places: Sequence[int]) -> Cut:
    """Cut before these calls. Raises UsageError for a trained weight that no call uses."""
    bounds = [0, *places, len(calls.calls)]
    pieces = [calls.calls[first:end] for first, end in itertools.pairwise(bounds)]
    home = {value: part for part, piece in enumerate(pieces) for call in piece for value in call.outputs}
    wanted = [[value for call in piece for value in call.inputs] for piece in pieces]
    wanted[-1] += keras.tree.flatten(calls.outputs)
    takes = [
        list(dict.fromkeys(value for value in values if home.get(value) != part)) for part, values in enumerate(wanted)
    ]
    trained = {id(variable) for variable in model.trainable_variables}
    left = [{id(v): v for call in piece for v in call.variables} for piece in pieces]
    used = {key for each in left for key in each}
    if lost := [v.path for v in model.trainable_variables if id(v) not in used]:
        raise UsageError(f"a weight must belong to a layer, so that it is in some part. Received: {', '.join(lost)}.")
    # Others hold no gradient, and are where it is simplest.
    left[0] |= {id(v): v for v in model.non_trainable_variables if id(v) not in used}
    parts: list[Part] = []
    for place, piece in enumerate(pieces):
        elsewhere = {value for other, values in enumerate(takes) if other != place for value in values}
        outputs = keras.tree.flatten(calls.outputs) if place == len(pieces) - 1 else []
        own = [value for call in piece for value in call.outputs]
        parts.append(
            Part(
                calls=piece,
                trained=[v for key, v in left[place].items() if key in trained],
                fixed=[v for key, v in left[place].items() if key not in trained],
                takes=takes[place],
                gives=[value for value in own if value in elsewhere or value in outputs],
            )
        )
    learned: set[Value] = set()
    for call in calls.calls:
        if any(id(v) in trained for v in call.variables) or not learned.isdisjoint(call.inputs):
            learned.update(call.outputs)
    return Cut(parts, calls.inputs, calls.outputs, home, learned)
