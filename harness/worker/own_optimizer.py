"""The optimizer that a model is compiled with, in the words of ``--optimizer`` and ``--learning-rate``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..plan import optimizers
from . import compiled, own_schedule
from .wording import one_line

if TYPE_CHECKING:
    import keras


def said(reference: str, model: keras.Model, total_steps: int) -> dict[str, Any]:
    """``{"optimizer": …, "learning_rate": …}``, and ``"schedule"`` if it has one; empty for a model without optimizer.

    Args:
        total_steps: of the run.

    Returns:
        ``{"problem": …}``, one sentence, for an optimizer that ``--optimizer`` can't name.
    """
    optimizer = compiled.own_optimizer(model)
    if optimizer is None:
        return {}
    try:
        choice = _choice(optimizer)
        schedule = own_schedule.of(optimizer)
        rate = own_schedule.first_rate(schedule, total_steps) if schedule else float(optimizer.learning_rate)
    except UsageError as error:
        return {"problem": f"model {reference} must be compiled with an optimizer that can be used. Received: {error}"}
    except Exception as error:
        return {"problem": f"model {reference} has an optimizer whose schedule fails: {one_line(error)}."}
    if not rate > 0:
        return {"problem": f"model {reference} has an optimizer whose learning rate is {rate:g} in all steps."}
    found = {"optimizer": str(choice), "learning_rate": float(f"{rate:.7g}")}
    return found | ({"schedule": own_schedule.words(schedule)} if schedule else {})


def described(optimizer: keras.optimizers.Optimizer) -> str:
    """``adam:beta_1=0.5 (learning rate 0.0002)``, also for one that ``--optimizer`` can't name."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    try:
        name = str(_choice(inner))
    except UsageError:
        name = type(inner).__name__
    schedule = own_schedule.of(inner)
    # Of tf.distribute's variables, Python's own conversion is not known.
    rate = own_schedule.words(schedule) if schedule else f"{float(inner.learning_rate.numpy()):g}"
    return f"{name} (learning rate {rate})"


def _choice(optimizer: keras.optimizers.Optimizer) -> optimizers.Choice:
    """Raises UsageError with what is not supported."""
    import keras

    kind = type(optimizer)
    names = [name for name, known in optimizers.CLASSES.items() if getattr(keras.optimizers, known) is kind]
    if not names:
        raise UsageError(f"{kind.__name__}, which is not one of {', '.join(sorted(set(optimizers.CLASSES.values())))}.")
    config = optimizer.get_config()
    rate = config.pop("learning_rate")
    if not isinstance(rate, int | float) and not own_schedule.of(optimizer):
        raise UsageError(
            f"{kind.__name__} with a function as its learning rate; use a number, or a LearningRateSchedule."
        )
    if config.get("weight_decay") and _decays_some_only(optimizer):
        raise UsageError(f"{kind.__name__} with exclude_from_weight_decay, which is not supported yet.")
    usual = kind.__name__.lower()
    name, differing = min(
        (_differing(name, config) for name in names), key=lambda each: (len(each[1]), each[0] != usual)
    )
    words = [f"{key}={json.dumps(value, default=str)}" for key, value in differing.items()]
    try:
        return optimizers.parse(f"{name}:{','.join(words)}" if words else name)
    except UsageError:
        raise UsageError(f"{kind.__name__} with {', '.join(words)}, which is not supported yet.") from None


def _decays_some_only(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether ``exclude_from_weight_decay`` was called; its configuration does not say so."""
    names = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
    return any(getattr(optimizer, name, None) for name in names)


def _differing(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The settings that differ from those of the optimizer which is called so on the command line."""
    import keras

    settings = optimizers.parse(name).settings
    usual = getattr(keras.optimizers, settings.pop("name"))(**settings).get_config()
    return name, {key: value for key, value in config.items() if key != "name" and value != usual[key]}
