"""Ends processes that stratbench started, with all their descendants, and no other processes."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.02
_CLOCK_SECONDS = 2.0


class Process(Protocol):
    """What is used of `subprocess.Popen`: a process that this one, or its fork server, has started."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises `subprocess.TimeoutExpired`."""

    def terminate(self) -> None:
        """Send SIGTERM."""


def family(process: Process) -> list[psutil.Process]:
    """The process, if it still exists, and its descendants."""
    if process.poll() is not None:
        # Its number may be another process's by now.
        return []
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
    processes: Iterable[Process],
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


def killed_for_memory() -> int:
    """How many processes Linux has killed since its start because memory ran out; 0 where it does not count them."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE):
            return int(found[1])
    return 0


def created(pid: int) -> float:
    """When a process started, in Unix seconds: a number alone may be another process's later."""
    return psutil.Process(pid).create_time()


def find(event: Mapping[str, Any]) -> psutil.Process | None:
    """The process that wrote the ``start`` event of a journal; None if it is gone, or on another host."""
    if event["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(event["pid"])
        # The clock that this is computed from may have been set meanwhile.
        return process if abs(process.create_time() - event["created"]) < _CLOCK_SECONDS else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
