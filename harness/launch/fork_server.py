"""The launcher's side of the fork server, which starts tasks without the imports: see `worker.fork_server`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from .processes import alive

_MODULE = "stratbench.harness.worker.fork_server"
END_SECONDS = 5.0
READY_SECONDS = 120.0
"""So long may the imports take, on a very busy machine."""
POLL_SECONDS = 0.02
UNKNOWN = 256
"""Exit code of a task that ended after the fork server had died; no process has it."""


class Forked:
    """A task that the fork server has started; the methods are those of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, number: int, pid: int):
        self._server, self._number = server, number
        self.pid = pid
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """The exit code, as in `subprocess`; None while it runs."""
        code = self._server.codes.get(self._number)
        if code is None and self._server.dead and not (self._process and alive(self._process)):
            # Its last answer may have come meanwhile.
            return self._server.codes.get(self._number, UNKNOWN)
        return code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(_MODULE, timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code

    def terminate(self) -> None:
        """Send SIGTERM, if it still runs."""
        if self._process and self.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.terminate()


class ForkServer:
    """A fork server and its tasks. `close` ends it.

    Args:
        environ: its environment.

    Attributes:
        environ: the same.
        codes: exit codes of tasks, by their number.
        dead: whether it can start no task any more.
        reason: why it can't work here; empty for one that was killed.
    """

    def __init__(self, environ: Mapping[str, str]):
        self.environ = dict(environ)
        self.codes: dict[int, int] = {}
        self.dead, self.reason = False, "the fork server ended before it was ready"
        self._pids: dict[int, int | None] = {}
        self._next = 0
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True, name="fork-server")
        self._listener.start()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def fork(self, folder: Path, env: Mapping[str, str], log: Path) -> Forked | None:
        """Start a task; None if the server can't."""
        self._next += 1
        number = self._next
        request = {"id": number, "folder": str(folder), "env": dict(env), "cwd": str(Path.cwd()), "log": str(log)}
        try:
            assert self._process.stdin is not None
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            self._fail("")
            return None
        with self._changed:
            answered = self._changed.wait_for(lambda: number in self._pids or self.dead, READY_SECONDS)
        pid = self._pids.get(number)
        if not answered:
            self._fail(f"the fork server did not answer in {READY_SECONDS:g} s")
        elif pid is None and not self.dead:
            self._fail("the fork server has more than one thread")
        return None if pid is None else Forked(self, number, pid)

    def close(self) -> None:
        """End the server. Its tasks have ended before."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(END_SECONDS)
        if self._process.stdout:
            self._process.stdout.close()

    def _fail(self, reason: str) -> None:
        with self._changed:
            self.dead, self.reason = True, reason or self.reason
            self._changed.notify_all()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # A server that is killed may leave a part of a line.
            with contextlib.suppress(ValueError):
                self._take(json.loads(line))
        self._fail("")

    def _take(self, answer: dict[str, Any]) -> None:
        with self._changed:
            if "unable" in answer:
                self.dead, self.reason = True, answer["unable"]
            elif "ready" in answer:
                self.reason = ""
            elif "code" in answer:
                self.codes[answer["id"]] = answer["code"]
            elif "pid" in answer:
                self._pids[answer["id"]] = answer["pid"]
            self._changed.notify_all()
