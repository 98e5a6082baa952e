"""How long a step would take with other numbers of replicas, by the model of `cost_model`, and how sure that is.

Each round of repeats is a prediction of its own; their spread gives the interval in which a run would be. Where the
runs leave open what communicating depends on, the interval holds each answer. What a prediction is worth is shown by
leaving out each measured size and predicting it from the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ...errors import UsageError
from . import bases, intervals, split
from .bases import Row
from .cost_model import WEIGHT_BYTES, Exchange, Model, Network, Point, waited
from .intervals import Estimate


class Algorithm(Protocol):
    """What a strategy, with its options, says of what it exchanges."""

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """What a step exchanges."""

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """What all workers send and receive in a step."""


Algorithms = Callable[[Row], tuple[Algorithm, int]]
"""Of a row: its strategy, and the steps of one update."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One strategy at one number of replicas.

    Attributes:
        row: a measured one of that strategy and its work.
        scaling: ``strong`` if the global batch stays, ``weak`` if the batch of a replica does.
        kind: ``measured``, ``predicted`` (between measured sizes) or ``extrapolated``.
        step_seconds: with the interval in which 95 % of runs would be; NaN where there are too few runs.
        shares: of the step, by part of `split.PARTS`.
        efficiency: its rate divided by that of the fewest replicas measured, and by how many times as many it has.
    """

    row: Row
    scaling: str
    kind: str
    replicas: int
    global_batch: float
    step_seconds: Estimate
    shares: Mapping[str, float]
    efficiency: float

    @property
    def rate(self) -> float:
        """Examples per second."""
        return self.global_batch / self.step_seconds.value

    @property
    def epoch_seconds(self) -> float:
        """Of training on all examples once; NaN if the runs don't tell how many there are."""
        return float(self.row["ok_runs"][0]["train_examples"]) / self.rate

    def cost(self, price_per_replica_hour: float) -> float:
        """Of one epoch, in the price's currency."""
        return self.replicas * self.epoch_seconds / 3600 * price_per_replica_hour


@dataclasses.dataclass(frozen=True)
class Check:
    """A measured size, predicted from the others.

    Attributes:
        error: predicted seconds of a step divided by measured ones, minus 1.
        within: whether the measured ones are in the predicted interval; None without one.
    """

    replicas: int
    error: float
    within: bool | None


@dataclasses.dataclass(frozen=True)
class Series:
    """What can be said of one strategy and its work: predictions and checks, or the reason why there are none.

    Attributes:
        left_out: sizes for which nothing is said, each in words with the reason.
    """

    row: Row
    predictions: Sequence[Prediction] = ()
    checks: Sequence[Check] = ()
    why_not: str = ""
    left_out: Sequence[str] = ()


def predict(
    rows: Sequence[Row], steps: pd.DataFrame, replicas: Sequence[int], algorithms: Algorithms, network: Network | None
) -> list[Series]:
    """One series for each strategy and its work, and one for each row whose replicas had fewer cores than they ask for.

    The time of replicas that share cores tells nothing of those that have their own.

    Args:
        rows: of one workload, as `comparison.compared` gives them.
        steps: the table of all steps.
        replicas: to predict.
        network: to predict for; None for that of the runs.
    """
    ok = [row for row in rows if row["ok"]]
    found = [
        Series(row, left_out=[f"{row['strategy']} ×{row['replicas']} is not used: its replicas shared cores"])
        for row in ok
        if row["oversubscribed"]
    ]
    for scaling, members in _series([row for row in ok if not row["oversubscribed"]]):
        try:
            found.append(_Fit(scaling, members, steps, algorithms, network).series(replicas))
        except UsageError as error:
            found.append(Series(members[0], why_not=str(error)))
    return found


def _series(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of one strategy that differ in replicas alone: with one global batch, else with one batch per replica."""
    names = ("strategy", "options", "apart", *bases.SAME_WORK)
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(bases.key(row, names), []).append(row)
    for members in kinds.values():
        left = list(members)
        for scaling, name in (("strong", "global_batch"), ("weak", "per_replica_batch")):
            for batch in dict.fromkeys(row[name] for row in members):
                alike = [row for row in members if row[name] == batch]
                if len({row["replicas"] for row in alike}) > 1:
                    yield scaling, list({row["replicas"]: row for row in alike}.values())
                    left = [row for row in left if row[name] != batch]
        yield from (("strong", [row]) for row in left)


class _Fit:
    """The runs of one series, and what they say of other sizes."""

    def __init__(
        self, scaling: str, rows: Sequence[Row], steps: pd.DataFrame, algorithms: Algorithms, network: Network | None
    ) -> None:
        self._rows = sorted(rows, key=lambda row: row["replicas"])
        self._scaling, self._network = scaling, network
        self._algorithm, self._accumulate = algorithms(self._rows[0])
        self._points = {row["replicas"]: _points(row) for row in self._rows}
        if not all(self._points.values()):
            raise UsageError("it is not known where its steps go")
        if any(self._algorithm.exchange(size, self._accumulate) is None for size in (*self._points, 2)):
            raise UsageError("no formula tells what it exchanges with more replicas")
        if len(self._points) < 2 and (network is None or 1 not in self._points or self._exchange(2).local):
            raise UsageError("it takes runs with two sizes, or with one replica and --bandwidth, --latency")
        self._spread = _spread(self._rows[-1], steps)

    def series(self, replicas: Sequence[int]) -> Series:
        """Predictions of these, beside what was measured."""
        sizes, left_out = [], []
        for size in sorted({*replicas, *self._points}):
            if self._batch(size) < 1:
                left_out.append(f"×{size}: more replicas than examples of the global batch of {self._global(size):.0f}")
            else:
                sizes.append(size)
        return Series(
            self._rows[0],
            [self._measured(size) if size in self._points else self._predicted(size) for size in sizes],
            [self._check(size) for size in list(self._points)[1:] if len(self._points) > 2],
            left_out=left_out,
        )

    def _exchange(self, replicas: int) -> Exchange:
        found = self._algorithm.exchange(replicas, self._accumulate)
        assert found is not None
        return found

    def _global(self, replicas: int) -> float:
        row = self._rows[0]
        return float(row["global_batch"] if self._scaling == "strong" else row["per_replica_batch"] * replicas)

    def _batch(self, replicas: int) -> float:
        return self._global(replicas) / replicas

    def _measured(self, replicas: int) -> Prediction:
        parts = _mean(list(self._points[replicas].values()))
        runs = [sum(point.parts.values()) for point in self._points[replicas].values()]
        return self._prediction(replicas, "measured", intervals.positive(runs), parts.parts)

    def _predicted(self, replicas: int) -> Prediction:
        step, parts = self._steps(self._points, replicas)
        between = any(low < replicas < high for low, high in pairwise(self._points))
        return self._prediction(replicas, "predicted" if between else "extrapolated", step, parts)

    def _prediction(self, replicas: int, kind: str, step: Estimate, parts: Mapping[str, float]) -> Prediction:
        total, fewest = sum(parts.values()), self._rows[0]["replicas"]
        base = fmean(sum(point.parts.values()) for point in self._points[fewest].values()) / self._global(fewest)
        return Prediction(
            row=self._rows[0],
            scaling=self._scaling,
            kind=kind,
            replicas=replicas,
            global_batch=self._global(replicas),
            step_seconds=step,
            shares={name: seconds / total for name, seconds in parts.items()},
            efficiency=base * self._global(replicas) / step.value / (replicas / fewest),
        )

    def _check(self, replicas: int) -> Check:
        others = {size: points for size, points in self._points.items() if size != replicas}
        step, _ = self._steps(others, replicas)
        measured = intervals.positive([sum(each.parts.values()) for each in self._points[replicas].values()]).value
        within = not step.excludes(measured) if step.known else None
        return Check(replicas, step.value / measured - 1, within)

    def _steps(self, points: Mapping[int, Mapping[int, Point]], replicas: int) -> tuple[Estimate, dict[str, float]]:
        """Seconds of a step with the interval of a run, and the mean of its parts."""
        shared = set.intersection(*(set(each) for each in points.values()))
        rounds = [[each[repeat] for each in points.values()] for repeat in sorted(shared)]
        means = [_mean(list(each.values())) for each in points.values()]
        model = self._model(means)
        if len(rounds) < intervals.LEAST_RUNS:
            rounds = [means]
        found = [model.steps(each, replicas, self._batch(replicas)) for each in rounds]
        ways = [intervals.of_next([sum(parts[way].values()) for parts in found]) for way in range(len(found[0]))]
        every = [parts for each in found for parts in each]
        return _both(ways), {name: fmean(parts[name] for parts in every) for name in split.PARTS}

    def _model(self, means: Sequence[Point]) -> Model:
        return Model(
            exchange=self._exchange,
            total=lambda replicas: self._algorithm.traffic_bytes(1, replicas, self._accumulate),
            weights_bytes=self._weights_bytes(),
            spread=self._spread,
            waiting=waited(means, self._spread, self._exchange),
            network=self._network,
        )

    def _weights_bytes(self) -> float:
        """What one exchange is of, by what a step was to send; else of all weights."""
        for row in reversed(self._rows):
            run = row["ok_runs"][0]
            expected = run["traffic_bytes_expected"] / run["steps_done"] if run["steps_done"] else math.nan
            of_one = self._algorithm.traffic_bytes(1, row["replicas"], self._accumulate)
            if of_one and expected > 0:
                return float(expected / of_one)
        return WEIGHT_BYTES * float(self._rows[0]["ok_runs"][0]["parameters"])


def _points(row: Row) -> dict[int, Point]:
    """Repeat → what it measured; empty if it is not known where the steps of one went."""
    found = {}
    for run in row["ok_runs"]:
        shares = split.shares(run)
        if not shares or run["repeat"] not in row["rates"]:
            return {}
        step = row["global_batch"] / run["examples_per_second"]
        parts = {name: shares.get(name, 0.0) * step for name in split.PARTS}
        found[run["repeat"]] = Point(row["replicas"], row["global_batch"] / row["replicas"], parts)
    return found


def _mean(points: Sequence[Point]) -> Point:
    parts = {name: fmean(point.parts[name] for point in points) for name in split.PARTS}
    return dataclasses.replace(points[0], parts=parts)


def _spread(row: Row, steps: pd.DataFrame) -> np.ndarray:
    """Seconds of computing of each measured step of a row's tasks, divided by the mean of its run."""
    own = steps[steps["run_id"].isin([run["run_id"] for run in row["ok_runs"]]) & ~steps["warmup"]]
    own = own[np.isfinite(own["computing_seconds"]) & (own["computing_seconds"] > 0)]
    seconds = own["computing_seconds"]
    return np.asarray(seconds / seconds.groupby(own["run_id"]).transform("mean"))


def _both(ways: Sequence[Estimate]) -> Estimate:
    """One estimate that holds all of them; the middle between the smallest and the largest, as a ratio."""
    value = math.sqrt(min(way.value for way in ways) * max(way.value for way in ways))
    if not all(way.known for way in ways):
        return Estimate(value)
    return Estimate(value, min(way.low for way in ways), max(way.high for way in ways))
