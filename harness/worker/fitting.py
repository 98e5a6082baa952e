"""What a model takes and is trained on: ``python -P -m stratbench.harness.worker.fitting FOLDER``.

Generated examples are made to fit it.
The answer is ``{"form": JSON}``, or ``{"unknown": reason}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...datasets.synthetic import Form, Kind, Values
from .answering import answer
from .building import alone
from .compiled import arguments, has_own, layers
from .objective import adds

if TYPE_CHECKING:
    import keras

_SIZES = {"Embedding": "input_dim", "ReversibleEmbedding": "input_dim", "CategoryEncoding": "num_tokens"}
"""Layers that take ids → the attribute that says how many there are."""
_PASSING = ("GetItem", "Cast", "Reshape", "Squeeze", "ExpandDims", "Identity", "Flatten")
"""Operations and layers behind which ids are the same ids."""
_UNKNOWN_LENGTH = 64
"""For dimensions that a model leaves open."""
_BYTES = 256
_KINDS: dict[str, Kind] = {"sparse": "label", "categorical": "one-hot", "kl": "one-hot"}
_KINDS |= dict.fromkeys(("binary", "hinge", "dice", "tversky", "poisson", "log"), "binary")
"""Part of a loss's name → the kind of its targets; the first that fits. Without one, they are real values."""


class UnclearError(Exception):
    """The model does not say what it takes."""


def main() -> None:
    """Answer the launcher's question."""
    answer(lambda question: fitting(**json.loads(question)))


def fitting(model: str, precision: str) -> dict[str, str]:
    """Raises UsageError for a model that can't be built."""
    try:
        made = alone(model, precision)
        return {"form": form_of(made).to_json()} if made is not None else {"unknown": "it takes examples of any shape"}
    except UnclearError as error:
        return {"unknown": str(error)}


def form_of(model: keras.Model) -> Form:
    """Raises UnclearError."""
    import keras

    if not getattr(model, "inputs", None) or not hasattr(model, "input_shape"):
        raise UnclearError("only a functional or sequential model says what its inputs are")
    ids = _ids(model)
    x = keras.tree.map_structure(lambda tensor: _input(tensor, ids), _structure(model, "inputs"))
    outputs = _structure(model, "outputs")
    # In the order in which Keras flattens dictionaries.
    names = sorted(outputs) if isinstance(outputs, Mapping) else list(getattr(model, "output_names", [""]))
    losses = _losses(model, names)
    unlabelled = model.compiled and None in losses and _adds_in_call(model)
    targets = [
        _target(tensor, loss, unlabelled) for tensor, loss in zip(keras.tree.flatten(outputs), losses, strict=True)
    ]
    y = _plain(keras.tree.pack_sequence_as(outputs, targets))
    return Form(_plain(x), _with_next(_plain(x), y))


def _structure(model: keras.Model, name: str) -> Any:
    """Of inputs or outputs: one tensor, or as they were given."""
    given = getattr(model, f"_{name}_struct", None)
    if given is None:
        given = getattr(model, name)
    return given[0] if isinstance(given, list | tuple) and len(given) == 1 else given


def _plain(structure: Any) -> Any:
    """Lists as tuples."""
    if isinstance(structure, Mapping):
        return {key: _plain(each) for key, each in structure.items()}
    return tuple(map(_plain, structure)) if isinstance(structure, list | tuple) else structure


def _sizes(tensor: keras.KerasTensor) -> tuple[int, ...]:
    return tuple(_UNKNOWN_LENGTH if size is None else size for size in tensor.shape[1:])


def _input(tensor: keras.KerasTensor, ids: Mapping[str, int]) -> Values:
    dtype, shape = str(tensor.dtype), _sizes(tensor)
    if dtype == "string":
        raise UnclearError(f"its input {tensor.name} is text")
    if tensor.name in ids:
        return Values(shape, dtype if "int" in dtype else "int32", below=ids[tensor.name])
    if "int" in dtype or dtype == "bool":
        below = _BYTES if dtype == "uint8" else 2
        return Values(shape, dtype, below=min(ids.values(), default=below) if dtype != "bool" else 2)
    return Values(shape, dtype)


def _ids(model: keras.Model) -> dict[str, int]:
    """Name of an input of ids → how many ids there are; under an empty name, the fewest of a nested model's layers."""
    found: dict[str, int] = {}
    for layer in layers(model):
        attribute = next((_SIZES[cls.__name__] for cls in type(layer).__mro__ if cls.__name__ in _SIZES), None)
        if attribute is None:
            continue
        size = getattr(layer, attribute)
        names = {name for node in layer._inbound_nodes for tensor in node.input_tensors for name in _sources(tensor)}
        for name in names & {tensor.name for tensor in model.inputs} or {""}:
            found[name] = min(size, found.get(name, size))
    return found


def _sources(tensor: keras.KerasTensor) -> Iterator[str]:
    """Names of the inputs whose values it has."""
    operation, node, _ = tensor._keras_history
    if type(operation).__name__ == "InputLayer":
        yield tensor.name
    elif type(operation).__name__ in _PASSING:
        for each in operation._inbound_nodes[node].input_tensors:
            yield from _sources(each)


def _losses(model: keras.Model, names: list[str]) -> list[Any]:
    """The loss of each output, by name and place; None where there is none."""
    if has_own(model, "compute_loss"):
        raise UnclearError("it has a compute_loss of its own, which does not say what its targets are")
    loss = arguments(model).get("loss")
    if isinstance(loss, Mapping):
        return [loss.get(name) for name in names]
    if isinstance(loss, list | tuple):
        return list(loss)
    return [loss] * len(names)


def _adds_in_call(model: keras.Model) -> bool:
    """Whether its call adds losses: then its outputs need no targets."""
    import keras

    zeros = keras.tree.map_structure(
        lambda tensor: keras.ops.zeros((2, *_sizes(tensor)), tensor.dtype), _structure(model, "inputs")
    )
    try:
        model(zeros)
    except Exception:
        # The trial tells what is wrong.
        return False
    return adds(model)


def _target(tensor: keras.KerasTensor, loss: Any, unlabelled: bool) -> Values:
    """The target of an output.

    Args:
        unlabelled: whether an output without a loss has no class labels either.
    """
    shape = _sizes(tensor)
    function = getattr(loss, "fn", loss)
    module = str(getattr(type(function) if isinstance(loss, str) else function, "__module__", ""))
    if loss is not None and not isinstance(loss, str) and not module.startswith("keras."):
        raise UnclearError("its loss is not one of Keras's, and does not say what its targets are")
    name = "sparse" if loss is None and len(shape) == 1 and not unlabelled else _name(loss, function)
    kind: Kind = next((kind for part, kind in _KINDS.items() if part in name), "values")
    if kind == "label" and shape:
        return Values(shape[:-1], "int32", "label", max(2, shape[-1]))
    if kind == "one-hot" and len(shape) == 1:
        # As other data sets have it: the run makes rows of them.
        return Values((), "int32", "label", max(2, shape[-1]))
    return Values(shape, "float32", "values" if kind == "label" else kind)


def _name(loss: Any, function: Any) -> str:
    found = loss if isinstance(loss, str) else f"{type(loss).__name__} {getattr(function, '__name__', '')}"
    return str(found).lower()


def _with_next(x: Any, y: Any) -> Any:
    """Scores of all ids at each place of a sequence of ids are those of a language model."""
    import keras

    sequences = {(each.shape, each.below) for each in keras.tree.flatten(x) if each.below is not None and each.shape}

    def changed(each: Values) -> Values:
        is_next = each.kind == "label" and (each.shape, each.below) in sequences
        return Values(each.shape, each.dtype, "next", each.below) if is_next else each

    return keras.tree.map_structure(changed, y)


if __name__ == "__main__":
    main()
