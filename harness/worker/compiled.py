"""What a model of the user's says by ``compile()``, by its policy and by its own methods, and what becomes of it here.

Losses, their weights and metrics are used: see `objective`. What can't be honoured yet is refused by name (`check`), or
the run goes without it and its row says so (`unused`): the optimizer, for instance, if ``--optimizer`` gives another.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import UsageError

if TYPE_CHECKING:
    import keras

_METHODS = ("make_train_function", "make_test_function", "fit", "evaluate")
"""That decide what is trained or evaluated under ``model.fit``; a model's own are not called here."""

OWN_STEP = "train_step"

_RECORD = "_stratbench_compiled"
"""Attribute of a model: the arguments of its last ``compile()``."""

_LARGEST_SCALE = 0.1
"""A Rescaling layer by less than this is meant for bytes."""


def check(reference: str, model: keras.Model, scaled: bool) -> None:
    """Refuse, by name, what would change the work and can't be honoured yet.

    Args:
        scaled: whether the data set's examples are scaled before the model sees them.

    Raises:
        UsageError: one line that names it and the way out.
    """
    for name in _METHODS:
        if has_own(model, name):
            raise UsageError(
                f"model {reference} must leave {name} to Keras: a model's own is not supported yet. "
                f"Received: {type(model).__name__}.{name}."
            )
    if other := [f"{v.path} ({v.dtype})" for v in model.trainable_variables if v.dtype != "float32"]:
        raise UsageError(
            f"model {reference} must have float32 weights: others are not supported yet. Received: {', '.join(other)}."
        )
    for layer in layers(model) if scaled else ():
        if type(layer).__name__ == "Rescaling" and _largest(layer.scale) < _LARGEST_SCALE:
            raise UsageError(
                f"model {reference} scales its examples itself (layer {layer.name}), and the data set scales them too. "
                "Add scale=1 to --dataset, which leaves the examples as they are stored."
            )


def unused(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None = None,
    scheduled: bool = False,
    jit: bool | None = None,
    apart: bool = False,
) -> str:
    """What the model says, mostly by ``compile()``, and this run does not use, in words; empty if there is nothing.

    Args:
        optimizer: that the run trains with; by default the model's own.
        scheduled: whether its rate follows the model's own schedule.
        jit: whether XLA compiles the step; by default as the model says.
        apart: whether the layers of one replica know nothing of other replicas.
    """
    config = arguments(model)
    words = []
    theirs = own_optimizer(model) if "optimizer" in config else None
    if theirs is not None and optimizer is not None and _differ(theirs, optimizer, scheduled):
        words.append(f"optimizer {_optimizer_words(theirs)}")
    said = config.get("jit_compile")
    if isinstance(said, bool) and jit is not None and said != jit:
        words.append(f"jit_compile={said}")
    if config.get("run_eagerly"):
        words.append("run_eagerly=True")
    if (config.get("steps_per_execution") or 1) > 1:
        words.append(f"steps_per_execution={config['steps_per_execution']}")
    if synchronized := [each.name for each in layers(model) if apart and getattr(each, "synchronized", False)]:
        words.append(f"synchronized=True of {', '.join(synchronized)}")
    return "; ".join(words)


def own_optimizer(model: keras.Model) -> keras.optimizers.Optimizer | None:
    """That of ``compile``, without what scales the loss around it."""
    own = getattr(model, "optimizer", None)
    return getattr(own, "inner_optimizer", own)


def tables(model: keras.Model) -> dict[str, str]:
    """Path of each embedding table → its layer's name. Keras's own gradients of them are sparse."""
    import keras

    embeddings = [layer for layer in layers(model) if isinstance(layer, keras.layers.Embedding)]
    return {
        layer._embeddings.path: layer.name for layer in embeddings if getattr(layer, "_embeddings", None) is not None
    }


def has_own(model: keras.Model, name: str) -> bool:
    """Whether the method is the user's, not Keras's."""
    method = vars(model).get(name) or getattr(type(model), name, None)
    module = getattr(inspect.unwrap(method), "__module__", "") if method else "keras."
    return not str(module).startswith("keras.")


def layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers, those of nested models and layers too."""
    for layer in getattr(model, "layers", None) or getattr(model, "_layers", None) or []:
        yield layer
        yield from layers(layer)


@contextmanager
def recording() -> Iterator[None]:
    """Note what models are compiled with meanwhile: Keras itself keeps no trace of what was left to its defaults."""
    import keras

    original = keras.Model.compile

    @functools.wraps(original)
    def compile(model: keras.Model, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(original).bind(model, *args, **kwargs).arguments
        # Not by a plain assignment, as Keras would take the dictionary for a part of the model.
        object.__setattr__(model, _RECORD, {key: value for key, value in given.items() if key != "self"})
        original(model, *args, **kwargs)

    keras.Model.compile = compile
    try:
        yield
    finally:
        del keras.Model.compile


def arguments(model: keras.Model) -> Mapping[str, Any]:
    """What ``compile`` was given, by name; empty for a model that was not compiled."""
    return vars(model).get(_RECORD, {})


def _differ(one: keras.optimizers.Optimizer, other: keras.optimizers.Optimizer, scheduled: bool) -> bool:
    ours, theirs = _settings(one), _settings(other)
    if scheduled:
        theirs["learning_rate"] = ours["learning_rate"]
    return ours != theirs


def _settings(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    config = {key: value for key, value in optimizer.get_config().items() if key != "name"}
    rate = config.get("learning_rate")
    return {"class": type(optimizer).__name__} | config | {"learning_rate": _number(rate)}


def _number(value: Any) -> Any:
    # The rate went through float32 in one of them.
    return f"{value:.6g}" if isinstance(value, int | float) else value


def _optimizer_words(optimizer: keras.optimizers.Optimizer) -> str:
    """``Adam(learning_rate=0.0001, clipnorm=1.0)``: the rate, and what differs from the class's defaults."""
    try:
        defaults = type(optimizer)().get_config()
    except Exception:
        defaults = {}
    config = optimizer.get_config()
    rate = config.pop("learning_rate", None)
    shown = [f"learning_rate={rate['class_name'] if isinstance(rate, dict) else _number(rate)}"]
    shown += [f"{key}={value}" for key, value in config.items() if key != "name" and value != defaults.get(key)]
    return f"{type(optimizer).__name__}({', '.join(shown)})"


def _largest(scale: Any) -> float:
    import numpy as np

    return float(np.max(np.abs(np.asarray(scale, "float64"))))
