"""The models that come with stratbench, and the user's own by ``package.module:function``.

Arguments of a function here after (shape, classes) are options, as in ``mlp-wide:units=5950``: integers from 1.

The models here are smooth on purpose. ReLU and max-pooling are not smooth: if rounding puts two strategies on different
sides of a kink, their weights differ by 1e-4 and more within a few steps. A test of equality could not distinguish this
from a bug.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import UsageError
from .pairs import parse_options

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ...datasets.base import Info

Builder = Callable[..., "keras.Model"]
SMALLEST_IMAGE = 13
"""Smallest height and width, in pixels, for the convolutions of `cnn`."""
_MOST_DIGITS = 9


def mlp(shape: tuple[int, ...], classes: int) -> keras.Model:
    """784-16-16-10 with sigmoids and squared error, as in the student study: so little work that overheads show."""
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

    model.compile(optimizer=None, loss=half_squared_error)
    return model


def mlp_wide(shape: tuple[int, ...], classes: int, units: int = 1024) -> keras.Model:
    """784-1024-1024-10, about 1.9 M parameters and little arithmetic: communication-bound on purpose."""
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

    # No biases in convolutions: their gradient sums over positions, nearly cancels, and would be mostly rounding.
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
    """Name → one line with the options, for the models that come with stratbench."""
    lines = {}
    for name, builder in BUILDERS.items():
        settings = "".join(f" ({key}={default})" for key, default in _options(builder).items())
        lines[name] = inspect.cleandoc(builder.__doc__ or "").splitlines()[0] + settings
    return lines


def check_reference(reference: str) -> None:
    """Raise UsageError for a wrong reference, as far as this is known without loading TensorFlow."""
    if own(reference) is not None:
        return
    module, colon, function = reference.partition(":")
    if colon and module and function:
        return
    near = difflib.get_close_matches(reference, BUILDERS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(
        f"model must be one of {', '.join(BUILDERS)}, or package.module:function. Received: '{reference}'.{hint}"
    )


def check_fit(name: str, info: Info) -> None:
    """Raise UsageError if a model of stratbench can't be trained on a data set."""
    if info.classes is None:
        raise UsageError(
            f"model {name} needs one class label an example. Received: {info.not_classes}. "
            "Give a model of your own by --model package.module:function."
        )
    shape = info.shape
    if name == "cnn" and (len(shape) != 3 or min(shape[:2]) < SMALLEST_IMAGE):
        raise UsageError(
            f"model cnn needs images of shape (height, width, channels), at least {SMALLEST_IMAGE}×{SMALLEST_IMAGE}. "
            f"Received: examples of shape {shape}; mlp and mlp-wide take any."
        )


def own(reference: str) -> tuple[str, dict[str, int]] | None:
    """Name and options of a model of stratbench; None for any other model. Raises UsageError for wrong options."""
    name, colon, text = reference.partition(":")
    # Without "=" it may be a function in the user's module with that name.
    if name not in BUILDERS or (colon and "=" not in text):
        return None
    known = _options(BUILDERS[name])
    options = parse_options(text.split(",") if colon else [])
    for key, value in options.items():
        if key not in known:
            has = f"has the options {', '.join(known)}" if known else "has no options"
            raise UsageError(f"model {name} {has}. Received: '{key}'.")
        if value.isdecimal() and len(value) > _MOST_DIGITS:
            raise UsageError(f"option {key} of model {name} must have at most {_MOST_DIGITS} digits, not {len(value)}.")
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"option {key} of model {name} must be an integer, at least 1. Received: '{value}'.")
    return name, {key: int(value) for key, value in options.items()}


def _options(builder: Builder) -> dict[str, int]:
    """Names and defaults."""
    parameters = inspect.signature(builder).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
