"""The optimizers: Keras's own, by name and with their settings, as in ``adamw:weight_decay=0.01``.

https://keras.io/api/optimizers/. Keras itself checks the settings, in the trial before a run.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

from ...errors import UsageError
from ...results.schema import OWN_OPTIMIZERS as OWN
from ...strategies.base import CLIPPING
from .task import MOST_COUNT

Settings = Mapping[str, bool | int | float | None]

CLASSES = {
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamax": "Adamax",
    "adamw": "AdamW",
    "ftrl": "Ftrl",
    "lamb": "Lamb",
    "lion": "Lion",
    "momentum": "SGD",
    "muon": "Muon",
    "nadam": "Nadam",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
}
"""Name on the command line → class in ``keras.optimizers``. ``momentum`` is SGD with momentum 0.9."""

ACCUMULATION = "gradient_accumulation_steps"
"""The setting of ``--accumulate``, which the strategies honour, not the optimizer."""

STATIC_SCALE = "loss_scale_factor"
"""The setting by which Keras's optimizers scale the loss, and divide gradients."""

SCALED_PRECISION = "mixed_float16"
"""The dtype policy under which Keras scales the loss."""

NOT_SUPPORTED = {"MultiOptimizer", "ScheduleFreeAdamW"}
"""Optimizers of Keras that train several optimizers' parts, or other weights than they evaluate."""

_RATES = {"sgd": 0.1, "momentum": 0.02, "adagrad": 0.01}
_DEFAULT_RATE = 0.001
_PRESETS: Mapping[str, Settings] = {
    "sgd": {"momentum": 0.0},
    "momentum": {"momentum": 0.9},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "adagrad": {"initial_accumulator_value": 0.1, "epsilon": 1e-7},
}
_REFUSED = {
    "learning_rate": "give --learning-rate",
    "name": "leave it out",
    "exclude_layers": "it is not supported yet",
    **dict.fromkeys(("use_ema", "ema_momentum", "ema_overwrite_frequency"), "it is not supported yet"),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What ``--optimizer`` says.

    Attributes:
        name: a key of `CLASSES`, or the words of a model's own optimizers, which begin with `OWN`.
        given: settings that the user chose.
    """

    name: str
    given: Settings

    @property
    def default_rate(self) -> float:
        """The learning rate if ``--learning-rate`` is absent; a factor on the rates of a model's own optimizers."""
        if self.own:
            return 1.0
        return _RATES.get(self.name, _DEFAULT_RATE)

    @property
    def own(self) -> bool:
        """Whether the model's ``train_step`` brings them."""
        return self.name.startswith(OWN)

    @property
    def settings(self) -> dict[str, Any]:
        """``name``, of the class in ``keras.optimizers``, and settings; without the learning rate.

        Those of a model's own optimizers are not known here.
        """
        if self.own:
            return {"name": ""}
        return {"name": CLASSES[self.name], **_PRESETS.get(self.name, {}), **self.given}

    @property
    def accumulate(self) -> int:
        """How many steps' gradients make one update."""
        return int(self.given.get(ACCUMULATION) or 1)

    def changed(self, clip_norm: float | None, accumulate: int | None) -> Choice:
        """With what ``--clip-norm`` and ``--accumulate`` say, in place of its own settings. Raises UsageError."""
        if self.own and (clip_norm is not None or accumulate is not None):
            flag = "--clip-norm" if clip_norm is not None else "--accumulate"
            raise UsageError(f"{flag} does not reach the optimizers of the model's own train_step; leave it out.")
        given = dict(self.given)
        if clip_norm is not None:
            given = {key: value for key, value in given.items() if key not in CLIPPING}
            given["global_clipnorm"] = clip_norm
        if accumulate is not None:
            given.pop(ACCUMULATION, None)
            if accumulate > 1:
                given[ACCUMULATION] = accumulate
        return Choice(self.name, given)

    def __str__(self) -> str:
        """As on the command line."""
        words = [f"{key}={json.dumps(value)}" for key, value in sorted(self.given.items())]
        return self.name + (f":{','.join(words)}" if words else "")


def parse(text: str) -> Choice:
    """Parse ``name:key=value,…``. Raises UsageError in one line for what is wrong without Keras being asked."""
    if text.startswith(OWN):
        return Choice(text, {})
    name, colon, rest = text.strip().partition(":")
    if name not in CLASSES:
        near = difflib.get_close_matches(name, CLASSES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"--optimizer must be one of {', '.join(CLASSES)}. Received: '{text}'.{hint}")
    given: dict[str, bool | int | float | None] = {}
    for part in rest.split(",") if colon else ():
        key, _, value = (each.strip() for each in part.partition("="))
        if key in _REFUSED:
            raise UsageError(f"--optimizer can't set {key}: {_REFUSED[key]}. Received: '{text}'.")
        if not key.isidentifier() or key in given:
            raise UsageError(f"--optimizer must be NAME or NAME:key=value,… with each key once. Received: '{text}'.")
        given[key] = _value(value, text)
    _check(given, text)
    return Choice(name, given)


def _check(given: Settings, whole: str) -> None:
    steps = given.get(ACCUMULATION)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= MOST_COUNT):
        raise UsageError(
            f"--optimizer must have a whole number from 2 to {MOST_COUNT} as {ACCUMULATION}. Received: '{whole}'."
        )
    for key in CLIPPING:
        limit = given.get(key)
        if limit is not None and (isinstance(limit, bool) or not limit > 0):
            raise UsageError(f"--optimizer must have a number above 0 as {key}. Received: '{whole}'.")


def _value(text: str, whole: str) -> bool | int | float | None:
    """A number, true, false or null, as in JSON."""
    try:
        value = json.loads(text.lower())
    except (ValueError, RecursionError):
        value = text
    if value is not None and (not isinstance(value, bool | int | float) or not abs(value) < 1e30):
        raise UsageError(
            f"--optimizer must have numbers below 1e30, true, false or null as its values. Received: '{whole}'."
        )
    return value
