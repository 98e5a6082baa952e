"""Puts a plan of `_reshard` into the graph of a step, which TensorFlow would otherwise compute in any order.

The graph comes with all weights gathered at its start, as a model by itself would use them. Here gathers get to wait,
and the operations of the backward pass read weights that are gathered again, so that the first ones are released.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import tensorflow as tf

from .._shared import marks
from .._shared.buckets import ancestors
from ._reshard import Plan, Use

_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
"""Operations that need no value. They would make the backward pass gather weights for nothing."""
_ANY_ORDER = ("Random", "ParameterizedTruncatedNormal", "TruncatedNormal", "Multinomial", "Horovod")
"""How the types of those begin that TensorFlow does not run in the order of the program, though they have state."""


@dataclasses.dataclass
class UnitInStep:
    """One unit of weights in a step's graph.

    Attributes:
        gathered: the whole unit, the output of its gather.
        gradients: of its weights.
    """

    gathered: tf.Tensor
    gradients: list[tf.Tensor]

    @cached_property
    def derived(self) -> set[tf.Operation]:
        """The gather, and what is computed from its output alone, such as slices."""
        found = {self.gathered.op}
        todo = [self.gathered.op]
        while todo:
            for op in _users(todo.pop()):
                alone = all(tensor.op in found or tensor.op.type == "Const" for tensor in op.inputs)
                if alone and op not in found and _repeatable(op):
                    found.add(op)
                    todo.append(op)
        return found

    @property
    def users(self) -> list[tf.Operation]:
        """What reads the weights: it must be computed before they can be released."""
        return [op for own in self.derived for op in _users(own) if op not in self.derived]


def _users(op: tf.Operation) -> list[tf.Operation]:
    return [user for output in op.outputs for user in output.consumers()]


def _repeatable(op: tf.Operation) -> bool:
    """Whether it can be computed again, and is worth it: a regularizer's sum is not."""
    large = bool(op.outputs) and all(output.shape.rank != 0 for output in op.outputs)
    return large and not op.op_def.is_stateful and op.type not in _SHAPES


class StepOrder:
    """The graph of one step.

    Attributes:
        order: positions in ``units``, by the first use of their weights. All else here goes by this order.
    """

    def __init__(self, loss: tf.Tensor, units: Sequence[UnitInStep]):
        self._loss = loss
        number = {op: position for position, op in enumerate(loss.graph.get_operations())}
        ends = [gradient.op for unit in units for gradient in unit.gradients]
        self._forward = ancestors([loss.op], set())
        self._backward = ancestors(ends, self._forward)
        readers = [sorted(set(unit.users), key=number.__getitem__) for unit in units]
        first = [next((number[op] for op in each if op in self._forward), len(number)) for each in readers]
        self.order = sorted(range(len(units)), key=first.__getitem__)
        self._units = [units[position] for position in self.order]
        self._early, self._late = ([], [])
        for position in self.order:
            self._early.append([op for op in readers[position] if op in self._forward])
            self._late.append([op for op in readers[position] if op in self._backward and op.type not in _SHAPES])

    def uses(self, sizes_bytes: Sequence[int]) -> list[Use]:
        """How the step uses each unit; sizes in the order of the units as they were given."""
        phases = self._phases()
        found = []
        for unit, (position, early, late) in enumerate(zip(self.order, self._early, self._late, strict=True)):
            last = max([unit, *(phases.get(op, unit) for op in early)])
            found.append(Use(sizes_bytes[position], last, bool(late)))
        return found

    def _phases(self) -> dict[tf.Operation, int]:
        """Of each operation of the forward pass: the last unit that it depends on."""
        own = {unit.gathered.op: number for number, unit in enumerate(self._units)}
        found: dict[tf.Operation, int] = {}
        for op in self._units[0].gathered.graph.get_operations() if self._units else ():
            if op in self._forward:
                before = [found[i] for i in (*(t.op for t in op.inputs), *op.control_inputs) if i in found]
                if op in own or before:
                    found[op] = max([own.get(op, 0), *before])
        return found

    def delay_gathers(self, plan: Plan, uses: Sequence[Use]) -> None:
        """Have each gather of the forward pass wait for what was to be released before it."""
        for unit, after in enumerate(plan.gather_after):
            released = [u for u in range(unit) if not plan.kept[u] and uses[u].last <= after]
            wait = [op for u in released for op in self._early[u]]
            _add_control(self._units[unit].gathered.op, wait)

    def mark_forward(self) -> None:
        """Mark how long each unit's first use waits for its gather alone: all else that it needs is there.

        That is not known of a model that calls Python or prints after its first weights: TensorFlow runs a timestamp in
        the program's order with such operations, thus after the passes.
        """
        if any(_in_program_order(op) for op in self._phases().keys() | self._backward):
            marks.unknown()
        for unit, early in zip(self._units, self._early, strict=True):
            others = ([tensor for tensor in op.inputs if tensor.op not in unit.derived] for op in early)
            needed = next(filter(None, others), [])
            marks.ready(needed)
            marks.came([unit.gathered, *needed])

    def order_backward(
        self,
        plan: Plan,
        gather: Callable[[int], tf.Tensor],
        exchange: Callable[[int], tf.Tensor],
    ) -> list[tf.Tensor]:
        """Have the backward pass gather again and exchange as planned.

        Args:
            gather: makes the operation that gathers the unit at this position again.
            exchange: makes those that exchange its gradients.

        Returns what ``exchange`` made, in the order of the units as they were given.
        """
        done, before = set(self._forward), list[tf.Operation]()
        exchanged: dict[int, tf.Tensor] = {}
        for phase in reversed(range(len(self._units))):
            waited = {exchanged[u].op for u in range(plan.exchanged[phase], len(self._units))}
            start = [*before, *waited]
            gathered = []
            for unit in (u for u, begins in enumerate(plan.gather_again) if begins == phase):
                with tf.control_dependencies(start):
                    again = gather(self.order[unit])
                done |= ancestors([again.op], done)
                self._read_again(unit, again)
                gathered.append(again.op)
            # What this phase waits for, beside the computing before it.
            marks.ready(before or [self._loss.op])
            marks.came([*(before or [self._loss.op]), *waited, *gathered])
            before = [gradient.op for gradient in self._units[phase].gradients] + self._late[phase]
            new = ancestors(before, done)
            for op in new:
                if any(tensor.op in done for tensor in op.inputs):
                    _add_control(op, start)
            done |= new
            with tf.control_dependencies(self._late[phase]):
                exchanged[phase] = exchange(self.order[phase])
        return [exchanged[self.order.index(position)] for position in range(len(self._units))]

    def _read_again(self, unit: int, again: tf.Tensor) -> None:
        """Have the backward pass read the weights from ``again``."""
        derived, copies = self._units[unit].derived, {self._units[unit].gathered.op: again.op}
        for op in self._late[unit]:
            for position, tensor in enumerate(op.inputs):
                if tensor.op in derived:
                    # TensorFlow has no public function that changes the graph of a function under construction.
                    op._update_input(position, _copy(tensor, copies))


def _in_program_order(op: tf.Operation) -> bool:
    """Whether a tf.function runs it after all such operations that were made before it."""
    uses_resource = any(tensor.dtype == tf.resource for tensor in op.inputs)
    return op.op_def.is_stateful and not uses_resource and not op.type.startswith(_ANY_ORDER)


def _copy(tensor: tf.Tensor, copies: dict[tf.Operation, tf.Operation]) -> tf.Tensor:
    """The same tensor, computed from the copies of the operations before it, which are made where they are missing."""
    op = tensor.op
    if op not in copies:
        inputs = [i if i.op.type == "Const" else _copy(i, copies) for i in op.inputs]
        attributes = {name: op.node_def.attr[name] for name in op.node_def.attr}
        types = [output.dtype for output in op.outputs]
        copies[op] = op.graph.create_op(op.type, inputs, types, name=f"{op.name}_again", attrs=attributes)
    return copies[op].outputs[tensor.value_index]


def _add_control(op: tf.Operation, before: Sequence[tf.Operation]) -> None:
    # The public `tf.control_dependencies` is only for operations that are still to be made.
    op._add_control_inputs(before)
