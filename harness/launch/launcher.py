"""Starts a run's tasks, watches them, and ends them all when one dies, the run stalls or the user stops it.

A `Task` holds everything that a process needs, so that it could also be started on another host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import RunError
from ...results.raw.machine import Beside
from ...strategies.base import TASK_VARIABLE, Reaction, Task
from ..plan import temporary, variables
from ..plan.task import LOST_SUFFIX, SCRATCH, task_labels
from .fork_server import UNKNOWN
from .ports import is_here
from .processes import Process, end_all
from .starter import WORKER, Starter, common_environment
from .watch import Death, Listener, Watch, program

POLL_SECONDS = 0.2
"""Long enough that watching has no measurable cost for the replicas, which use all the cores."""
EXIT_WAIT_SECONDS = 2.0
MOST_RESTARTS = 3
"""Of one task: if it dies so often, one more start will not help."""

React = Callable[[Task, Sequence[Task], Sequence[Task]], Reaction]
"""Decides what to do when a task died: `stratbench.strategies.base.Strategy.after_death`."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """A task that died: how, when the launcher noticed it (Unix seconds), and what the launcher did."""

    label: str
    how: str
    noticed: float
    reaction: Reaction


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a run: ``status`` ok, failed or timeout, the reason, label → how each task ended, and the deaths.

    ``beside`` is what was measured of the machine during training; None if nothing was.
    """

    status: str
    reason: str
    tasks: dict[str, str]
    started: float
    finished: float
    losses: tuple[Loss, ...] = ()
    beside: Beside | None = None


class Launch:
    """The processes of one run. `run` returns when all of them have ended.

    Args:
        tasks: the tasks to start.
        folder: the run's folder.
        timeout: seconds without progress after which the run is ended.
        stop: set to end the run.
        listen: called with the events of the tasks' journals.
        react: decides what to do when a task died.
        module: what the tasks run.
    """

    def __init__(
        self,
        tasks: list[Task],
        folder: Path,
        timeout: float,
        stop: threading.Event,
        listen: Listener,
        react: React = lambda task, left, everyone: Reaction.END,
        starter: Starter | None = None,
        module: str = WORKER,
    ):
        self._module = module
        self._tasks = tasks
        self._left = {
            label: dataclasses.replace(task, index=int(label.rpartition("-")[2]))
            for task in tasks
            for label in task_labels([task])
        }
        self._everyone = list(self._left.values())
        self._react = react
        self._starter = starter or Starter(forks=False)
        self._losses: list[Loss] = []
        self._folder = folder
        self._timeout = timeout
        self._stop = stop
        self._processes: dict[str, Process] = {}
        self._watch = Watch(tasks, folder, listen)
        self._deaths: list[Death] = []
        self._temporary = ""

    def run(self) -> Outcome:
        """Start, watch, end. Whatever happens, no process of the run is left.

        Raises RunError, before any task is started, for a host that is not this machine.
        """
        for host in {task.host for task in self._tasks}:
            if not is_here(host):
                raise RunError(f"tasks can only be started on this machine so far. Received: host {host}.")
        started = time.time()
        with temporary.own_folder() as self._temporary:
            try:
                for task in self._tasks:
                    if self._stop.is_set() or not self._start(task):
                        break
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

    def _start(self, task: Task) -> bool:
        """Start the task's process; False if the user stopped the run before."""
        environment = variables.for_launcher(os.environ) if task.command else variables.for_task(os.environ)
        if task.command:
            # The launcher is a Python program too. It must not import modules from the current folder.
            environment["PYTHONSAFEPATH"] = "1"
        environment |= dict(task.env)
        environment |= {TASK_VARIABLE: task.to_json(), temporary.VARIABLE: self._temporary} | common_environment()
        log = self._folder / f"{program(task)}.log"
        process = self._starter.start(task, self._folder, environment, log, self._stop, self._module)
        if process:
            self._processes[program(task)] = process
        return process is not None

    def _until_over(self) -> tuple[str, str]:
        """(status, reason). If a task died, the reason is still empty: the other tasks' last events may explain it."""
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
        code = self._processes[program(task)].poll()
        if code == UNKNOWN:
            self._watch.poll()
            return 0 if task.label in self._watch.ended else code
        return code

    def _go_on(self, deaths: list[Death]) -> bool:
        """Give up the dead tasks or start them again, if the strategy says that the run can continue."""
        # A task that failed wrote it to its journal, maybe after the last poll.
        self._watch.poll()
        how = {death.name: death.how for death in reversed(deaths)}
        dead = {name: self._left[name] for name in how if name in self._left}
        left = [task for name, task in self._left.items() if name not in dead and name not in self._watch.ended]
        reactions = {name: self._reaction(name, task, left) for name, task in dead.items()}
        # The process that died may be the launcher of a job.
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
        # A task that failed by itself, as with a NaN loss, would fail again. In start-up, any task may be waited for.
        if name in self._watch.failures or name not in self._watch.ready or task.attempt >= MOST_RESTARTS:
            return Reaction.END
        return self._react(task, left, self._everyone)

    def _restart(self, task: Task) -> None:
        again = dataclasses.replace(task, attempt=task.attempt + 1)
        self._left[task.label] = again
        self._tasks = [again if each == task else each for each in self._tasks]
        self._start(again)

    def _give_up(self, task: Task) -> None:
        (self._folder / f"{task.label}{LOST_SUFFIX}").touch()
        del self._left[task.label]
        if not task.command:
            self._tasks.remove(task)

    def _find_deaths(self) -> list[Death]:
        """Processes that ended too early: of this launcher, or members of a job that one of them started."""
        gone = [label for label in self._watch.gone() if label in self._left]
        for label in gone:
            self._reap(label)
        dead = [task for task in self._tasks if self._code(task) or (self._code(task) == 0 and task.serves)]
        if not dead and not gone:
            return []
        codes = {program(task): self._code(task) for task in dead}
        own = [self._watch.death(name, None if code == UNKNOWN else code) for name, code in codes.items()]
        named = {death.name for death in own}
        reported = self._wait_for_reports([task for task in self._tasks if task.command])
        rest = [self._watch.death(label, None) for label in gone if label not in named]
        return reported + own + rest

    def _reap(self, label: str) -> None:
        """Wait for the exit code of a child that looks dead: its last threads may still run."""
        if label in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[label].wait(EXIT_WAIT_SECONDS)

    def _wait_for_reports(self, launchers: list[Task]) -> list[Death]:
        """Wait a moment until the launchers of jobs print how their members ended."""
        deadline = time.monotonic() + EXIT_WAIT_SECONDS
        while launchers:
            printed = [death for task in launchers for death in self._watch.reported(task)]
            reported = [death for death in printed if death.name in self._left]
            if reported or time.monotonic() > deadline:
                return reported
            time.sleep(POLL_SECONDS)
        return []

    def _task_ends(self) -> dict[str, str]:
        """Label → how each task ended, in words."""
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
