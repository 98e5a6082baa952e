"""Makes the faults of a worker happen, around its steps. Strategies do not know about them, but for `Workload.delays`.

- A slow worker sleeps in its forward pass, so its gradients are late *and* stale, as on a slow machine.
- A worker that is to die sends SIGKILL to itself; worker 0 sends it to a task that takes no steps.
- A worker that is to pause is stopped, with all its threads, by another process: see `stopper`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil

from ...errors import RunError
from ...results.raw import journal as journals
from ...results.raw.journal import Journal
from ...strategies.base import Task
from ...strategies.trainer import Batch, StepResult, Trainer
from ..launch.processes import find
from ..plan.bounds import WARMUP_STEPS
from ..plan.faults import Fault
from . import stopper

if TYPE_CHECKING:
    import numpy as np

CALIBRATION_STEPS = 10
"""Steps after the warm-up that are not slowed. A factor is relative to their median duration."""


class Slowness:
    """How long this worker sleeps in each step.

    Attributes:
        seconds: in the current step.
        total_seconds: in all steps so far.
    """

    def __init__(self, faults: Sequence[Fault], seed: int):
        import numpy as np

        self._faults = faults
        self._random = np.random.default_rng([seed, *(fault.index for fault in faults)])
        self._alone: list[float] = []
        self.seconds = self.total_seconds = 0.0

    def begin(self) -> None:
        """Draw how long this worker sleeps in the step that begins."""
        self.seconds = sum(map(self._draw, self._faults))
        self.total_seconds += self.seconds

    def end(self, step_seconds: float) -> None:
        """Remember the duration of the first steps."""
        if len(self._alone) < WARMUP_STEPS + CALIBRATION_STEPS:
            self._alone.append(step_seconds)

    def sleep(self) -> None:
        """Called by the model's forward pass."""
        time.sleep(self.seconds)

    def _draw(self, fault: Fault) -> float:
        if fault.seconds is not None:
            return fault.seconds if self._random.random() < fault.probability else 0.0
        if len(self._alone) < WARMUP_STEPS + CALIBRATION_STEPS:
            return 0.0
        return ((fault.factor or 1.0) - 1.0) * median(self._alone[WARMUP_STEPS:])


class Injector:
    """The faults of one worker. Those of tasks that take no steps are worker 0's, but for slowness, which all know.

    Args:
        faults: of the whole run.
        first_step: the first step of this process; greater than 0 in a worker that was restarted.
    """

    def __init__(self, faults: Sequence[Fault], task: Task, seed: int, journal: Journal, first_step: int = 0):
        mine = [fault for fault in faults if fault.label == task.label]
        if task.role == "worker":
            # A task without steps can't count them. Any worker may drive one that is slow.
            mine += [fault for fault in faults if fault.role != "worker" and (task.index == 0 or fault.kind == "slow")]
        slow = [fault for fault in mine if fault.kind == "slow"]
        self._slow = {
            label: Slowness([fault for fault in slow if fault.label == label], seed)
            for label in dict.fromkeys(fault.label for fault in slow)
        }
        self._own = self._slow.get(task.label)
        # At one step, what kills this process comes last: it would leave out the rest.
        due = sorted((fault for fault in mine if fault.kind != "slow"), key=self._kills_itself)
        # A fault that killed the former process of this worker must not kill this one too.
        self._due = [fault for fault in due if not task.attempt or (fault.step or 0) > first_step]
        self._journal = journal
        self._pauses: list[tuple[subprocess.Popen[bytes], Fault]] = []

    @staticmethod
    def _kills_itself(fault: Fault) -> bool:
        return fault.kind == "kill" and fault.role == "worker"

    @property
    def delay(self) -> Callable[[], None] | None:
        """A function that the forward pass must call, or None."""
        return self._own.sleep if self._own else None

    @property
    def delays(self) -> dict[str, Callable[[], float]]:
        """By the label of each slow task: gives the seconds that it sleeps in the current step."""
        return {label: functools.partial(getattr, slow, "seconds") for label, slow in self._slow.items()}

    @property
    def delayed_seconds(self) -> float | None:
        """Seconds that this worker slept so far; None if no slowness was asked for."""
        return self._own.total_seconds if self._own else None

    def inject(self, step: int) -> None:
        """Make the faults happen that are due before ``step``. Raises RunError when a pause did not hold."""
        for slow in self._slow.values():
            slow.begin()
        for fault in [fault for fault in self._due if fault.step == step]:
            self._journal.event("injected", fault=str(fault), kind=fault.kind, task=fault.label, step=step)
            other = self._journal.path.with_name(f"{fault.label}.jsonl")
            if fault.kind == "pause":
                self._pause(fault, other)
            elif fault.role != "worker":
                _kill(other)
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def _pause(self, fault: Fault, journal: Path) -> None:
        if fault.role == "worker":
            _wait(_stop(os.getpid(), fault, journal), fault)
        elif process := _process(journal):
            self._pauses.append((_stop(process.pid, fault, journal), fault))

    def end(self, seconds: float) -> None:
        """After a step that took so long: wait for the pauses of other tasks. Raises RunError when one did not hold."""
        for slow in self._slow.values():
            slow.end(seconds)
        while self._pauses:
            _wait(*self._pauses.pop())

    def around(self, trainer: Trainer, first_step: int = 0) -> Trainer:
        """A trainer that injects the faults before its steps; ``trainer`` itself if there are no faults."""
        return Injected(trainer, self, first_step) if self._slow or self._due else trainer


class Injected(Trainer):
    """A trainer that injects faults before the steps of another trainer."""

    def __init__(self, inner: Trainer, injector: Injector, first_step: int):
        self.rank, self.memory = inner.rank, inner.memory
        self.shards, self.shard, self.count = inner.shards, inner.shard, inner.count
        self._inner, self._injector, self._step = inner, injector, first_step

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        self._injector.inject(self._step)
        begin = time.perf_counter()
        result = self._inner.step(batch, learning_rate)
        self._injector.end(time.perf_counter() - begin)
        self._step += 1
        self.finished = self._inner.finished
        self._take_restored()
        return result

    def settle(self) -> None:
        """See `Trainer.settle`."""
        self._inner.settle()

    def epoch_figures(self) -> Mapping[str, float]:
        """See `Trainer.epoch_figures`."""
        return self._inner.epoch_figures()

    def logs(self) -> Mapping[str, float]:
        """See `Trainer.logs`."""
        return self._inner.logs()

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        weights = self._inner.weights()
        self._take_restored()
        return weights

    def _take_restored(self) -> None:
        self.restored, self._inner.restored = [*self.restored, *self._inner.restored], ()


def _stop(pid: int, fault: Fault, journal: Path) -> subprocess.Popen[bytes]:
    """A process that stops another one, all its threads, for the seconds of ``fault``. Returns when that is stopped.

    Args:
        journal: its path is in the command line, which says what the process belongs to.
    """
    command = [sys.executable, "-m", f"{__package__}.stopper", str(pid), str(fault.seconds), str(journal)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as told:
        told.readline()
    return process


def _wait(process: subprocess.Popen[bytes], fault: Fault) -> None:
    """Wait until a pause is over. Raises RunError if it did not hold."""
    if code := process.wait():
        why = {
            stopper.NEVER_STOPPED: "its threads did not stop on SIGSTOP",
            stopper.RESUMED_EARLY: "another process resumed it with SIGCONT",
        }.get(code, f"the process that stopped it ended with code {code}")
        raise RunError(f"A pause must stop the process for {fault.seconds:g} s. Received: {why}.")


def _process(journal: Path) -> psutil.Process | None:
    """The task that writes ``journal``, if it is a process of this run on this host."""
    start = journals.read(journal).start
    return find(start) if start else None


def _kill(journal: Path) -> None:
    # It may be dead already.
    with contextlib.suppress(psutil.NoSuchProcess):
        if process := _process(journal):
            process.kill()
