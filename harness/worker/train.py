"""The measured loop: the same for every strategy, and next to nothing beside its step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from ...datasets.batches import Batches
from ...errors import RunError
from ...results.raw.journal import Journal
from ...strategies.trainer import Trainer, Update
from .snapshots import save
from .usage import tcp_bytes

WARMUP_STEPS = 2
"""Updates at the start of a run that trace, compile and fill caches: kept in the table, left out of rates."""


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
    reports: Callable[[], bool] = lambda: True,
) -> None:
    """Train from ``first_step`` up to ``total_steps`` updates and journal each.

    A step's seconds run from the end of the step before to its own end, so that they add up to the whole time. Between
    epochs the clock rests while a copy of the weights is taken and saved in ``folder``: see `snapshots`.

    Args:
        accumulate: steps of an update.
        reports: whether this process saves the weights that all processes hold.

    Raises:
        RunError: the loss of a step is NaN or infinite.
    """
    step = first_step
    for epoch, skipped, stop in _epochs(first_step, total_steps, batches.steps_per_epoch):
        # A former process of this worker may have died after the last step of an epoch and before its copy was saved.
        source = islice(batches.epoch(epoch), skipped, stop) if skipped < stop else ()
        traffic = tcp_bytes()
        first, whole = step, not skipped
        begin = before = clock()
        for batch in source:
            ready = clock()
            result = trainer.step(batch, schedule(step))
            now = clock()
            warmup = step < first_step + WARMUP_STEPS * accumulate
            journal.step(epoch, step, now - before, ready - before, result.examples, result.loss, warmup, now)
            whole &= not _restored(trainer, journal)
            if result.update:
                _note(journal, step, result.update)
            if result.loss is not None and not math.isfinite(result.loss):
                raise RunError(f"the loss became {result.loss} at step {step}")
            before = now
            step += 1
            if trainer.finished:
                break
        # Counts go with the connections to what died, and those of the process before this one are gone as well.
        sent, received = _difference(traffic, tcp_bytes()) if whole else (None, None)
        seconds = None if skipped else before - begin
        if skipped < stop:
            journal.event(
                "epoch", epoch=epoch, seconds=seconds, steps=step - first, sent_bytes=sent, received_bytes=received
            )
        weights = trainer.weights()
        _restored(trainer, journal)
        save(folder, epoch, trainer.rank, weights, reports(), again=skipped < stop)
        if trainer.finished:
            return


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
