"""How long the runs of a command will take, by those that have ended and by short trials of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ...results.raw.record import without_repeat
from ..plan.spec import RunSpec


class TimeLeft:
    """Of the runs that have not ended.

    A run takes as long as a repeat of it did. Without one, as long as was estimated, times how much longer the others
    took than was estimated for them; without an estimate, as long as the others did on average.

    Args:
        specs: all runs of the command.
        estimates: run's name without its repeat → seconds; may be empty.
    """

    def __init__(self, specs: Sequence[RunSpec], estimates: Mapping[str, float]) -> None:
        self._left = [spec.run_id for spec in specs]
        self._estimates = estimates
        self._took: dict[str, list[float]] = {}

    def ended(self, spec: RunSpec, seconds: float) -> None:
        """A run is over, and took so long."""
        self._left.remove(spec.run_id)
        self._took.setdefault(without_repeat(spec.run_id), []).append(seconds)

    def seconds(self) -> float | None:
        """Of all that is left; None if nothing tells."""
        found = [self._of(without_repeat(name)) for name in self._left]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) if len(known) == len(found) else None

    def _of(self, name: str) -> float | None:
        if name in self._took:
            return fmean(self._took[name])
        if name in self._estimates:
            return self._estimates[name] * self._bias()
        every = [seconds for several in self._took.values() for seconds in several]
        return fmean(every) if every else None

    def _bias(self) -> float:
        both = [(fmean(took), self._estimates[name]) for name, took in self._took.items() if self._estimates.get(name)]
        return sum(took for took, _ in both) / sum(estimate for _, estimate in both) if both else 1.0


def words(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
