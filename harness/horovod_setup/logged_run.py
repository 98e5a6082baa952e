"""Runs long commands: output goes to a file, the user sees progress, and no process is left running."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

QUIET_SECONDS = 20
"""After so many seconds without news from a command, a line says that it still runs."""

COMMAND_MARK = "\n$ "
"""The text before each command in the log file; its output follows."""

_PERCENT = re.compile(rb"\[\s*(\d{1,3})%\]")
_STEP_PERCENT = 10
_PATIENCE_SECONDS = 5
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@dataclass
class LoggedRun:
    """Runs commands one after the other; everything that they print goes to ``path``.

    Attributes:
        path: the log file, emptied at the start.
        log: called with one line of text for each phase, and regularly while a phase runs.
    """

    path: Path
    log: Callable[[str], None]
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("")

    def say(self, text: str) -> None:
        """Log one line with the time since the start."""
        self.log(f"[{time.monotonic() - self._started:4.0f} s] {text}")

    def __call__(self, phase: str, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run one command to its end and return its exit code. An exception while it runs ends the command too."""
        self.say(phase)
        with self.path.open("ab", buffering=0) as file:
            file.write(f"{COMMAND_MARK}{' '.join(command)}\n".encode())
            process = None
            try:
                with held_back():
                    process = subprocess.Popen(
                        command,
                        env=dict(env),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        bufsize=0,
                        start_new_session=True,  # so that make and its compilers can be ended together, as one group
                    )
                assert process.stdout is not None
                self._follow(phase, process.stdout, file)
                return process.wait()
            except BaseException:
                if process:
                    end_group(process)
                raise

    def _follow(self, phase: str, output: IO[bytes], file: IO[bytes]) -> None:
        percent, shown, said = 0, 0, time.monotonic()
        rest = b""
        while True:
            ready, _, _ = select.select([output], [], [], QUIET_SECONDS)
            if ready:
                chunk = os.read(output.fileno(), 65536)
                if not chunk:
                    return
                file.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                percent = max([percent, *(int(found) for line in lines for found in _PERCENT.findall(line))])
            if percent >= shown + _STEP_PERCENT or time.monotonic() > said + QUIET_SECONDS:
                self.say(f"{phase}: {percent} %" if percent else f"{phase}: still running")
                shown, said = percent, time.monotonic()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all processes that it started: SIGTERM, then SIGKILL. Wait until they have ended."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(process, how)
        until = time.monotonic() + _PATIENCE_SECONDS
        while _signal_group(process, 0) and time.monotonic() < until:
            time.sleep(0.02)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the group. Returns whether the group exists; signal 0 only checks this."""
    process.poll()  # a leader that has ended still exists until poll() or wait()
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise an exception as Ctrl-C does, so that temporary folders and children are removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that would raise an exception wait: within, a process may run already that nobody knows yet."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupting = [number for number in (signal.SIGINT, *_ENDING) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in interrupting}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in came:
        signal.raise_signal(each)
