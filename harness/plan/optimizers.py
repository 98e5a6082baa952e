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
    **dict.fromkeys(
        (
            *("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum", "ema_overwrite_frequency"),
            *("loss_scale_factor", "gradient_accumulation_steps"),
        ),
        "it is not supported yet",
    ),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What ``--optimizer`` says.

    Attributes:
        name: a key of `CLASSES`.
        given: settings that the user chose.
    """

    name: str
    given: Settings

    @property
    def default_rate(self) -> float:
        """The learning rate if ``--learning-rate`` is absent."""
        return _RATES.get(self.name, _DEFAULT_RATE)

    @property
    def settings(self) -> dict[str, Any]:
        """``name``, of the class in ``keras.optimizers``, and settings; without the learning rate."""
        return {"name": CLASSES[self.name], **_PRESETS.get(self.name, {}), **self.given}

    def __str__(self) -> str:
        """As on the command line."""
        words = [f"{key}={json.dumps(value)}" for key, value in sorted(self.given.items())]
        return self.name + (f":{','.join(words)}" if words else "")


def parse(text: str) -> Choice:
    """Parse ``name:key=value,…``. Raises UsageError in one line for what is wrong without Keras being asked."""
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
    return Choice(name, given)


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
