"""Faults that a user requests: ``--inject kill:worker=1,step=50``. Only their description; `inject` injects them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping

from ...errors import UsageError
from .task import MOST_COUNT

GRAMMAR = {
    "slow": "slow:worker=I,factor=F or slow:worker=I,seconds=S[,probability=P]",
    "kill": "kill:worker=I,step=N",
    "pause": "pause:worker=I,step=N,seconds=S",
}
MOST_FACTOR = 1_000_000
MOST_SECONDS = 1_000_000
"""Limits, so that the system can sleep for the product of both."""
_ROLES = {
    "slow": ("worker", "part", "remote"),
    "kill": ("worker", "ps", "part", "remote"),
    "pause": ("worker", "ps", "part", "remote"),
}
"""Of the tasks that can be so. Worker 0 has the first part of a cut model, and coordinates remote workers."""
_KEYS = {
    "slow": {*_ROLES["slow"], "factor", "seconds", "probability"},
    "kill": {*_ROLES["kill"], "step"},
    "pause": {*_ROLES["pause"], "step", "seconds"},
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: ``slow``, ``kill`` or ``pause``.
        role, index: the task that it affects.
        step: it is injected before this step of worker ``index``, counted from 0; of worker 0 for a task that takes no
            steps.
        factor: how many times as long a step takes.
        seconds: how much longer a step takes, or how long the pause is.
        probability: that a step is slowed.
    """

    kind: str
    role: str
    index: int
    step: int | None = None
    factor: float | None = None
    seconds: float | None = None
    probability: float = 1.0

    @property
    def label(self) -> str:
        """``worker-1``: the task that it affects."""
        return f"{self.role}-{self.index}"

    def __str__(self) -> str:
        """The text that a user writes, always in the same form: it is part of the run's id."""
        numbers = {"step": self.step, "factor": self.factor, "seconds": self.seconds}
        if self.probability != 1:
            numbers["probability"] = self.probability
        words = [f"{self.role}={self.index}"]
        words += [f"{name}={value:.15g}" for name, value in numbers.items() if value is not None]
        return f"{self.kind}:{','.join(words)}"


def parse(text: str) -> Fault:
    """Parse ``kind:key=value,…``. Raises UsageError with the grammar, in one line."""
    kind, _, rest = text.strip().partition(":")
    if kind not in GRAMMAR:
        near = difflib.get_close_matches(kind, GRAMMAR, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"--inject must be {', or '.join(GRAMMAR.values())}. Received: '{text}'.{hint}")
    values = _values(kind, rest, text)
    roles = [role for role in _ROLES[kind] if role in values]
    if len(roles) != 1:
        raise _wrong(kind, text)
    numbers = {name: _number(name, value) for name, value in values.items()}
    if None in numbers.values():
        raise _wrong(kind, text)
    index, step = numbers.pop(roles[0]), numbers.pop("step", None)
    fault = Fault(kind, roles[0], int(index or 0), None if step is None else int(step), **numbers)  # type: ignore[arg-type]
    if not _complete(fault):
        raise _wrong(kind, text)
    return fault


_LIMITS: Mapping[str, Callable[[float], bool]] = {
    **dict.fromkeys((*_ROLES["kill"], "step"), lambda value: 0 <= value <= MOST_COUNT and value == int(value)),
    "factor": lambda value: 1 < value <= MOST_FACTOR,
    "seconds": lambda value: 0 < value <= MOST_SECONDS,
    "probability": lambda value: 0 < value <= 1,
}


def _complete(fault: Fault) -> bool:
    """Whether the fault has everything that its kind needs, and nothing that contradicts it."""
    if fault.kind == "slow":
        return (fault.factor is None) != (fault.seconds is None) and (fault.probability == 1 or fault.factor is None)
    return fault.step is not None and (fault.kind == "kill" or fault.seconds is not None)


def _values(kind: str, rest: str, text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in rest.split(",")]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    if len(values) != len(pairs) or not all(values.values()) or not values.keys() <= _KEYS[kind]:
        raise _wrong(kind, text)
    return values


def _number(name: str, text: str) -> float | None:
    """None if it is not a number, or outside its limits."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and _LIMITS[name](value) else None


def _wrong(kind: str, text: str) -> UsageError:
    bounds = {
        "slow": f"F > 1, S > 0, 0 < P ≤ 1, F at most {MOST_FACTOR} and S at most {MOST_SECONDS}",
        "kill": f"N ≥ 0, N at most {MOST_COUNT}",
        "pause": f"N ≥ 0, S > 0, N at most {MOST_COUNT} and S at most {MOST_SECONDS}",
    }[kind]
    others = " or ".join(_ROLES[kind][1:])
    return UsageError(
        f"--inject must be {GRAMMAR[kind]} with {bounds}; in place of worker, also {others}. Received: '{text}'."
    )
