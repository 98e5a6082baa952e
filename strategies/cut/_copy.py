"""One copy of a cut model in a graph of TensorFlow 1: every pass of every part over every micro-batch.

A tensor that crosses a cut is sent by its producer to each part that takes it, and the gradients that come back are
added up, so that skip connections need no special case. A pass of a part begins when its own pass before is over and
all that it takes is there.

Source: the white paper of TensorFlow (Abadi et al., *TensorFlow: Large-Scale Machine Learning on Heterogeneous
Distributed Systems*, 2016), section 3.2: operations placed on devices, and Send and Recv between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras.src.backend import get_keras_mask, set_keras_mask

from .._shared.graph_model import explained
from .._shared.replica import keeps_trained
from ..trainer import Batch, Workload
from ._calls import Value
from ._parts import Cut, Part
from ._schedule import FORWARD, Schedule, in_turn

if TYPE_CHECKING:
    from ..trainer import Tensor

v1 = tf.compat.v1
Sleep = Callable[[], tf.Operation]
"""Makes an operation that a fault makes slow."""


class Copy:
    """Builds all passes in the default graph.

    Args:
        variables: by the id of the Keras variable, each where its part is: see `variables_of`.
        devices: of its parts.
        batches: its micro-batches.
        scale: factor on all gradients, so that their sum over micro-batches and copies is the mean.
        sleeps: by part, what makes its forward passes slow.

    Attributes:
        loss: scalar: mean over the copy's examples.
        gradients: of each part, in the order of its trained variables.
        moved: operations that assign what is not trained, after the last pass.
        over: of each part, its last pass.
        times: of each part: seconds in passes, when the first began, when the last ended (Unix seconds). (3,)
        kept: every tensor of the last micro-batch.
    """

    def __init__(
        self,
        cut: Cut,
        model: keras.Model,
        workload: Workload,
        variables: Mapping[int, tf.Variable],
        devices: Sequence[str],
        batches: Sequence[Batch],
        schedule: Schedule,
        scale: float,
        sleeps: Mapping[int, Sleep],
    ):
        self._cut, self._model, self._workload, self._devices = cut, model, workload, devices
        self._batches, self._scale, self._sleeps = batches, scale, sleeps
        self.kept: dict[Value, Tensor] = {}
        self.variables = variables
        # Once a step, where they are.
        self._trained = [self._read(part.trained, device) for part, device in zip(cut.parts, devices, strict=True)]
        self._fixed = [self._read(part.fixed, device) for part, device in zip(cut.parts, devices, strict=True)]
        self.gradients: list[list[Tensor]] = [[None] * len(part.trained) for part in cut.parts]
        self._losses: list[list[Tensor]] = [[] for _ in cut.parts]
        self._spans: list[list[tuple[Tensor, Tensor]]] = [[] for _ in cut.parts]
        self._after: list[list[tf.Operation]] = [[] for _ in cut.parts]
        self._known: list[dict[Value, Tensor]] = [{} for _ in batches]
        self._upstream: list[dict[Value, list[Tensor]]] = [{} for _ in batches]
        self._passed: dict[tuple[int, int], tuple[dict[Value, Tensor], list[Tensor]]] = {}
        for place, each in in_turn(len(cut.parts), len(batches), schedule):
            with tf.device(devices[place]):
                (self._forward if each.kind == FORWARD else self._backward)(place, each.micro_batch)
        self.over = [each[0] for each in self._after]
        self._finish()

    def _finish(self) -> None:
        self.moved, self.times, losses = [], [], []
        for place, (part, device) in enumerate(zip(self._cut.parts, self._devices, strict=True)):
            with tf.device(device):
                with tf.control_dependencies([self.over[place]]):
                    pairs = zip(part.fixed, self._fixed[place], strict=True)
                    self.moved += [self.variables[id(v)].assign(value, read_value=False) for v, value in pairs]
                spans = self._spans[place]
                busy = tf.add_n([end - begin for begin, end in spans])
                self.times.append(tf.stack([busy, spans[0][0], spans[-1][1]]))
                if self._losses[place]:
                    losses.append(tf.add_n(self._losses[place]) / len(self._batches))
        self.loss = tf.add_n(losses)

    def _read(self, variables: Sequence[keras.Variable], device: str) -> list[Tensor]:
        with tf.device(device):
            return [self.variables[id(v)].read_value() for v in variables]

    def _forward(self, place: int, number: int) -> None:
        part, batch = self._cut.parts[place], self._batches[number]
        taken = self._taken(part, number)
        gated, begin = self._begin(place, list(taken.values()))
        with tf.control_dependencies([begin]):
            start = self._sleeps[place]() if place in self._sleeps else begin
        known = dict(zip(taken, self._gate(gated, [start]), strict=True))
        passed = dict(known)
        scope = keras.StatelessScope(self._values(place), collect_losses=True)
        with scope, explained(), keeps_trained(scope, part.trained):
            for call in part.calls:
                with tf.name_scope(call.scope):
                    known |= call(known)
            losses = [*scope.losses, *_regularisers(part)]
            if place == len(self._cut.parts) - 1:
                outputs = keras.tree.map_structure(known.__getitem__, self._cut.outputs)
                losses.append(self._workload.loss(batch, outputs))
            # Each is a scalar, or has a value for each example.
            terms = [tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in losses]
            own = [tf.add_n(terms)] if terms else []
            self._fixed[place] = [tf.convert_to_tensor(scope.get_current_value(v)) for v in part.fixed]
        self.kept |= known
        given = {value: known[value] for value in part.gives}
        self._losses[place] += own
        self._known[number] |= given
        self._passed[place, number] = passed | given, own
        self._end(place, begin, [*given.values(), *own])

    def _backward(self, place: int, number: int) -> None:
        part, (passed, own) = self._cut.parts[place], self._passed.pop((place, number))
        arrived = {value: self._upstream[number][value] for value in part.gives if value in self._upstream[number]}
        gated, begin = self._begin(place, [tf.add_n(each) for each in arrived.values()])
        targets = [*[passed[value] for value in arrived], *own]
        seeds = self._gate([*gated, *[tf.constant(self._scale) for _ in own]], [begin])
        back = [value for value in part.takes if value in self._cut.learned and passed[value].dtype.is_floating]
        sources = [*self._trained[place], *[passed[value] for value in back]]
        found = v1.gradients(targets, sources, grad_ys=seeds, colocate_gradients_with_ops=True) if targets else []
        found = [None if each is None else tf.convert_to_tensor(each) for each in found]
        trained = len(part.trained)
        for index, gradient in enumerate(found[:trained]):
            before = self.gradients[place][index]
            if gradient is not None:
                self.gradients[place][index] = gradient if before is None else before + gradient
        for value, gradient in zip(back, found[trained:], strict=True):
            if gradient is not None:
                self._upstream[number].setdefault(value, []).append(gradient)
        self._end(place, begin, [each for each in found if each is not None])

    def _taken(self, part: Part, number: int) -> dict[Value, Tensor]:
        """What a part takes, wherever it is."""
        known = self._known[number]
        if any(value not in self._cut.home for value in part.takes):
            # Fed arrays cross as they are stored: bytes, not floats.
            inputs = keras.tree.flatten(self._workload.inputs(self._batches[number]))
            known = known | dict(zip(self._cut.inputs, inputs, strict=True))
        return {value: known[value] for value in part.takes}

    def _values(self, place: int) -> list[tuple[keras.Variable, Tensor]]:
        """Of all variables that the part may read."""
        part = self._cut.parts[place]
        # Of metrics that the loss updates, as that of several outputs does. Nobody reads them.
        metrics = [(v, tf.zeros(v.shape, v.dtype)) for v in self._model.metrics_variables]
        trained = zip(part.trained, self._trained[place], strict=True)
        return [*trained, *zip(part.fixed, self._fixed[place], strict=True), *metrics]

    def _begin(self, place: int, tensors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """(the tensors, once they are there and the part's pass before is over; when that was)."""
        gated = self._gate(tensors, self._after[place])
        with tf.control_dependencies([*self._after[place], *gated]):
            return gated, tf.timestamp()

    def _end(self, place: int, begin: Tensor, tensors: list[Tensor]) -> None:
        with tf.control_dependencies([begin, *tensors]):
            end = tf.timestamp()
        self._spans[place].append((begin, end))
        self._after[place] = [end.op]

    def _gate(self, tensors: list[Tensor], after: Sequence[Any]) -> list[Tensor]:
        """Copies that exist only after these operations. Masks come with them."""

        def copy(tensor: Tensor) -> Tensor:
            made = tf.identity(tensor)
            if (mask := get_keras_mask(tensor)) is not None:
                set_keras_mask(made, tf.identity(mask))
            return made

        with tf.control_dependencies(after):
            return [copy(each) for each in tensors]


def variables_of(name: str, cut: Cut, devices: Sequence[str]) -> dict[int, tf.Variable]:
    """Of one copy, by the id of the Keras variable.

    Args:
        name: of this copy, unlike those of others.
        devices: of its parts.
    """
    # Numbered, as layers of two models within the model may have the same names.
    return {
        id(v): zeros_variable(f"{name}/{part}/{number}/{v.path}", v, devices[part])
        for part, each in enumerate(cut.parts)
        for number, v in enumerate((*each.trained, *each.fixed))
    }


def zeros_variable(name: str, like: keras.Variable | tf.Tensor, device: str) -> tf.Variable:
    """On that device, in the shape and type of ``like``."""
    with tf.device(device):
        return v1.get_variable(
            name.replace("/", "_"),
            like.shape,
            tf.as_dtype(like.dtype),
            v1.zeros_initializer(),
            use_resource=True,
            trainable=False,
        )


def _regularisers(part: Part) -> list[Tensor]:
    """What Keras adds to the loss for the weights of the part. Within a scope that has their values."""
    regularised = [v for v in part.trained if getattr(v, "regularizer", None) is not None]
    return [v.regularizer(v) for v in regularised]
