"""When weights are evaluated: after every so many epochs or steps, and after the last step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ...errors import UsageError
from .task import MOST_COUNT

EVERY_EPOCH = "1epoch"
"""By default."""
_FORM = re.compile(r"(\d{1,20}) ?(step|epoch)s?", re.ASCII)


@dataclass(frozen=True)
class Evaluations:
    """After every ``count`` epochs, or steps of the run."""

    count: int
    unit: Literal["step", "epoch"]

    def due(self, done: int, steps_per_epoch: int) -> bool:
        """Whether one is made after so many steps, if they are not the last ones."""
        return done % (self.count * (steps_per_epoch if self.unit == "epoch" else 1)) == 0

    def number(self, total_steps: int, steps_per_epoch: int) -> int:
        """How many are made in a run."""
        return -(-total_steps // (self.count * (steps_per_epoch if self.unit == "epoch" else 1)))

    def __str__(self) -> str:
        return f"{self.count}{self.unit}{'' if self.count == 1 else 's'}"


def parse(text: str) -> Evaluations:
    """``500steps`` or ``2epochs``. Raises UsageError."""
    found = _FORM.fullmatch(text)
    if not found or not 1 <= int(found[1]) <= MOST_COUNT:
        raise UsageError(
            f"--evaluate-every must be a number of steps or epochs, such as 500steps or 2epochs. Received: '{text}'."
        )
    return Evaluations(int(found[1]), "step" if found[2] == "step" else "epoch")
