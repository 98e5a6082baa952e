"""A worker's replica of the model, with weights of its own: in the worker, or cut over several tasks.

Source: Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012, sections 3 and 4: a model replica may span
several machines, and each of them exchanges its own part of the weights with the parameter servers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from .._shared.graph_model import placeholders
from .._shared.held import agree, tell
from .._shared.replica import size_bytes
from ..cut._calls import calls_of
from ..cut._cluster import sleep
from ..cut._copy import Copy
from ..cut._cost import measure
from ..cut._driver import words
from ..cut._parts import cut
from ..cut._traffic import task_of
from ..cut._where import places
from ..trainer import Memory, Workload
from ._graph import Pass, compute, state_variable
from ._session import Node
from ._tasks import PART, parts_of

v1 = tf.compat.v1


class Replica(Protocol):
    """Computes with variables that a trainer keeps for it.

    Attributes:
        notes: see `Trainer.notes`.
        devices: where each weight is, in the order of ``model.weights``.
        over: of each weight, after what it may change; known after `compute`.
    """

    notes: Mapping[str, Any]
    devices: Sequence[str]
    over: Sequence[tf.Operation]

    def compute(self, own: Sequence[tf.Variable]) -> Pass:
        """The forward and backward pass with these weights."""

    def delays(self) -> list[float]:
        """What to feed in a step, after the batch: by how many seconds tasks are slower on purpose."""

    def split(self, seconds: float, moments: np.ndarray) -> tuple[float, float]:
        """(computing, waiting) of a pass that took so long. ``moments``: see `Pass.moments`."""

    def held(self, memory: Sequence[Sequence[tf.Variable]]) -> Memory:
        """What this task holds of the variables that are weights, and of others; it may tell other tasks."""


class Whole:
    """In the worker."""

    def __init__(self, node: Node, workload: Workload):
        self._node, self._workload = node, workload
        self.notes: Mapping[str, Any] = {}
        self.devices = [node.device] * len(node.source.model.weights)
        self.over: Sequence[tf.Operation] = ()

    def compute(self, own: Sequence[tf.Variable]) -> Pass:
        """See `Replica.compute`."""
        found = compute(self._workload, self._node.source, [variable.read_value() for variable in own])
        self.over = [tf.group(*found.gradients, *found.moved.values())] * len(own)
        return found

    def delays(self) -> list[float]:
        """The workload is slow by itself."""
        return []

    def split(self, seconds: float, moments: np.ndarray) -> tuple[float, float]:
        """It waits for nobody."""
        return seconds, 0.0

    def held(self, memory: Sequence[Sequence[tf.Variable]]) -> Memory:
        """All of it."""
        return _memory(memory, self._node.device)


class Parted:
    """Cut over the worker, which has the first part and drives, and tasks of the role ``part``.

    Args:
        parts: how many.
    """

    def __init__(self, node: Node, workload: Workload, parts: int):
        self._node, self._workload = node, workload
        source = node.source
        own = parts_of(node.task.index, parts)
        self._devices = [node.device, *[f"/job:{PART}/task:{index}" for index in own]]
        labels = [node.task.label, *[f"{PART}-{index}" for index in own]]
        calls, model = calls_of(source.model), source.model
        self._copies, self._parts = workload.replicas // parts, parts
        self._examples = workload.global_batch // self._copies

        def find() -> dict[str, Any]:
            costs = measure(model, calls, workload, self._examples, node.config)
            found = places(calls, costs, parts)
            return {"places": found, "words": words(cut(model, calls, found), costs)}

        # The same for all replicas, each of which would measure other times.
        agreed = agree(workload, "cut", node.task.index == 0, find)
        self._cut, self.notes = cut(model, calls, agreed["places"]), {"cut": agreed["words"]}
        home = {id(v): place for place, part in enumerate(self._cut.parts) for v in (*part.trained, *part.fixed)}
        self._home = [home[id(weight)] for weight in model.weights]
        self.devices = [self._devices[place] for place in self._home]
        self.over: Sequence[tf.Operation] = ()
        self._slow = [(place, workload.delays[label]) for place, label in enumerate(labels) if label in workload.delays]

    def compute(self, own: Sequence[tf.Variable]) -> Pass:
        """See `Replica.compute`. Batches are of one size."""
        source, model = self._node.source, self._node.source.model
        batch = placeholders(self._workload, self._examples)
        delays = [(place, v1.placeholder(tf.float32, ())) for place, _ in self._slow]
        variables = {id(weight): variable for weight, variable in zip(model.weights, own, strict=True)}
        for place, part in enumerate(self._cut.parts):
            for number, state in enumerate(each for each in part.fixed if id(each) not in variables):
                with tf.device(self._devices[place]):
                    variables[id(state)] = state_variable(f"{place}_{number}", state, source)
        sleeps = {place: functools.partial(sleep, place, seconds) for place, seconds in delays}
        copy = Copy(self._cut, model, self._workload, variables, self._devices, [batch], "gpipe", 1.0, sleeps)
        found = {
            id(weight): gradient
            for part, gradients in zip(self._cut.parts, copy.gradients, strict=True)
            for weight, gradient in zip(part.trained, gradients, strict=True)
        }
        self.over = [copy.over[place] for place in self._home]
        return Pass(
            feeds=[*tf.nest.flatten(batch), *[seconds for _, seconds in delays]],
            loss=copy.loss,
            gradients=[_or_zeros(found[id(weight)], weight) for weight in model.trainable_variables],
            moved={},
            local=tf.group(*copy.moved),
            moments=tf.stack(copy.times),
        )

    def delays(self) -> list[float]:
        """Of the tasks that a fault slows down."""
        return [seconds() for _, seconds in self._slow]

    def split(self, seconds: float, moments: np.ndarray) -> tuple[float, float]:
        """As of any cut model: a part waits while others compute, or send."""
        busy, begin, end = moments.T
        computing = float(busy.mean())
        return computing, float(end.max() - begin.min()) - computing

    def held(self, memory: Sequence[Sequence[tf.Variable]]) -> Memory:
        """A part has the same in all replicas."""
        each = [_memory(memory, device) for device in self._devices]
        if self._node.task.index == 0:
            names = [f"{PART}-{index}" for copy in range(self._copies) for index in parts_of(copy, self._parts)]
            tell(self._workload, dict(zip(names, each[1:] * self._copies, strict=True)))
        return each[0]


def _or_zeros(gradient: tf.Tensor | None, weight: keras.Variable) -> tf.Tensor:
    return tf.zeros(weight.shape, weight.dtype) if gradient is None else gradient


def _memory(memory: Sequence[Sequence[tf.Variable]], device: str) -> Memory:
    weights, transient = ([v for v in kind if task_of(v.device) == task_of(device)] for kind in memory)
    return Memory(size_bytes(weights), 0, size_bytes(transient))
