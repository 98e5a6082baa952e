"""95 % intervals over repeats, of a figure and of a ratio of two: how far chance alone may have moved it.

Figures that multiply, such as rates and times, are treated by their logarithms: the middle is the geometric mean, and
Student's t gives the interval. So the interval of a ratio is that of a difference of logarithms:

- The runs of one round are made one after the other, in an order that changes from round to round. What slows the
  machine for minutes slows a whole round, so a ratio is taken in each round, and the interval is that of these ratios.
- Where the runs of two rows weren't made in rounds, as in two folders, they are independent samples: Welch's t, with
  the degrees of freedom of Welch (1947) and Satterthwaite (1946).

Under `LEAST_RUNS` runs there is no interval: two runs say next to nothing about chance, as t is 12.7 there.
docs/method.md says why it isn't an interval of the median.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean, variance

CONFIDENCE = 0.95
LEAST_RUNS = 3
"""Repeats from which on an interval is given."""
_MOST_REPEATS = 1000
_LARGEST = math.log(sys.float_info.max)
_POWER = 0.9


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: the middle; NaN without any run.
        low, high: the ends, in the figure's unit; NaN if there are too few runs.
        error: standard error of the middle, or of its logarithm, NaN if there are too few runs.
        by_rounds: whether the ratio was taken in each round.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    by_rounds: bool = False

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    def excludes(self, value: float) -> bool:
        """Whether there is an interval, and ``value`` is outside of it."""
        return self.known and not self.low <= value <= self.high


UNKNOWN = Estimate(math.nan)


def positive(values: Sequence[float]) -> Estimate:
    """The geometric mean of rates or times, all greater than 0."""
    return _exponential(_middle(values), mean([math.log(value) for value in values]))


def of_next(values: Sequence[float]) -> Estimate:
    """The same, with the interval in which 95 % of further runs would be, rather than the mean of all."""
    logs = [math.log(value) for value in values]
    if len(values) < LEAST_RUNS or not all(map(math.isfinite, logs)):
        return Estimate(_middle(values))
    error = math.sqrt(_variance(logs) * (1 + 1 / len(logs)))
    return _exponential(_middle(values), _interval(average(logs), error, len(logs) - 1))


def mean(values: Sequence[float]) -> Estimate:
    """The mean of figures that don't multiply, such as an accuracy or a loss."""
    if not values:
        return UNKNOWN
    if len(values) < LEAST_RUNS or not all(map(math.isfinite, values)):
        return Estimate(average(values))
    return _interval(average(values), math.sqrt(_variance(values) / len(values)), len(values) - 1)


def ratio(ones: Mapping[int, float], others: Mapping[int, float], rounds: bool) -> Estimate:
    """One geometric mean divided by another.

    Args:
        ones, others: round → the figure, greater than 0.
        rounds: whether the runs of both were made in the same rounds. With fewer than `LEAST_RUNS` such rounds, they
            count as independent.
    """
    shared = sorted(set(ones) & set(others)) if rounds else []
    if len(shared) >= LEAST_RUNS:
        ratios = [ones[each] / others[each] for each in shared]
        return dataclasses.replace(positive(ratios), by_rounds=True)
    sides = [list(figures.values()) for figures in (ones, others)]
    if not all(sides):
        return UNKNOWN
    middle = _middle(sides[0]) / _middle(sides[1])
    if not 0 < middle < math.inf:
        return UNKNOWN
    if min(map(len, sides)) < LEAST_RUNS:
        return Estimate(middle)
    return _exponential(middle, _welch([[math.log(value) for value in each] for each in sides]))


def difference(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of ``ones`` minus that of ``others``, as independent samples."""
    if not ones or not others:
        return UNKNOWN
    if min(len(ones), len(others)) < LEAST_RUNS:
        return Estimate(average(ones) - average(others))
    return _welch([ones, others])


def difference_in_rounds(ones: Mapping[int, float], others: Mapping[int, float]) -> Estimate:
    """The same, in each round. With fewer than `LEAST_RUNS` shared rounds, they count as independent."""
    shared = sorted(set(ones) & set(others))
    if len(shared) < LEAST_RUNS:
        return difference(list(ones.values()), list(others.values()))
    return mean([ones[each] - others[each] for each in shared])


def _welch(sides: Sequence[Sequence[float]]) -> Estimate:
    parts = [_variance(each) / len(each) for each in sides]
    squares = sum(part * part / (len(each) - 1) for part, each in zip(parts, sides, strict=True))
    freedom = sum(parts) * sum(parts) / squares if squares else min(map(len, sides)) - 1
    return _interval(average(sides[0]) - average(sides[1]), math.sqrt(sum(parts)), freedom)


def average(values: Sequence[float]) -> float:
    """The mean, also of figures that are too large to be added up."""
    try:
        return fmean(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def _variance(values: Sequence[float]) -> float:
    """Infinite where it is too large for a number, as only values of a damaged file make it."""
    try:
        return variance(values)
    except OverflowError:
        return math.inf


def repeats_for(estimate: Estimate, runs: int, factor: float) -> int | None:
    """How many repeats would probably show a ratio of ``factor``, if runs go on to differ as they did.

    Probably: in nine of ten cases. None if there is no interval to start from, or if it takes more than 1000.

    Args:
        runs: of each side, that ``estimate`` rests on.
        factor: other than 1.
    """
    if not estimate.known:
        return None
    from scipy.special import stdtrit

    spread, samples = estimate.error * math.sqrt(runs), 1 if estimate.by_rounds else 2
    for count in range(LEAST_RUNS, _MOST_REPEATS + 1):
        freedom = samples * (count - 1)
        reach = stdtrit(freedom, (1 + CONFIDENCE) / 2) + stdtrit(freedom, _POWER)
        if reach * spread / math.sqrt(count) <= abs(math.log(factor)):
            return count
    return None


def _interval(middle: float, error: float, freedom: float) -> Estimate:
    # SciPy takes a while to import, and a table of single runs needs none of it.
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Estimate(middle, middle - reach, middle + reach, error)


def _middle(values: Sequence[float]) -> float:
    """The geometric mean. That of a single run is its own figure, to the last digit."""
    if not values:
        return math.nan
    return values[0] if len(values) == 1 else geometric_mean(values)


def _exponential(middle: float, logs: Estimate) -> Estimate:
    return dataclasses.replace(logs, value=middle, low=_exp(logs.low), high=_exp(logs.high))


def _exp(value: float) -> float:
    # Of runs that differ by hundreds of orders of magnitude, as only a damaged file has them.
    return math.exp(value) if value < _LARGEST or math.isnan(value) else math.inf
