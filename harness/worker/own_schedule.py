"""A schedule of Keras, or of the user's, that a model's optimizer has as its learning rate.

As in ``fit``, it is asked for the rate of every step, those without an update of ``gradient_accumulation_steps`` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import backend
from .compiled import own_optimizer

if TYPE_CHECKING:
    import keras

_BLOCK = 512
"""Rates that are computed together: one alone takes about as long as a short step."""
_POINTS = 256
_MOST_WORDS = 300
"""Characters: the tables hold the text in every row."""


def of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The ``keras.optimizers.schedules.LearningRateSchedule``; None if the rate is a number, or anything else."""
    import keras

    # ``optimizer.learning_rate`` is the schedule's present value.
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def make_describable(model: keras.Model) -> None:
    """Have ``optimizer.get_config`` work with a schedule of the user's without ``get_config``, which ``fit`` allows."""
    optimizer = own_optimizer(model)
    schedule = of(optimizer) if optimizer is not None else None
    if schedule is None:
        return
    try:
        schedule.get_config()
    except NotImplementedError:
        schedule.get_config = dict


def words(schedule: Any) -> str:
    """``CosineDecay(initial_learning_rate=0.1, decay_steps=100)``: what differs from the defaults of its class."""
    import inspect

    config = schedule.get_config()
    parameters = inspect.signature(type(schedule)).parameters
    usual = {key: parameters[key].default for key in config if key in parameters}
    shown = [f"{key}={value}" for key, value in config.items() if key != "name" and value != usual.get(key)]
    text = f"{type(schedule).__name__}({', '.join(shown)})"
    return text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]}…"


def first_rate(schedule: Any, total_steps: int) -> float:
    """The rate of the first step; where that is 0, the largest one of the run."""
    points = np.linspace(0, max(0, total_steps - 1), _POINTS, dtype="int64")
    found = backend.rates(schedule)(points)
    return float(found[0] if found[0] > 0 else found.max())


class OwnSchedule:
    """The learning rate of each update.

    Args:
        schedule: see `of`.
        scale: factor of each step, of the batch and the warm-up.
    """

    def __init__(self, schedule: Any, scale: Callable[[int], float]):
        self._compute, self._scale = backend.rates(schedule), scale
        # Now, as the first call takes longer than later ones.
        self._compute_block(0)

    def _compute_block(self, block: int) -> None:
        steps = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype="int64")
        self._block, self._rates = block, self._compute(steps)

    def __call__(self, step: int) -> float:
        """The rate of update ``step``, counted from 0."""
        block, place = divmod(step, _BLOCK)
        if block != self._block:
            self._compute_block(block)
        return float(self._rates[place]) * self._scale(step)
