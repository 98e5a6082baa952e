"""Stops a process with all its threads for some seconds: ``python -m stratbench.harness.worker.stopper PID SECONDS``.

A worker starts this one to be stopped itself, or to have a task stopped that takes no steps. It is told on standard
output when all threads are stopped, and by the exit code whether the stop held. A process can't do this alone: it can't
see itself stopped, and while it is stopped it can't count seconds.

Whatever is killed meanwhile, nothing stays stopped and no helper stays behind: without the process, this one ends;
without this one, a child of it resumes the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import psutil

NEVER_STOPPED, RESUMED_EARLY = 3, 4
"""Exit codes; 0 for a stop that held."""
STOPPED = "stopped"
"""What is printed when all threads are stopped."""

PATIENCE_SECONDS = 10.0
"""How long all threads may take to stop: one in an uninterruptible system call stops after it."""
POLL_SECONDS = 0.02


def main(pid: int, seconds: float) -> int:
    """Stop the process ``pid`` for ``seconds``, counted from when all its threads are stopped; the exit code."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return 0
    guard = _start_guard(process)
    try:
        return _stop(process, seconds)
    finally:
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)


def stopped(process: psutil.Process) -> bool:
    """Whether all its threads are stopped; outside of Linux, whether the process is."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        # A thread has just ended: the process still ran.
        return False
    states = {stat.rpartition(")")[2].split()[0] for stat in stats}
    return process.status() == psutil.STATUS_STOPPED and states <= {"T"}


def _stop(process: psutil.Process, seconds: float) -> int:
    try:
        process.suspend()
        return _hold(process, seconds)
    except psutil.NoSuchProcess:
        # It was killed, so no process reads the code.
        return 0
    finally:
        _resume(process)


def _hold(process: psutil.Process, seconds: float) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not stopped(process) and _lives(process):
        if time.monotonic() > deadline:
            return NEVER_STOPPED
        time.sleep(0.001)
    print(STOPPED, flush=True)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and _lives(process):
        if process.status() != psutil.STATUS_STOPPED:
            return RESUMED_EARLY
        time.sleep(min(left, POLL_SECONDS))
    return 0


def _lives(process: psutil.Process) -> bool:
    """False once it is dead, also before its parent has noticed it."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def _start_guard(process: psutil.Process) -> int:
    """Fork a process that resumes ``process`` when this one is dead; its pid."""
    this = os.getpid()
    guard = os.fork()
    if guard:
        return guard
    while os.getppid() == this:
        time.sleep(POLL_SECONDS)
    _resume(process)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
