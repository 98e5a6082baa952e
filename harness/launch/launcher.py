"""Starts a run's tasks, watches them, and ends them all when one dies, the run stalls or the user stops it.

A `Task` carries all that a process needs, so that what starts it here could start it on another host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import RunError
from ...results.raw.machine import Beside
from ...strategies.base import TASK_VARIABLE, Reaction, Task
from ..plan import variables
from ..plan.task import LOST_SUFFIX, PARENT_VARIABLE, SCRATCH, task_labels
from .ports import is_here
from .processes import end_all
from .watch import Death, Listener, Watch, program

POLL_SECONDS = 0.2
"""Seldom enough that watching costs the replicas nothing that shows: they have all the cores."""
LAST_WORDS_SECONDS = 2.0
MOST_RESTARTS = 3
"""Of one task: what dies as often won't be mended by another start."""

React = Callable[[Task, Sequence[Task], Sequence[Task]], Reaction]
"""What to do when a task died: `stratbench.strategies.base.Strategy.after_death`."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """A task that died: how, when the launcher noticed (Unix seconds), and what it did."""

    label: str
    how: str
    noticed: float
    reaction: Reaction


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: ``status`` ok, failed or timeout, why, each task's own end by label, and who was lost.

    ``beside`` is what was measured of the machine while it trained, None where nothing was.
    """

    status: str
    reason: str
    tasks: dict[str, str]
    started: float
    finished: float
    losses: tuple[Loss, ...] = ()
    beside: Beside | None = None


class Launch:
    """One run's processes. `run` returns when none of them is left.

    Args:
        tasks: what to start.
        folder: the run's.
        timeout: seconds without progress after which it is ended.
        stop: set by whoever wants it ended.
        listen: told what the tasks journal.
        react: what to do when one died.
    """

    def __init__(
        self,
        tasks: list[Task],
        folder: Path,
        timeout: float,
        stop: threading.Event,
        listen: Listener,
        react: React = lambda task, left, everyone: Reaction.END,
    ):
        self._tasks = tasks
        self._left = {
            label: dataclasses.replace(task, index=int(label.rpartition("-")[2]))
            for task in tasks
            for label in task_labels([task])
        }
        self._everyone = list(self._left.values())
        self._react = react
        self._losses: list[Loss] = []
        self._folder = folder
        self._timeout = timeout
        self._stop = stop
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watch = Watch(tasks, folder, listen)
        self._deaths: list[Death] = []

    def run(self) -> Outcome:
        """Start, watch, end. Whatever happens, no process of the run is left.

        Raises RunError, before any task is started, for a host that is not this machine.
        """
        for host in {task.host for task in self._tasks}:
            if not is_here(host):
                raise RunError(f"tasks can only be started on this machine so far. Received: host {host}.")
        started = time.time()
        try:
            for task in self._tasks:
                self._processes[program(task)] = self._start(task)
            status, reason = self._until_over()
        finally:
            end_all(self._processes.values(), self._watch.members.values())
            shutil.rmtree(self._folder / SCRATCH, ignore_errors=True)
            for path in self._folder.glob(f"*{LOST_SUFFIX}"):
                path.unlink()
        self._watch.poll()
        if self._deaths:
            reason = self._watch.explain(self._deaths)
        return Outcome(status, reason, self._task_ends(), started, time.time(), tuple(self._losses))

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        environment = variables.for_launcher(os.environ) if task.command else variables.for_task(os.environ)
        if task.command:
            # It is a Python program of its own, which must not take a file of the current folder for a module.
            environment["PYTHONSAFEPATH"] = "1"
        environment |= dict(task.env)
        environment |= {
            TASK_VARIABLE: task.to_json(),
            PARENT_VARIABLE: str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        }
        with (self._folder / f"{program(task)}.log").open("ab") as log:
            return subprocess.Popen(
                [*task.command, sys.executable, "-P", "-m", "stratbench.harness.worker", str(self._folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C is for the parent, which ends the tasks in order.
                start_new_session=True,
            )

    def _until_over(self) -> tuple[str, str]:
        """(status, reason); no reason yet when a task died, as the others' last words may explain it."""
        moved = time.monotonic()
        while True:
            if self._watch.poll():
                moved = time.monotonic()
            if self._stop.is_set():
                return "failed", f"interrupted{self._watch.progress()}"
            deaths = self._find_deaths()
            if deaths and not self._go_on(deaths):
                self._deaths = deaths
                return "failed", ""
            if all(self._code(task) == 0 for task in self._tasks if not task.serves):
                return "ok", ""
            if time.monotonic() - moved > self._timeout:
                return "timeout", f"no progress for {self._timeout:g} s{self._watch.progress()}"
            self._stop.wait(POLL_SECONDS)

    def _code(self, task: Task) -> int | None:
        return self._processes[program(task)].poll()

    def _go_on(self, deaths: list[Death]) -> bool:
        """Give up, or start again, what died, if the strategy says that the run can go on so."""
        # Who failed has said so, maybe after it was last listened to.
        self._watch.poll()
        how = {death.name: death.how for death in reversed(deaths)}
        dead = {name: self._left[name] for name in how if name in self._left}
        left = [task for name, task in self._left.items() if name not in dead and name not in self._watch.ended]
        reactions = {name: self._reaction(name, task, left) for name, task in dead.items()}
        # A job's launcher may itself be what died.
        ends = len(dead) < len(how) or Reaction.END in reactions.values()
        for name, reaction in reactions.items():
            self._losses.append(Loss(name, how[name], time.time(), Reaction.END if ends else reaction))
        if ends:
            return False
        for name, reaction in reactions.items():
            self._watch.forget(name)
            if reaction is Reaction.RESTART:
                self._restart(dead[name])
            else:
                self._give_up(dead[name])
        return True

    def _reaction(self, name: str, task: Task, left: Sequence[Task]) -> Reaction:
        # What failed by itself, as by a loss that is NaN, would fail again. In start-up others may wait for anyone.
        if name in self._watch.failures or name not in self._watch.ready or task.attempt >= MOST_RESTARTS:
            return Reaction.END
        return self._react(task, left, self._everyone)

    def _restart(self, task: Task) -> None:
        again = dataclasses.replace(task, attempt=task.attempt + 1)
        self._left[task.label] = again
        self._tasks = [again if each == task else each for each in self._tasks]
        self._processes[program(again)] = self._start(again)

    def _give_up(self, task: Task) -> None:
        (self._folder / f"{task.label}{LOST_SUFFIX}").touch()
        del self._left[task.label]
        if not task.command:
            self._tasks.remove(task)

    def _find_deaths(self) -> list[Death]:
        """What ended too early: a process of this launcher's, or a member of a job that one of them started."""
        gone = [label for label in self._watch.gone() if label in self._left]
        for label in gone:
            self._reap(label)
        dead = [task for task in self._tasks if self._code(task) or (self._code(task) == 0 and task.serves)]
        if not dead and not gone:
            return []
        own = [self._watch.death(program(task), self._code(task)) for task in dead]
        named = {death.name for death in own}
        reported = self._hear([task for task in self._tasks if task.command])
        rest = [self._watch.death(label, None) for label in gone if label not in named]
        return reported + own + rest

    def _reap(self, label: str) -> None:
        """Wait for the exit code of a child that looks dead: its last threads may not be."""
        if label in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[label].wait(LAST_WORDS_SECONDS)

    def _hear(self, launchers: list[Task]) -> list[Death]:
        """Give a job's own launcher a moment to say how its members ended."""
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while launchers:
            told = [death for task in launchers for death in self._watch.reported(task)]
            reported = [death for death in told if death.name in self._left]
            if reported or time.monotonic() > deadline:
                return reported
            time.sleep(POLL_SECONDS)
        return []

    def _task_ends(self) -> dict[str, str]:
        """Each task's end in words."""
        first = {death.name: death.how for death in reversed(self._deaths)}
        first |= {loss.label: loss.how for loss in self._losses}
        ends = {}
        for label in self._watch.labels:
            if label in self._watch.ended:
                ends[label] = "ended"
            elif label in self._watch.failures:
                ends[label] = f"failed: {self._watch.failures[label]}"
            else:
                ends[label] = first.get(label, "ended by stratbench")
        return ends
