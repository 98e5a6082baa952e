"""The models that come with stratbench, and the user's own by ``package.module:function``.

Arguments of a function here after (shape, classes) are options, as in ``mlp-wide:units=5950``: integers from 1.

A model's function returns a Keras model with one input and one output of shape (None, classes). It may be compiled
with a loss; without one the loss is sparse categorical cross-entropy. A loss whose name holds "sparse" is given class
indices, any other one-hot rows.

The models here are smooth on purpose. A ReLU or a max-pooling has a kink, and where rounding alone puts two strategies
on its two sides their weights part by 1e-4 and more within a few steps: equality could not tell a bug from chance.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .spec import parse_options

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Builder = Callable[..., "keras.Model"]
SMALLEST_IMAGE = 13
"""Pixels a side that the convolutions of `cnn` leave anything of."""

Loss = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]


def mlp(shape: tuple[int, ...], classes: int) -> keras.Model:
    """784-16-16-10 with sigmoids and squared error, the student study's: so little work that overheads show."""
    import keras

    model = keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="sigmoid"),
            keras.layers.Dense(16, activation="sigmoid"),
            keras.layers.Dense(classes),
        ],
        name="mlp",
    )

    def half_squared_error(y: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        return 0.5 * keras.ops.sum(keras.ops.square(predictions - y), axis=-1)

    model.compile(loss=half_squared_error)
    return model


def mlp_wide(shape: tuple[int, ...], classes: int, units: int = 1024) -> keras.Model:
    """784-1024-1024-10, about 1.9 M parameters for little arithmetic: communication-bound on purpose."""
    import keras

    return keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="gelu"),
            keras.layers.Dense(units, activation="gelu"),
            keras.layers.Dense(classes),
        ],
        name="mlp-wide",
    )


def cnn(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Two 5×5 convolutions (32, 64) of stride 2 and a dense layer of 128: enough work to distribute."""
    import keras

    # No biases where a gradient sums over positions: it nearly cancels, and what is left of it is rounding.
    return keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Conv2D(32, 5, strides=2, activation="gelu", use_bias=False),
            keras.layers.Conv2D(64, 5, strides=2, activation="gelu", use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="gelu"),
            keras.layers.Dense(classes),
        ],
        name="cnn",
    )


BUILDERS: dict[str, Builder] = {"cnn": cnn, "mlp": mlp, "mlp-wide": mlp_wide}


def summaries() -> dict[str, str]:
    """Name → one line with its options, of the models that come with stratbench."""
    lines = {}
    for name, builder in BUILDERS.items():
        settings = "".join(f" ({key}={default})" for key, default in _options(builder).items())
        lines[name] = inspect.cleandoc(builder.__doc__ or "").splitlines()[0] + settings
    return lines


def check_reference(reference: str) -> None:
    """Refuse what can be seen to be wrong without loading TensorFlow. Raises UsageError."""
    if _own(reference) is not None:
        return
    module, colon, function = reference.partition(":")
    if colon and module and function:
        return
    near = difflib.get_close_matches(reference, BUILDERS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(
        f"model must be one of {', '.join(BUILDERS)}, or package.module:function. Received: '{reference}'.{hint}"
    )


def check_fit(reference: str, shape: tuple[int, ...]) -> None:
    """Refuse a model of stratbench's own that can't take examples of ``shape``. Raises UsageError."""
    if reference == "cnn" and (len(shape) != 3 or min(shape[:2]) < SMALLEST_IMAGE):
        raise UsageError(
            f"model cnn needs images of shape (height, width, channels), at least {SMALLEST_IMAGE}×{SMALLEST_IMAGE}. "
            f"Received: examples of shape {shape}; mlp and mlp-wide take any."
        )


def build(reference: str, shape: tuple[int, ...], classes: int) -> keras.Model:
    """The model, built for examples of ``shape``. Raises UsageError for one that does not import or does not fit."""
    import keras

    if (own := _own(reference)) is not None:
        name, options = own
        check_fit(name, shape)
        return BUILDERS[name](shape, classes, **options)
    function = _import(reference)
    required = len(_required(function))
    if required not in (0, 2):
        raise UsageError(
            f"model {reference} must take no arguments or (shape, classes). Received: a function of {required}."
        )
    try:
        model = function(shape, classes) if required else function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"model {reference} failed when called: {_one_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise UsageError(f"model {reference} must return a Keras model. Received: {type(model).__name__}.")
    _check_shapes(reference, model, shape, classes)
    return model


def loss_function(model: keras.Model, classes: int) -> Loss:
    """Scalar mean loss of (class indices, predictions), from the compiled loss if the model has one."""
    import keras
    import tensorflow as tf

    chosen = getattr(model, "loss", None)
    if chosen is None:
        chosen = keras.losses.SparseCategoricalCrossentropy(from_logits=not _ends_in_softmax(model))
    chosen = keras.losses.get(chosen)
    names = (getattr(chosen, "name", ""), getattr(chosen, "__name__", ""), type(chosen).__name__)
    # Keras's Loss.call gives one value an example, so that the mean is ours whatever reduction the user chose.
    per_example = chosen.call if isinstance(chosen, keras.losses.Loss) else chosen
    sparse = any("sparse" in str(name).lower() for name in names)

    def loss(y: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        target = y if sparse else tf.one_hot(y, classes, dtype=predictions.dtype)
        return tf.reduce_mean(per_example(target, predictions))

    return loss


def activation_bytes(model: keras.Model, examples: int) -> int | None:
    """Bytes of the outputs of all layers for so many examples, as float32; None where a shape is not known."""
    try:
        shapes = [tuple(layer.output.shape)[1:] for layer in model.layers]
    except (AttributeError, ValueError):
        return None
    if any(size is None for shape in shapes for size in shape):
        return None
    return 4 * examples * sum(math.prod(shape) for shape in shapes)


def _own(reference: str) -> tuple[str, dict[str, int]] | None:
    """Name and options of a model of stratbench's own; None for any other. Raises UsageError for unfit options."""
    name, colon, text = reference.partition(":")
    # Without "=" it may be a function of the user's module of that name.
    if name not in BUILDERS or (colon and "=" not in text):
        return None
    known = _options(BUILDERS[name])
    options = parse_options(text.split(",") if colon else [])
    for key, value in options.items():
        if key not in known:
            has = f"has the options {', '.join(known)}" if known else "has no options"
            raise UsageError(f"model {name} {has}. Received: '{key}'.")
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"option {key} of model {name} must be an integer, at least 1. Received: '{value}'.")
    return name, {key: int(value) for key, value in options.items()}


def _options(builder: Builder) -> dict[str, int]:
    """Names and defaults."""
    parameters = inspect.signature(builder).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _ends_in_softmax(model: keras.Model) -> bool:
    """Whether the last layer, of the last model where models are nested, gives probabilities."""
    import keras

    last: Any = model
    while isinstance(last, keras.Model) and last.layers:
        last = last.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return isinstance(last, keras.layers.Softmax) or activation == "softmax"


def _import(reference: str) -> Callable[..., Any]:
    module_name, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"model {reference}: {module_name} does not import: {_one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"model {reference}: {module_name} has no function '{name}'.{hint}")
    return function


def _required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def _check_shapes(reference: str, model: keras.Model, shape: tuple[int, ...], classes: int) -> None:
    import numpy as np

    try:
        output = model(np.zeros((2, *shape), "float32"))
    except Exception as error:
        raise UsageError(f"model {reference} must accept examples of shape {shape}: {_one_line(error)}") from error
    received = tuple(getattr(output, "shape", ()))
    if received != (2, classes):
        text = f"(None, {', '.join(map(str, received[1:]))})" if received else type(output).__name__
        raise UsageError(f"model {reference} must have the output shape (None, {classes}). Received: {text}.")


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
