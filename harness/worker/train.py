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
    evaluated: Callable[[int], bool] | None = None,
    meets: bool = False,
) -> None:
    """Train from ``first_step`` up to ``total_steps`` updates and journal each.

    A step's seconds run from the end of the step before to its own end, so that they add up to the whole time. The
    clock rests while a copy of the weights is taken and saved in ``folder``: see `snapshots`.

    Args:
        accumulate: steps of an update.
        scales_loss: whether the optimizer scales the loss, and leaves out updates that are not finite.
        reports: whether this process saves the weights that all processes hold.
        profiler: records the steps after the warm-up, which rates then leave out as well.
        together: steps of one call, which have equal times.
        updated: is given the weights after the first update of the run, while the clock rests, unless that is within a
            call of several. A process that continues a run has no first update.
        evaluated: whether the weights after so many steps are saved; by default those after each epoch. Those after
            the last step always are.
        meets: whether the next step waits for the other processes, which save meanwhile.

    Raises:
        RunError: the loss of a step is NaN or infinite.
    """
    warm = first_step + bounds.warm_up(accumulate, together)
    measured = warm + (bounds.left_out(profiler.steps, together) if profiler else 0)
    record = functools.partial(profiler.between, first=warm) if profiler else lambda done: None
    evaluated = evaluated or (lambda done: done % batches.steps_per_epoch == 0)
    keep = functools.partial(_keep, trainer, journal, folder, reports, meets)
    first_update = 0 if first_step or together > 1 else accumulate

    def rest(done: int) -> Callable[[], bool] | None:
        """What is to be done after a step, before its epoch has ended."""
        saves = done % batches.steps_per_epoch > 0 and done < total_steps and evaluated(done)
        tells = updated if done == first_update else None
        return functools.partial(keep, done, tells=tells, saves=saves) if saves or tells else None

    if first_step and (first_step == total_steps or evaluated(first_step)):
        # A former process of this worker may have died after that step and before its copy was saved.
        keep(first_step, again=False)
    steps = _Steps(trainer, journal, first_step, measured, scales_loss, record)
    for epoch, skipped, stop in _epochs(first_step, total_steps, batches.steps_per_epoch):
        source = _Part(batches, epoch, skipped, stop)
        traffic = tcp_bytes()
        first, steps.whole = steps.done, not skipped
        own = list(source) if isinstance(trainer, OwnLoop) and batches.kept else source
        rests = _Rests(clock, rest)
        begin = before = asked = clock()
        if isinstance(trainer, OwnLoop):
            rates = [schedule(steps.done + place) for place in range(stop - skipped)]
            trainer.epoch(own, rates, functools.partial(_note, steps, rests, epoch, clock))
            before = clock()
        else:
            for batch in source:
                ready = clock()
                result = trainer.step(batch, schedule(steps.done))
                now = clock()
                steps.note(epoch, result, now - before, ready - asked, now)
                before, asked = now + rests(steps.done), clock()
                if trainer.finished:
                    break
        trainer.settle()
        # Counts go with the connections to what died, and those of the process before this one are gone as well.
        whole = steps.whole and rests.whole
        sent, received = _difference(_sum(traffic, rests.traffic), tcp_bytes()) if whole else (None, None)
        journal.event(
            "epoch",
            epoch=epoch,
            seconds=None if skipped else before - begin - rests.seconds,
            steps=steps.done - first,
            sent_bytes=sent,
            received_bytes=received,
            read=batches.order.told(),
            logs=dict(trainer.logs()),
            figures=dict(trainer.epoch_figures()),
        )
        if trainer.finished or steps.done == total_steps or evaluated(steps.done):
            keep(steps.done)
        if trainer.finished:
            return


def _keep(
    trainer: Trainer,
    journal: Journal,
    folder: Path,
    reports: Callable[[], bool],
    meets: bool,
    done: int,
    again: bool = True,
    tells: Callable[[Sequence[np.ndarray | None]], None] | None = None,
    saves: bool = True,
) -> bool:
    """Take a copy of the weights after so many steps. Whether the trainer recovered from no death meanwhile.

    For the arguments see `train` and `snapshots.save`.
    """
    weights = trainer.weights()
    whole = not _restored(trainer, journal)
    if tells:
        tells(weights)
    if saves:
        save(folder, done, trainer.rank, weights, reports(), again, meets)
    return whole


class _Rests:
    """What is done between the steps of an epoch, of which neither time nor traffic is the steps'.

    Args:
        clock: in seconds.
        due: gives what is to be done after so many steps, if anything; it returns as `_keep` does.

    Attributes:
        seconds, traffic: of all that; (sent, received), None if the kernel does not tell.
        whole: False since a death that the trainer recovered from meanwhile.
    """

    def __init__(self, clock: Callable[[], float], due: Callable[[int], Callable[[], bool] | None]):
        self._clock, self._due = clock, due
        self.seconds, self.whole = 0.0, True
        self.traffic: tuple[int, int] | None = (0, 0)

    def __call__(self, done: int) -> float:
        """After so many steps; the seconds that it took."""
        if not (work := self._due(done)):
            return 0.0
        begin, counted = self._clock(), tcp_bytes()
        self.whole &= work()
        self.traffic = _sum(self.traffic, _difference(counted, tcp_bytes()))
        seconds = self._clock() - begin
        self.seconds += seconds
        return seconds


def _note(
    steps: _Steps, rests: _Rests, epoch: int, clock: Callable[[], float], result: StepResult, seconds: float
) -> float:
    """A step of an `OwnLoop` is over."""
    steps.note(epoch, result, seconds, math.nan, clock())
    return rests(steps.done)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Batches ``[first, stop)`` of an epoch, read anew at each iteration."""

    batches: Batches
    epoch: int
    first: int
    stop: int

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.batches.epoch(self.epoch), self.first, self.stop)


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
            _note_update(self._journal, step, result.update)
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


def _note_update(journal: Journal, step: int, update: Update) -> None:
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


def _sum(one: tuple[int, int] | None, other: tuple[int, int] | tuple[None, None] | None) -> tuple[int, int] | None:
    if one is None or other is None or other[0] is None or other[1] is None:
        return None
    return one[0] + other[0], one[1] + other[1]


def _difference(before: tuple[int, int] | None, after: tuple[int, int] | None) -> tuple[int, int] | tuple[None, None]:
    if before is None or after is None:
        return None, None
    return after[0] - before[0], after[1] - before[1]


def _epochs(first_step: int, total_steps: int, steps_per_epoch: int) -> Iterator[tuple[int, int, int]]:
    """(epoch, steps of it to pass over, where in it to stop); the first and the last may be a part."""
    if first_step == total_steps:
        return
    for epoch in range(first_step // steps_per_epoch, -(-total_steps // steps_per_epoch)):
        begin = epoch * steps_per_epoch
        yield epoch, max(0, first_step - begin), min(total_steps - begin, steps_per_epoch)
