"""L-BFGS whose vectors are elsewhere: it sends commands, and sees only their dot products.

The direction −H·g is a sum of the last steps s, the changes of the gradient y, and g. Its coefficients follow from the
dot products of these vectors, so that one command fetches what a direction needs, and one forms it.
Source: Nocedal, *Updating Quasi-Newton Matrices with Limited Storage*, Mathematics of Computation 35, 1980; dot
products alone: Chen, Wang & Zhou, *Large-scale L-BFGS using MapReduce*, NIPS 2014.

The line search is that of SciPy's L-BFGS-B (Moré & Thuente, ACM Transactions on Mathematical Software 20, 1994): it
begins with a step as long as the direction, of length 1 without a history, and asks for a loss that falls by 0.001 of
what the slope promises, at a place where the slope is at most 0.9 as steep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

_LEAST_CURVATURE = float(np.finfo("float32").eps)
"""Of what a step's slope promises: pairs with less are left out, so that the direction stays one of descent."""
_FAR = 10.0
"""Times as much as the slope promises: the loss in place of one that is not finite."""


class Vectors(Protocol):
    """Vectors of one length, by their names."""

    def dots(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The dot product of each pair."""

    def combine(self, into: str, terms: Sequence[tuple[float, str]]) -> None:
        """``into`` ← Σ factor · vector."""


class Lbfgs:
    """Minimises a loss, one step at a time.

    Args:
        vectors: has the ``weights``, and keeps everything else.
        evaluate: (name of some weights, name that their gradient gets) → their loss.
        history: the most pairs (s, y) that are kept; with 0 it is gradient descent with a line search.
    """

    def __init__(self, vectors: Vectors, evaluate: Callable[[str, str], float], history: int):
        self._vectors, self._evaluate, self._most = vectors, evaluate, history
        self._pairs: list[int] = []
        self._dots: dict[tuple[str, str], float] = {}
        self._loss = self._trial_loss = self._trial_slope = math.nan

    def step(self, known: bool) -> float:
        """Change the weights once. → their loss before that.

        Args:
            known: whether loss and gradient of the present weights are those that the step before ended with.
        """
        if not known or math.isnan(self._loss):
            self._loss = self._evaluate("weights", "gradient")
        before = self._loss
        for _ in range(2):
            slope, length = self._direct()
            if slope < 0 and (found := self._search(before, slope, 1.0 if self._pairs else 1.0 / length)):
                self._accept(found, slope)
                return before
            if not self._pairs:
                break
            self._pairs.clear()
        return before

    def _direct(self) -> tuple[float, float]:
        """Form the ``direction``. → (its slope, its length)"""
        steps, changes = [f"s{i}" for i in self._pairs], [f"y{i}" for i in self._pairs]
        basis = [*steps, *changes, "gradient"]
        self._learn(basis)
        dots = np.array([[self._dots[min(a, b), max(a, b)] for a in basis] for b in basis])
        count = len(self._pairs)
        factors = np.zeros(len(basis))
        factors[-1] = -1.0
        curvatures = [dots[i, count + i] for i in range(count)]
        firsts = np.zeros(count)
        for i in reversed(range(count)):
            firsts[i] = dots[i] @ factors / curvatures[i]
            factors[count + i] -= firsts[i]
        if count:
            factors *= curvatures[-1] / dots[2 * count - 1, 2 * count - 1]
        for i in range(count):
            factors[i] += firsts[i] - dots[count + i] @ factors / curvatures[i]
        self._vectors.combine("direction", list(zip(factors.tolist(), basis, strict=True)))
        return float(dots[-1] @ factors), math.sqrt(max(0.0, float(factors @ dots @ factors)))

    def _learn(self, basis: Sequence[str]) -> None:
        """The dot products of all of these, of which those without the gradient stay known as long as their pairs."""
        keys = [(min(a, b), max(a, b)) for place, a in enumerate(basis) for b in basis[place:]]
        self._dots = {key: self._dots[key] for key in keys if key in self._dots and "gradient" not in key}
        wanted = [key for key in keys if key not in self._dots]
        self._dots.update(zip(wanted, self._vectors.dots(wanted), strict=True))

    def _search(self, loss: float, slope: float, unit: float) -> float:
        """How far to go along the direction; 0 if the loss falls nowhere. ``trial`` is there then.

        Args:
            unit: the step that is tried first.
        """
        from scipy.optimize import minimize

        promised = -slope * unit
        last = 0.0

        def at(place: np.ndarray) -> tuple[float, np.ndarray]:
            """Loss and slope, so scaled that they are 0 and −1 at first: L-BFGS-B begins with the step 1 then."""
            nonlocal last
            last = float(place[0])
            if not last:
                return 0.0, np.array([-1.0])
            found, steepness = self._try(last * unit)
            if not math.isfinite(found):
                return _FAR * last, np.array([_FAR])
            return (found - loss) / promised, np.array([steepness * unit / promised])

        options = {"maxiter": 1, "ftol": 0.0, "gtol": 0.0}
        found = float(minimize(at, [0.0], jac=True, method="L-BFGS-B", options=options).x[0])
        if found and found != last:
            self._try(found * unit)
        return found * unit if found and math.isfinite(self._trial_loss) else 0.0

    def _try(self, step: float) -> tuple[float, float]:
        """Loss and slope there."""
        self._vectors.combine("trial", [(1.0, "weights"), (step, "direction")])
        self._trial_loss = self._evaluate("trial", "trial_gradient")
        (self._trial_slope,) = self._vectors.dots([("trial_gradient", "direction")])
        return self._trial_loss, self._trial_slope

    def _accept(self, step: float, slope: float) -> None:
        """Go to the trial, and remember the way."""
        if self._most and self._trial_slope - slope > _LEAST_CURVATURE * -slope:
            self._remember(step)
        self._vectors.combine("weights", [(1.0, "trial")])
        self._vectors.combine("gradient", [(1.0, "trial_gradient")])
        self._loss = self._trial_loss

    def _remember(self, step: float) -> None:
        """The newest pair, in the place of the oldest if there is no other."""
        if len(self._pairs) == self._most:
            del self._pairs[0]
        free = next(i for i in range(self._most) if i not in self._pairs)
        names = {f"s{free}", f"y{free}"}
        self._dots = {key: dot for key, dot in self._dots.items() if not names & set(key)}
        self._vectors.combine(f"s{free}", [(step, "direction")])
        self._vectors.combine(f"y{free}", [(1.0, "trial_gradient"), (-1.0, "gradient")])
        self._pairs.append(free)
