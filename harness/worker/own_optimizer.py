"""The optimizer that a model is compiled with, in the words of ``--optimizer`` and ``--learning-rate``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..plan import optimizers

if TYPE_CHECKING:
    import keras


def said(reference: str, model: keras.Model) -> dict[str, Any]:
    """``{"optimizer": …, "learning_rate": …}``; empty for a model without one.

    Returns:
        ``{"problem": …}``, one sentence, for an optimizer that ``--optimizer`` can't name.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return {}
    try:
        choice, rate = _choice(optimizer)
    except UsageError as error:
        return {"problem": f"model {reference} must be compiled with an optimizer that can be used. Received: {error}"}
    return {"optimizer": str(choice), "learning_rate": rate}


def _choice(optimizer: keras.optimizers.Optimizer) -> tuple[optimizers.Choice, float]:
    """Raises UsageError with what is not supported."""
    import keras

    kind = type(optimizer)
    names = [name for name, known in optimizers.CLASSES.items() if getattr(keras.optimizers, known) is kind]
    if not names:
        raise UsageError(f"{kind.__name__}, which is not one of {', '.join(sorted(set(optimizers.CLASSES.values())))}.")
    config = optimizer.get_config()
    rate = config.pop("learning_rate")
    if not isinstance(rate, int | float):
        schedule = rate.get("class_name") if isinstance(rate, dict) else type(rate).__name__
        raise UsageError(f"{kind.__name__} with the learning rate {schedule}; --lr-schedule has some.")
    usual = kind.__name__.lower()
    name, differing = min(
        (_differing(name, config) for name in names), key=lambda each: (len(each[1]), each[0] != usual)
    )
    words = [f"{key}={json.dumps(value, default=str)}" for key, value in differing.items()]
    try:
        return optimizers.parse(f"{name}:{','.join(words)}" if words else name), float(f"{rate:.7g}")
    except UsageError:
        raise UsageError(f"{kind.__name__} with {', '.join(words)}, which is not supported yet.") from None


def _differing(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The settings that differ from those of the optimizer which is called so on the command line."""
    import keras

    settings = optimizers.parse(name).settings
    usual = getattr(keras.optimizers, settings.pop("name"))(**settings).get_config()
    return name, {key: value for key, value in config.items() if key != "name" and value != usual[key]}
