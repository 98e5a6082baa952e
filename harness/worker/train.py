"""The measured loop: the same for every strategy, and next to nothing beside its step."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ...datasets.batches import Batches
from ...errors import RunError
from ...results.raw.journal import UNKNOWN, Journal
from ...strategies.trainer import Batch, OwnLoop, Split, StepResult, Trainer, Update
from ..plan import bounds
from .profiling import Profiler
from .snapshots import save
from .usage import tcp_bytes

if TYPE_CHECKING:
    import numpy as np

MOST_NOT_FINITE = 100
"""Steps in a row. Each halves the scale of the loss, so after these nothing is left of it."""


def train(
    trainer: Trainer,
    batches: Batches,
    schedule: Callable[[int], float],
    total_steps: int,
    journal: Journal,
    folder: Path,
    clock: Callable[[], float] = time.perf_counter,
    first_step: int = 0,
    accumulate: int = 1,
    scales_loss: bool = False,
    reports: Callable[[], bool] = lambda: True,
    profiler: Profiler | None = None,
    together: int = 1,
    updated: Callable[[Sequence[np.ndarray | None]], None] = lambda weights: None,
) -> None:
    """Train from ``first_step`` up to ``total_steps`` updates and journal each.

    A step's seconds run from the end of the step before to its own end, so that they add up to the whole time. Between
    epochs the clock rests while a copy of the weights is taken and saved in ``folder``: see `snapshots`.

    Args:
        accumulate: steps of an update.
        scales_loss: whether the optimizer scales the loss, and leaves out updates that are not finite.
        reports: whether this process saves the weights that all processes hold.
        profiler: records the steps after the warm-up, which rates then leave out as well.
        together: steps of one call, which have equal times.
        updated: is given the weights after the first update of the run, while the clock rests, unless the trainer is an
            `OwnLoop`. A process that continues a run has no first update.

    Raises:
        RunError: the loss of a step is NaN or infinite.
    """
    warm = first_step + bounds.warm_up(accumulate, together)
    measured = warm + (bounds.left_out(profiler.steps, together) if profiler else 0)
    record = functools.partial(profiler.between, first=warm) if profiler else lambda done: None
    steps = _Steps(trainer, journal, first_step, measured, scales_loss, record)
    for epoch, skipped, stop in _epochs(first_step, total_steps, batches.steps_per_epoch):
        # A former process of this worker may have died after the last step of an epoch and before its copy was saved.
        source = _Part(batches, epoch, skipped, stop)
        traffic = tcp_bytes()
        first, steps.whole = steps.done, not skipped
        own = list(source) if isinstance(trainer, OwnLoop) and batches.kept else source
        begin = before = asked = clock()
        if isinstance(trainer, OwnLoop):
            rates = [schedule(steps.done + place) for place in range(stop - skipped)]
            trainer.epoch(own, rates, lambda result, seconds: steps.note(epoch, result, seconds, math.nan, clock()))  # noqa: B023
            before = clock()
        else:
            for batch in source:
                ready = clock()
                result = trainer.step(batch, schedule(steps.done))
                now = clock()
                steps.note(epoch, result, now - before, ready - asked, now)
                if steps.done == accumulate and not first_step:
                    counted = tcp_bytes()
                    updated(trainer.weights())
                    # Neither time nor traffic of it are the step's.
                    traffic = _sum(traffic, _difference(counted, tcp_bytes()))
                    begin, now = begin + clock() - now, clock()
                before, asked = now, clock()
                if trainer.finished:
                    break
        if skipped < stop:
            trainer.settle()
        # Counts go with the connections to what died, and those of the process before this one are gone as well.
        sent, received = _difference(traffic, tcp_bytes()) if steps.whole else (None, None)
        seconds = None if skipped else before - begin
        if skipped < stop:
            journal.event(
                "epoch",
                epoch=epoch,
                seconds=seconds,
                steps=steps.done - first,
                sent_bytes=sent,
                received_bytes=received,
                read=batches.order.told(),
                logs=dict(trainer.logs()),
                figures=dict(trainer.epoch_figures()),
            )
        weights = trainer.weights()
        _restored(trainer, journal)
        save(folder, epoch, trainer.rank, weights, reports(), again=skipped < stop)
        if trainer.finished:
            return


@dataclasses.dataclass(frozen=True)
class _Part:
    """Batches ``[first, stop)`` of an epoch, read anew at each iteration."""

    batches: Batches
    epoch: int
    first: int
    stop: int

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.batches.epoch(self.epoch), self.first, self.stop) if self.first < self.stop else iter(())


class _Steps:
    """Journals each step.

    Args:
        first: number of the first step.
        measured: of the first one that rates are of.
        scales_loss: whether the optimizer does.
        record: is told the number of the next step after each.

    Attributes:
        done: number of the next step.
        whole: False since a death that the trainer recovered from.
    """

    def __init__(
        self,
        trainer: Trainer,
        journal: Journal,
        first: int,
        measured: int,
        scales_loss: bool,
        record: Callable[[int], None],
    ):
        self._trainer, self._journal, self._record = trainer, journal, record
        self._scales_loss, self._not_finite = scales_loss, 0
        self._measured, self.done, self.whole = measured, first, True

    def note(self, epoch: int, result: StepResult, seconds: float, waited: float, now: float) -> None:
        """A step is over. Raises RunError if its loss is NaN or infinite, unless that may be left out."""
        step, warmup = self.done, self.done < self._measured
        split = _numbers(result.split) if result.split else UNKNOWN
        self._journal.step(epoch, step, seconds, waited, result.examples, result.loss, warmup, now, split)
        self.whole &= not _restored(self._trainer, self._journal)
        if result.update:
            _note(self._journal, step, result.update)
        if result.loss is not None:
            self._check(result.loss)
        self.done += 1
        self._record(self.done)

    def _check(self, loss: float) -> None:
        """Raise RunError for a loss that is not finite. If the loss is scaled, such a step may only be left out."""
        if math.isfinite(loss):
            self._not_finite = 0
            return
        self._not_finite += 1
        if not self._scales_loss:
            raise RunError(f"the loss became {loss} at step {self.done}")
        if self._not_finite == MOST_NOT_FINITE:
            raise RunError(f"the loss has been {loss} for {MOST_NOT_FINITE} steps, up to step {self.done}")


def _restored(trainer: Trainer, journal: Journal) -> bool:
    """Journal the deaths that the trainer recovered from; whether there were any."""
    deaths, trainer.restored = trainer.restored, ()
    for death in deaths:
        journal.event("restored", **dataclasses.asdict(death))
    return bool(deaths)


def _note(journal: Journal, step: int, update: Update) -> None:
    journal.update(
        step,
        update.number,
        update.fetched,
        update.staleness,
        step,
        math.nan if update.slowest_clock is None else update.slowest_clock,
        update.blocked_seconds,
        update.applied,
    )


def _numbers(split: Split) -> tuple[float, float, float, float]:
    ready_at = math.nan if split.ready_at is None else split.ready_at
    return split.computing_seconds, split.communicating_seconds, split.waiting_seconds, ready_at


def _sum(one: tuple[int, int] | None, other: tuple[int, int] | tuple[None, None]) -> tuple[int, int] | None:
    if one is None or other[0] is None or other[1] is None:
        return None
    return one[0] + other[0], one[1] + other[1]


def _difference(before: tuple[int, int] | None, after: tuple[int, int] | None) -> tuple[int, int] | tuple[None, None]:
    if before is None or after is None:
        return None, None
    return after[0] - before[0], after[1] - before[1]


def _epochs(first_step: int, total_steps: int, steps_per_epoch: int) -> Iterator[tuple[int, int, int]]:
    """(epoch, steps of it to pass over, where in it to stop); the first and the last may be a part.

    The first is that of the step before ``first_step``, of which there may be nothing left but to save its weights.
    """
    for epoch in range(max(0, first_step - 1) // steps_per_epoch, -(-total_steps // steps_per_epoch)):
        begin = epoch * steps_per_epoch
        yield epoch, max(0, first_step - begin), min(total_steps - begin, steps_per_epoch)
