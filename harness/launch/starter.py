"""Starts the processes of tasks: forked where that gives the same process as a fresh start, else fresh."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ...strategies.base import Task
from ..plan import temporary, variables
from ..plan.task import PARENT_VARIABLE
from .fork_server import ForkServer
from .processes import Process

BACKEND_VARIABLE = "KERAS_BACKEND"
START_VARIABLE = "STRATBENCH_START"
"""Tells a task how it was started, for its journal."""

FORKED, FRESH = "forked", "fresh"
WORKER = "stratbench.harness.worker"
"""The module that runs a task, in the run's folder."""

MOST_KILLED = 3
"""Fork servers that end by a signal before they are ready: then it is no accident."""

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""NumPy's library makes threads when it is imported, unless this is 1."""


_LATE = ("STRATBENCH_", "HOROVOD_", "NCCL_", temporary.VARIABLE)
"""First parts of the names of variables that no import reads."""


def common_environment() -> dict[str, str]:
    """What every process that is started here has in its environment."""
    return {
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }


class Starter:
    """Starts tasks for all runs of one command. Leave the ``with`` block to end the fork server.

    Args:
        forks: whether tasks may be forked.
        ignored: variables of the environment that may differ between tasks that are forked.
    """

    def __init__(self, forks: bool = True, ignored: Collection[str] = ()):
        self._ignored = {variables.CLUSTER, *ignored}
        self._server: ForkServer | None = None
        self._killed = 0
        self._unable = "" if forks else "forking is turned off"
        if forks and sys.platform != "linux":
            self._unable = "forking is used on Linux only"

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the fork server."""
        if self._server:
            self._server.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that work for all runs."""
        return (self._server.pid,) if self._server else ()

    def start(
        self,
        task: Task,
        folder: Path,
        env: Mapping[str, str],
        log: Path,
        stop: threading.Event,
        module: str = WORKER,
    ) -> Process | None:
        """Start the task's process, in the current folder, with its output added to ``log``.

        Args:
            module: what it runs, with ``folder`` as its argument.

        Returns:
            None if ``stop`` was set before it was started.
        """
        why = self._why_fresh(task, env)
        if not why:
            server = self._serving(env)
            ready = server.wait_ready(stop)
            if stop.is_set():
                return None
            if ready and (forked := server.fork(module, folder, {**env, START_VARIABLE: FORKED}, log)):
                return forked
            why = server.reason or "the fork server died"
            # One that was killed is replaced. One that can't work here would fail again.
            self._killed += server.killed
            self._unable = "" if server.killed and self._killed < MOST_KILLED else server.reason
        with log.open("ab") as file:
            return subprocess.Popen(
                self._command(task, [sys.executable, "-P", "-m", module, str(folder)]),
                env={**env, START_VARIABLE: f"{FRESH}: {why}"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C is for the parent, which ends the tasks in order.
                start_new_session=True,
            )

    def _command(self, task: Task, program: Sequence[str]) -> list[str]:
        """The command line of a task that is not forked."""
        return [*task.command, *program]

    def _why_fresh(self, task: Task, env: Mapping[str, str]) -> str:
        """Why the task can't be forked; empty if it can."""
        if task.command:
            return f"{Path(task.command[0]).name} starts it"
        if self._unable:
            return self._unable
        if not _has_folder():
            return "the current folder is gone"
        backend = env.get(BACKEND_VARIABLE)
        if backend != "tensorflow":
            return f"it uses Keras with {backend}"
        if env.get(_BLAS_THREADS, "1") != "1":
            return f"{_BLAS_THREADS} is set"
        if self._server and not self._server.dead:
            names = sorted(name for name in {*env, *self._server.environ} if self._differs(name, env))
            if names:
                return f"{', '.join(names)} {'differ' if names[1:] else 'differs'} from the fork server's"
        return ""

    def _differs(self, name: str, env: Mapping[str, str]) -> bool:
        if self._is_per_task(name) or name == _BLAS_THREADS:
            return False
        return self._server is not None and self._server.environ.get(name) != env.get(name)

    def _is_per_task(self, name: str) -> bool:
        """Whether a variable is read after the imports."""
        return name.startswith(_LATE) or name in self._ignored

    def _serving(self, env: Mapping[str, str]) -> ForkServer:
        """The fork server, started now if there is none."""
        if self._server and self._server.dead:
            self._server.close()
            self._server = None
        if self._server is None:
            own = {name: value for name, value in env.items() if not self._is_per_task(name)}
            self._server = ForkServer({**own, _BLAS_THREADS: "1"})
        return self._server


def _has_folder() -> bool:
    try:
        return Path.cwd().exists()
    except OSError:
        return False
