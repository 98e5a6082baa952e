"""The step of a strategy as a sum of parts, each with a formula whose constants come from measured runs.

- **Computing** of b examples in one replica takes c₀ + c₁·b.
- **Communicating** takes α · messages + β · bytes through the busiest link (Hockney 1994) + γ · bytes of all replicas
  together, which share the memory of one machine; with the messages and the bytes of the strategy's algorithm, and with
  what it takes for one replica, where nothing is sent. Runs of one size can't tell α, β and γ apart: it may be any of
  them, and each is computed. Those of two sizes or more are fitted by two of the three, in each way that they allow.
  Where two replicas may send one after the other, their bytes count once in half of the ways, and twice in the others.
- **Waiting** is for the slowest of N steps, drawn from those that were measured: the mean of the largest of N, as a
  share of the mean. It is multiplied by what the runs waited, divided by this, as replicas on one machine are not
  independent. Where nobody waits for the slowest, as with asynchronous updates, it is 0.
- **Waiting for data and the rest** stay as they are with the most replicas.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Protocol

import numpy as np

WEIGHT_BYTES = 4
"""Of a value of the weights, where the runs don't tell what was sent."""

Costs = tuple[float, float, float]
"""Messages one after the other; bytes through the busiest link; bytes of all. In bytes of the weights."""


class Exchange(Protocol):
    """As `stratbench.strategies.transport.Exchange` has it."""

    @property
    def messages(self) -> float:
        """One after the other."""

    @property
    def weights(self) -> float:
        """Bytes through the busiest link, divided by those of the weights."""

    @property
    def waits(self) -> bool:
        """Whether a step is over for all when it is over for the slowest."""

    @property
    def hides(self) -> bool:
        """Whether it may go on beside computing."""

    @property
    def local(self) -> bool:
        """Whether no network decides how long it takes."""

    @property
    def in_turn(self) -> bool:
        """Whether two replicas may send one after the other."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Between replicas: seconds a message, and bytes a second in each direction."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, messages: float, weights: float, weights_bytes: float) -> float:
        """Of these messages, and of so many times the bytes of the weights."""
        return messages * self.latency_seconds + weights * weights_bytes / self.bytes_per_second


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured at one size: seconds of a step by part, as `split.PARTS` names them.

    Attributes:
        batch: examples of one replica.
    """

    replicas: int
    batch: float
    parts: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Model:
    """What a step takes at any size, by each way in which the runs may be explained.

    Attributes:
        exchange: replicas → what a step exchanges; total: replicas → bytes of all of them, in those of the weights.
        weights_bytes: that one exchange is of.
        spread: seconds of single steps, divided by their mean.
        waiting: what runs waited, divided by what `slowest` says.
        network: another one than that of the runs; None for theirs.
    """

    exchange: Callable[[int], Exchange]
    total: Callable[[int], float]
    weights_bytes: float
    spread: np.ndarray
    waiting: float
    network: Network | None = None

    def steps(self, points: Sequence[Point], replicas: int, batch: float) -> list[dict[str, float]]:
        """Seconds of a step by part, at that size, by each way in which the runs may be explained.

        Args:
            points: from which it is computed, of different numbers of replicas.
        """
        largest = max(points, key=lambda point: point.replicas).parts
        computing = computing_of(points, batch)
        slowest = self.waiting * slowest_of(self.spread, replicas) if self.exchange(replicas).waits else 0.0
        others = {"waiting": computing * slowest, "input": largest["input"], "rest": largest["rest"]}
        ways = self._communicating(points, replicas, computing)
        return [{"computing": computing, "communicating": way, **others} for way in ways]

    def _communicating(self, points: Sequence[Point], replicas: int, computing: float) -> list[float]:
        asked = self.exchange(replicas)
        directions = (1, 2) if asked.in_turn else (1,)
        here = [way for each in directions for way in communicating_of(points, partial(self._costs, each), replicas)]
        if self.network is None or asked.local or not asked.messages:
            return here
        there = [self.network.seconds(*self._costs(each, replicas)[:2], self.weights_bytes) for each in directions]
        # At best it hides behind computing and costs nothing else; at worst, what it costs here comes on top.
        return [max(there[0] - computing, 0.0) if asked.hides else there[0], there[-1] + max(here)]

    def _costs(self, directions: int, replicas: int) -> Costs:
        """``directions``: of two replicas' link that are used one after the other."""
        exchange = self.exchange(replicas)
        weights = exchange.weights * (directions if replicas == 2 else 1)
        return exchange.messages, weights, self.total(replicas)


def computing_of(points: Sequence[Point], batch: float) -> float:
    """Seconds to compute a replica's part of a step. Of one size of batch only, that of the most replicas counts."""
    if len({point.batch for point in points}) == 1:
        return max(points, key=lambda point: point.replicas).parts["computing"]
    return float(
        _constants([(1.0, point.batch) for point in points], [p.parts["computing"] for p in points]) @ (1, batch)
    )


def communicating_of(points: Sequence[Point], costs: Callable[[int], Costs], replicas: int) -> list[float]:
    """Seconds in which a step communicates over the network of the runs: one figure by each way to explain them.

    Args:
        costs: replicas → what α, β and γ are multiplied by.
    """
    alone = [point.parts["communicating"] for point in points if not any(costs(point.replicas))]
    fixed = fmean(alone) if alone else 0.0
    sending = [point for point in points if any(costs(point.replicas))]
    asked = np.array(costs(replicas))
    if not sending or not asked.any():
        return [fixed]
    matrix = np.array([costs(point.replicas) for point in sending], float)
    seconds = [max(point.parts["communicating"] - fixed, 0.0) for point in sending]
    terms = min(int(np.linalg.matrix_rank(matrix)), 2)
    ways = [list(way) for way in itertools.combinations(range(len(asked)), terms)]
    fits = [way for way in ways if np.linalg.matrix_rank(matrix[:, way]) == terms]
    return [fixed + float(_constants(matrix[:, way], seconds) @ asked[way]) for way in fits]


def _constants(matrix: Sequence[Sequence[float]] | np.ndarray, seconds: Sequence[float]) -> np.ndarray:
    """None of them below 0, as no part of a step takes less than no time."""
    from scipy.optimize import nnls

    return np.asarray(nnls(np.array(matrix, float), np.array(seconds, float))[0])


def slowest_of(spread: np.ndarray, replicas: int) -> float:
    """By which share the slowest of N steps takes longer than a step does on average.

    The mean of the largest of N independent draws from these steps: Σ xᵢ((i/m)ᴺ − ((i−1)/m)ᴺ), sorted. It can't be
    longer than the longest of them.
    """
    if replicas == 1 or not len(spread):
        return 0.0
    ranks = np.arange(len(spread) + 1) / len(spread)
    return float(np.sort(spread) @ np.diff(ranks**replicas) / spread.mean()) - 1.0


def waited(points: Sequence[Point], spread: np.ndarray, exchange: Callable[[int], Exchange]) -> float:
    """What the runs of the most replicas waited, divided by what `slowest_of` says; 1 if that can't be told."""
    point = max(points, key=lambda point: point.replicas)
    expected = slowest_of(spread, point.replicas) * point.parts["computing"]
    if not exchange(point.replicas).waits or not expected > 0:
        return 1.0
    return point.parts["waiting"] / expected
