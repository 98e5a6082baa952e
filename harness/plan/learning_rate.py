"""The learning rate of each update: scaling with the batch, gradual warm-up, and a schedule.

Scaling, linear: η = η_ref · B / B_ref (Goyal et al., *Accurate, Large Minibatch SGD*, arXiv 1706.02677, 2017). Square
root: η = η_ref · sqrt(B / B_ref) (Krizhevsky, *One weird trick*, arXiv 1404.5997, 2014). With a fixed global batch no
rule changes η.

Schedules multiply the scaled rate. After w updates of warm-up, update t of T has the progress p = (t − w) / (T − w):
cosine: end + (1 − end) · (1 + cos πp) / 2 (Loshchilov & Hutter, *SGDR*, arXiv 1608.03983, 2017, without restarts);
exponential: end^p; step: factor^⌊t / every⌋. They are Keras's CosineDecay, ExponentialDecay and PiecewiseConstantDecay.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping

from ...errors import UsageError
from .task import MOST_COUNT

CONSTANT = "constant"
GRAMMAR = {
    CONSTANT: CONSTANT,
    "cosine": "cosine[:end=E]",
    "exponential": "exponential[:end=E]",
    "step": "step[:every=EPOCHS,factor=F]",
}
"""Kind of schedule → its form on the command line."""

_DEFAULTS: Mapping[str, Mapping[str, float | None]] = {
    CONSTANT: {},
    "cosine": {"end": 0.0},
    "exponential": {"end": 0.01},
    "step": {"every": None, "factor": 0.1},
}
"""Without ``every``, the rate changes after each third of the run."""

_THIRDS = 3


def factor(scaling: str, global_batch: int, reference_batch: int) -> float:
    """η / η_ref for ``scaling`` none, linear or sqrt."""
    ratio = global_batch / reference_batch
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


@dataclasses.dataclass(frozen=True)
class Decay:
    """What ``--lr-schedule`` says.

    Attributes:
        kind: a key of `GRAMMAR`.
        values: all its settings.
    """

    kind: str
    values: Mapping[str, float | None]

    def __str__(self) -> str:
        """As on the command line, without the defaults."""
        words = [f"{k}={v:.15g}" for k, v in self.values.items() if v is not None and v != _DEFAULTS[self.kind][k]]
        return self.kind + (f":{','.join(words)}" if words else "")


def parse(text: str) -> Decay:
    """Parse ``kind:key=value,…``. Raises UsageError with the grammar, in one line."""
    kind, colon, rest = text.strip().partition(":")
    if kind not in GRAMMAR:
        near = difflib.get_close_matches(kind, GRAMMAR, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"--lr-schedule must be {', or '.join(GRAMMAR.values())}. Received: '{text}'.{hint}")
    given: dict[str, float | None] = {}
    for part in rest.split(",") if colon else ():
        key, _, value = part.partition("=")
        number = _number(kind, key.strip(), value.strip())
        if number is None or key.strip() in given:
            raise _wrong(kind, text)
        given[key.strip()] = number
    return Decay(kind, {**_DEFAULTS[kind], **given})


def _number(kind: str, key: str, text: str) -> float | None:
    """None if the schedule has no such setting, or the text is no number within its limits."""
    try:
        value = float(text)
    except ValueError:
        return None
    allowed = {
        "end": 0 < value <= 1 or (value == 0 and kind == "cosine"),
        "factor": 0 < value < 1,
        "every": 0 < value <= MOST_COUNT,
    }
    return value if key in _DEFAULTS[kind] and allowed[key] else None


def _wrong(kind: str, text: str) -> UsageError:
    limits = {
        CONSTANT: "nothing after it",
        "cosine": "0 ≤ E ≤ 1, the share of the learning rate at the end",
        "exponential": "0 < E ≤ 1, the share of the learning rate at the end",
        "step": f"0 < EPOCHS ≤ {MOST_COUNT} and 0 < F < 1",
    }[kind]
    return UsageError(f"--lr-schedule must be {GRAMMAR[kind]} with {limits}. Received: '{text}'.")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate of each update: a line from ``start`` to ``peak`` over ``warmup_steps``, then ``peak`` · decay.

    Args:
        total_steps: of the run.
        steps_per_epoch: updates in an epoch.
    """

    start: float
    peak: float
    warmup_steps: int
    decay: Decay = dataclasses.field(default_factory=lambda: parse(CONSTANT))
    total_steps: int = 1
    steps_per_epoch: int = 1

    def __call__(self, step: int) -> float:
        """The rate of update ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        return self.peak * self._share(step)

    def _share(self, step: int) -> float:
        values = self.decay.values
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.decay.kind == "cosine":
            end = values["end"] or 0.0
            return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
        if self.decay.kind == "exponential":
            return (values["end"] or 0.0) ** progress
        if self.decay.kind == "step":
            every = values["every"]
            steps = self.total_steps / _THIRDS if every is None else every * self.steps_per_epoch
            return (values["factor"] or 0.0) ** math.floor(step / steps)
        return 1.0
