"""Ends processes that stratbench started, with all their descendants, and no other processes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Collection, Iterable

import psutil

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.02


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The process, if it still exists, and its descendants."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process) -> bool:
    """Whether it runs. A zombie does not: in a container without an init, it may never be reaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_all(
    processes: Iterable[subprocess.Popen[bytes]],
    members: Iterable[psutil.Process],
    grace: float = GRACE_SECONDS,
) -> None:
    """Send SIGTERM, and after ``grace`` seconds kill the processes that are left, with all descendants.

    Args:
        members: more processes of the run, whose parents may have ended.
    """
    started = list(processes)
    everyone = {member.pid: member for member in members}
    for process in started:
        everyone |= {member.pid: member for member in family(process)}
        if process.poll() is None:
            process.terminate()
    _wait(everyone.values(), grace)
    for process in started:
        everyone |= {member.pid: member for member in family(process)}
    for member in filter(alive, everyone.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    _wait(everyone.values(), grace)
    for process in started:
        process.wait()


def _wait(members: Collection[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(alive, members)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def describe_exit(code: int) -> str:
    """``killed by SIGKILL`` or ``exit code 3``, from a process's own code or a shell's 128 + signal."""
    number = -code if code < 0 else code - 128
    if 0 < number < 65:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"exit code {code}"
