"""What a model of the user's says by ``compile()``, by its policy and by its own methods, and what becomes of it here.

The loss is used. What can't be honoured yet is refused by name (`check`), or the run goes without it and its row says
so (`unused`): the optimizer, for instance, is that of ``--optimizer`` under every strategy.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import UsageError

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]

_METHODS = ("train_step", "test_step", "compute_loss", "make_train_function", "make_test_function", "fit", "evaluate")
"""That decide what is trained or evaluated under ``model.fit``; a model's own are not called here."""

_REPORTED = {"accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy"}
"""Metrics that a run's row has anyway."""

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
        if _is_own(model, name):
            raise UsageError(
                f"model {reference} must leave {name} to Keras: a model's own is not supported yet. "
                f"Received: {type(model).__name__}.{name}."
            )
    policies = sorted({layer.dtype_policy.name for layer in [model, *_layers(model)]})
    if "mixed_float16" in policies or type(getattr(model, "optimizer", None)).__name__ == "LossScaleOptimizer":
        raise UsageError(
            f"model {reference} must not need loss scaling: it is not supported yet. "
            f"Received: the dtype policies {', '.join(policies)}. Use float32 or mixed_bfloat16."
        )
    if other := [f"{v.path} ({v.dtype})" for v in model.trainable_variables if v.dtype != "float32"]:
        raise UsageError(
            f"model {reference} must have float32 weights: others are not supported yet. Received: {', '.join(other)}."
        )
    config = _arguments(model)
    if config.get("loss_weights") is not None:
        raise UsageError(
            f"model {reference} must be compiled without loss_weights: they are not supported yet. "
            f"Received: {config['loss_weights']}."
        )
    if isinstance(config.get("loss"), list | tuple | dict):
        raise UsageError(f"model {reference} must have one loss. Received: a {type(config['loss']).__name__}.")
    for layer in _layers(model) if scaled else ():
        if type(layer).__name__ == "Rescaling" and _largest(layer.scale) < _LARGEST_SCALE:
            raise UsageError(
                f"model {reference} scales its examples itself (layer {layer.name}), and the data set scales them too. "
                "Add scale=1 to --dataset, which leaves the examples as they are stored."
            )


def unused(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> str:
    """What the model says, mostly by ``compile()``, and this run does not use, in words; empty if there is nothing.

    Args:
        optimizer: that the run trains with.
    """
    config = _arguments(model)
    words = []
    theirs = getattr(model, "optimizer", None) if "optimizer" in config else None
    if theirs is not None and _settings(theirs) != _settings(optimizer):
        words.append(f"optimizer {_optimizer_words(theirs)}")
    for kind in ("metrics", "weighted_metrics"):
        names = [name for name in _names(config.get(kind)) if name not in _REPORTED]
        if names:
            words.append(f"{kind} {', '.join(names)}")
    if (reduction := _reduction(model)) is not None:
        words.append(f"loss reduction {reduction} (the mean is used)")
    if _is_own(model, "compute_metrics"):
        words.append("compute_metrics of its own")
    if config.get("jit_compile") is True:
        words.append("jit_compile=True")
    if config.get("run_eagerly"):
        words.append("run_eagerly=True")
    if (config.get("steps_per_execution") or 1) > 1:
        words.append(f"steps_per_execution={config['steps_per_execution']}")
    if sparse := [layer.name for layer in _layers(model) if type(layer).__name__ == "Embedding"]:
        words.append(f"sparse gradients of {', '.join(sparse)} (dense ones are used)")
    return "; ".join(words)


def loss_function(model: keras.Model, classes: int) -> Loss:
    """Scalar mean loss of (class indices, predictions), from the compiled loss if the model has one.

    Without one it is sparse categorical cross-entropy, of logits unless the model ends in a softmax. As under
    ``model.fit`` the loss is computed in Keras's float type, whatever type the predictions have.
    """
    import keras
    from keras import ops

    chosen = getattr(model, "loss", None)
    if chosen is None:
        chosen = keras.losses.SparseCategoricalCrossentropy(from_logits=not _ends_in_softmax(model))
    chosen = keras.losses.get(chosen)
    # Keras's Loss.call gives one value an example, so that the mean is ours whatever reduction the user chose.
    per_example = chosen.call if isinstance(chosen, keras.losses.Loss) else chosen
    dtype = getattr(chosen, "dtype", None) or keras.config.floatx()
    sparse = takes_indices(chosen)

    def loss(y: Tensor, predictions: Tensor) -> Tensor:
        predictions = ops.cast(predictions, dtype)
        target = y if sparse else ops.one_hot(y, classes, dtype=dtype)
        return ops.mean(per_example(target, predictions))

    return loss


def takes_indices(loss: Any) -> bool:
    """Whether a loss wants class indices, by "sparse" in its name or its class's; any other is given one-hot rows."""
    loss = getattr(loss, "func", loss)
    names = [
        getattr(loss, "name", ""),
        getattr(loss, "__name__", ""),
        getattr(getattr(loss, "fn", None), "__name__", ""),
    ]
    names += [cls.__name__ for cls in type(loss).__mro__]
    return any("sparse" in str(name).lower() for name in names)


def _is_own(model: keras.Model, name: str) -> bool:
    """Whether the method is the user's, not Keras's."""
    method = vars(model).get(name) or getattr(type(model), name, None)
    module = getattr(inspect.unwrap(method), "__module__", "") if method else "keras."
    return not str(module).startswith("keras.")


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers, those of nested models and layers too."""
    for layer in getattr(model, "layers", None) or getattr(model, "_layers", None) or []:
        yield layer
        yield from _layers(layer)


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


def _arguments(model: keras.Model) -> Mapping[str, Any]:
    """What ``compile`` was given, by name; empty for a model that was not compiled."""
    return vars(model).get(_RECORD, {})


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


def _names(metrics: Any) -> Iterator[str]:
    if isinstance(metrics, Mapping):
        metrics = list(metrics.values())
    for metric in metrics if isinstance(metrics, list | tuple) else [] if metrics is None else [metrics]:
        if isinstance(metric, list | tuple | Mapping):
            yield from _names(metric)
        else:
            yield str(
                metric if isinstance(metric, str) else getattr(metric, "name", getattr(metric, "__name__", metric))
            )


def _reduction(model: keras.Model) -> str | None:
    """The compiled loss's, if it makes another number of a batch's losses than their mean."""
    reduction = getattr(getattr(model, "loss", None), "reduction", "mean")
    return None if reduction in ("mean", "sum_over_batch_size", "mean_with_sample_weight") else str(reduction).lower()


def _largest(scale: Any) -> float:
    import numpy as np

    return float(np.max(np.abs(np.asarray(scale, "float64"))))


def _ends_in_softmax(model: keras.Model) -> bool:
    """Whether the last layer, of the last model where models are nested, gives probabilities."""
    import keras

    last: Any = model
    while isinstance(last, keras.Model) and last.layers:
        last = last.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return isinstance(last, keras.layers.Softmax) or activation == "softmax"
