"""A Keras model as a list of calls of its layers, in an order in which each finds what it needs.

Source: the graph that Keras keeps of a functional or sequential model, whose nodes ``Functional.call`` runs one by one.
Models within the model are taken apart, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras.src.models.functional import Functional

from ...errors import UsageError

if TYPE_CHECKING:
    from ..trainer import Structure, Tensor


class Value:
    """A tensor that a call gives, or one of the model's inputs, wherever it is computed."""


Values = Mapping[Value, Any]
"""The tensors that are known so far."""


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of another operation.

    Attributes:
        number: of the call, which is in the names of its operations in a graph.
        name: of the layer; empty for what no user has named.
        operation: what is called with ``args`` and ``kwargs``, in which a `Value` stands for its tensor.
        outputs: in the order of the flattened result.
    """

    number: int
    name: str
    operation: Callable[..., Structure]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value, ...]

    @property
    def inputs(self) -> list[Value]:
        """The tensors that it takes."""
        return [each for each in keras.tree.flatten((self.args, self.kwargs)) if isinstance(each, Value)]

    @property
    def scope(self) -> str:
        """Of names of its operations. Those of their gradients have it, too."""
        return f"call_{self.number}_"

    @property
    def variables(self) -> list[keras.Variable]:
        """Of its layer: weights, and the state of random generators."""
        return list(getattr(self.operation, "variables", []))

    def __call__(self, known: Values) -> dict[Value, Tensor]:
        """Compute its outputs, in training."""
        args, kwargs = keras.tree.map_structure(
            lambda each: known[each] if isinstance(each, Value) else each, (self.args, self.kwargs)
        )
        # As Functional.call does: also where a layer was called with training=False.
        if "training" in getattr(self.operation, "_call_context_args", ()):
            kwargs["training"] = True
        found = keras.tree.flatten(self.operation(*args, **kwargs))
        return dict(zip(self.outputs, found, strict=True))


@dataclasses.dataclass(frozen=True)
class Calls:
    """All calls of a model.

    Attributes:
        inputs: of the model, in the order of the flattened batch.
        outputs: the structure in which the model gives its outputs.
    """

    inputs: Sequence[Value]
    calls: Sequence[Call]
    outputs: Structure


def calls_of(model: keras.Model) -> Calls:
    """Take the model apart. Raises UsageError for one that computes by code of its own."""
    function = _function(model)
    if function is None:
        raise UsageError(
            f"only functional and sequential models can be cut into parts. Received: {type(model).__name__}, "
            "which computes in a call() of its own."
        )
    inputs = [Value() for _ in function.inputs]
    calls: list[Call] = []
    outputs = _append(function, keras.tree.pack_sequence_as(function._inputs_struct, inputs), calls)
    return Calls(inputs, calls, outputs)


def _function(model: Any) -> Functional | None:
    """The graph that a model's ``call`` runs; None if it runs something else."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def _append(function: Functional, inputs: Structure, calls: list[Call]) -> Structure:
    """Append the calls of ``function``; the structure of what it gives."""
    taken = tuple(Value() for _ in function.inputs)
    # Its inputs may come as other types, or under names.
    calls.append(Call(len(calls), "", function._standardize_inputs, (inputs,), {}, taken))
    known = dict(zip(map(id, function.inputs), taken, strict=True))

    def value(each: Any) -> Any:
        return known[id(each)] if isinstance(each, keras.KerasTensor) else each

    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if node.is_input:
                continue
            args, kwargs = node.arguments.convert(value)
            inner = _function(node.operation)
            if inner is not None and len(args) == 1 and kwargs.keys() <= {"training"}:
                outputs = keras.tree.flatten(_append(inner, args[0], calls))
            else:
                outputs = [Value() for _ in node.outputs]
                calls.append(Call(len(calls), node.operation.name, node.operation, args, kwargs, tuple(outputs)))
            known.update(zip(map(id, node.outputs), outputs, strict=True))
    outputs = keras.tree.map_structure(value, function._outputs_struct)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs
