"""Learning-rate scaling with the batch, and gradual warm-up.

Linear: η = η_ref · B / B_ref (Goyal et al., *Accurate, Large Minibatch SGD*, arXiv 1706.02677, 2017). Square root:
η = η_ref · sqrt(B / B_ref) (Krizhevsky, *One weird trick*, arXiv 1404.5997, 2014). With a fixed global batch no rule
changes η.
"""

from __future__ import annotations

import dataclasses
import math


def factor(scaling: str, global_batch: int, reference_batch: int) -> float:
    """η / η_ref for ``scaling`` none, linear or sqrt."""
    ratio = global_batch / reference_batch
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate of each update: a line from ``start`` to ``peak`` over ``warmup_steps``, then ``peak``."""

    start: float
    peak: float
    warmup_steps: int

    def __call__(self, step: int) -> float:
        """The rate of update ``step``, counted from 0."""
        if step >= self.warmup_steps:
            return self.peak
        return self.start + (self.peak - self.start) * step / self.warmup_steps
