"""Runs long commands: output to a file, signs of life for the person who waits, no process left behind."""

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
"""A command that has said nothing new for so long gets a line that it still runs."""

COMMAND_MARK = "\n$ "
"""What stands before each command in the log file; its output follows."""

_PERCENT = re.compile(rb"\[\s*(\d{1,3})%\]")
_STEP_PERCENT = 10
_PATIENCE_SECONDS = 5


@dataclass
class LoggedRun:
    """Runs commands one after the other; all that they print goes to ``path``.

    Attributes:
        path: the log file, emptied at the start.
        log: called with one line of text for each phase and sign of life.
    """

    path: Path
    log: Callable[[str], None]
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("")

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        self.log(f"[{time.monotonic() - self._started:4.0f} s] {text}")

    def __call__(self, phase: str, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run one command to its end and return its exit code. What ends the wait ends the command too."""
        self.say(phase)
        with self.path.open("ab", buffering=0) as file:
            file.write(f"{COMMAND_MARK}{' '.join(command)}\n".encode())
            process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,  # so that make and its compilers can be ended with it, as one group
            )
            try:
                assert process.stdout is not None
                self._follow(phase, process.stdout, file)
                return process.wait()
            except BaseException:
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
    """End the process and all that it started, politely, then by force, and wait until they are gone."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(process, how)
        until = time.monotonic() + _PATIENCE_SECONDS
        while _signal_group(process, 0) and time.monotonic() < until:
            time.sleep(0.02)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether there was anyone to take the signal; 0 only asks."""
    process.poll()  # a leader that ended counts as there until it has been waited for
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that temporary folders and children go."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
