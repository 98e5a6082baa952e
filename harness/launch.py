"""Starts a run's tasks, watches them, and ends them all when one dies, the run stalls or the user stops it.

A `Task` carries all that a process needs, so that what starts it here could start it on another host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..strategies.base import TASK_VARIABLE, Task
from .processes import end_all
from .task import PARENT_VARIABLE
from .watch import Death, Listener, Watch, program

POLL_SECONDS = 0.2
"""Seldom enough that watching costs the replicas nothing that shows: they have all the cores."""
LAST_WORDS_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: ``status`` ok, failed or timeout, why, and each task's own end by label."""

    status: str
    reason: str
    tasks: dict[str, str]
    started: float
    finished: float


class Launch:
    """One run's processes. `run` returns when none of them is left."""

    def __init__(self, tasks: list[Task], folder: Path, timeout: float, stop: threading.Event, listen: Listener):
        self._tasks = tasks
        self._folder = folder
        self._timeout = timeout
        self._stop = stop
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watch = Watch(tasks, folder, listen)
        self._deaths: list[Death] = []

    def run(self) -> Outcome:
        """Start, watch, end. Whatever happens, no process of the run is left."""
        started = time.time()
        try:
            for task in self._tasks:
                self._processes[program(task)] = self._start(task)
            status, reason = self._until_over()
        finally:
            end_all(self._processes.values(), self._watch.members.values())
        self._watch.poll()
        if self._deaths:
            reason = self._watch.explain(self._deaths)
        return Outcome(status, reason, self._task_ends(), started, time.time())

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        environment |= dict(task.env)
        environment |= {
            TASK_VARIABLE: task.to_json(),
            PARENT_VARIABLE: str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        }
        with (self._folder / f"{program(task)}.log").open("ab") as log:
            return subprocess.Popen(
                [*task.command, sys.executable, "-m", "stratbench.harness.worker", str(self._folder)],
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
            self._deaths = self._find_deaths()
            if self._deaths:
                return "failed", ""
            if all(self._code(task) == 0 for task in self._tasks if task.replicas):
                return "ok", ""
            if time.monotonic() - moved > self._timeout:
                return "timeout", f"no progress for {self._timeout:g} s{self._watch.progress()}"
            self._stop.wait(POLL_SECONDS)

    def _code(self, task: Task) -> int | None:
        return self._processes[program(task)].poll()

    def _find_deaths(self) -> list[Death]:
        """What ended too early: a process of this launcher's, or a member of a job that one of them started."""
        gone = self._watch.gone()
        for label in gone:
            self._reap(label)
        dead = [task for task in self._tasks if self._code(task) or (self._code(task) == 0 and not task.replicas)]
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
            reported = [death for task in launchers for death in self._watch.reported(task)]
            if reported or time.monotonic() > deadline:
                return reported
            time.sleep(POLL_SECONDS)
        return []

    def _task_ends(self) -> dict[str, str]:
        """Each task's end in words."""
        first = {death.name: death.how for death in reversed(self._deaths)}
        ends = {}
        for label in self._watch.labels:
            if label in self._watch.ended:
                ends[label] = "ended"
            elif label in self._watch.failures:
                ends[label] = f"failed: {self._watch.failures[label]}"
            else:
                ends[label] = first.get(label, "ended by stratbench")
        return ends
