"""The launcher's side of the fork server, which starts tasks without the imports: see `worker.fork_server`."""

from __future__ import annotations

import contextlib
import json
import os
import select
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
"""Most time that the imports may take, even on a busy machine."""
ANSWER_SECONDS = 30.0
REPORT_SECONDS = 3.0
"""How long the exit code of a dead task may take to arrive."""
POLL_SECONDS = 0.02
UNKNOWN = 256
"""Exit code of a task that the fork server did not report; no process has this code."""


class Forked:
    """A task that the fork server has started; the methods are those of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, number: int, pid: int):
        self._server, self._number = server, number
        self.pid = pid
        self._process: psutil.Process | None = None
        self._dead_since: float | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """The exit code, as in `subprocess`; None while it runs."""
        code = self._server.codes.get(self._number)
        if code is not None or (self._process and alive(self._process)):
            return code
        self._dead_since = self._dead_since or time.monotonic()
        # A server that is stopped reports nothing.
        late = time.monotonic() - self._dead_since > REPORT_SECONDS
        return self._server.codes.get(self._number, UNKNOWN if late or self._server.gone else None)

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
        dead: whether it can't start any more tasks.
        killed: whether a signal of another program ended it before it was ready.
        gone: whether its process has ended, and all its answers are taken.
        ready: whether its imports are done.
        reason: why it can't work here; empty for one that was killed.
    """

    def __init__(self, environ: Mapping[str, str]):
        self.environ = dict(environ)
        self.codes: dict[int, int] = {}
        self.ready = self.dead = self.gone = self.killed = False
        self.reason = "the fork server ended before it was ready"
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
            bufsize=0,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True, name="fork-server")
        self._listener.start()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def wait_ready(self, stop: threading.Event) -> bool:
        """Wait for the imports; whether tasks can be forked now. Ends the server when ``stop`` is set meanwhile."""
        deadline = time.monotonic() + READY_SECONDS
        with self._changed:
            while not (self.ready or self.dead or stop.is_set() or time.monotonic() > deadline):
                self._changed.wait(POLL_SECONDS)
        if not (self.ready or self.dead):
            self._kill("" if stop.is_set() else f"the fork server was not ready after {READY_SECONDS:g} s")
        return self.ready and not self.dead

    def fork(self, module: str, folder: Path, env: Mapping[str, str], log: Path) -> Forked | None:
        """Start a task, in the current folder; None if the server can't. Call `wait_ready` first."""
        self._next += 1
        number = self._next
        request = {"id": number, "module": module, "folder": str(folder), "env": dict(env)}
        request |= {"cwd": str(Path.cwd()), "log": str(log)}
        if self._send((json.dumps(request) + "\n").encode()):
            with self._changed:
                self._changed.wait_for(lambda: number in self._pids or self.dead, ANSWER_SECONDS)
        if number not in self._pids:
            # It must not start the task later. It may have done so by now.
            self._kill("")
            self._listener.join(END_SECONDS)
        pid = self._pids.get(number)
        return None if pid is None else Forked(self, number, pid)

    def _send(self, text: bytes) -> bool:
        """Send a request; False if the server takes none. A full pipe does not block this process for ever."""
        assert self._process.stdin is not None
        pipe, deadline = self._process.stdin.fileno(), time.monotonic() + ANSWER_SECONDS
        os.set_blocking(pipe, False)
        try:
            while text and time.monotonic() < deadline:
                _, writable, _ = select.select([], [pipe], [], POLL_SECONDS)
                if writable:
                    text = text[os.write(pipe, text) :]
        except OSError:
            return False
        return not text

    def _kill(self, reason: str) -> None:
        self._fail(reason)
        self._process.kill()

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
        self.killed = not (self.ready or self.dead) and self._process.wait() < 0
        self.gone = True
        self._fail("")

    def _take(self, answer: dict[str, Any]) -> None:
        with self._changed:
            if "unable" in answer:
                self.dead, self.reason = True, answer["unable"]
            elif "ready" in answer:
                self.ready, self.reason = True, ""
            elif "code" in answer:
                self.codes[answer["id"]] = answer["code"]
            elif "pid" in answer:
                self._pids[answer["id"]] = answer["pid"]
                if answer["pid"] is None:
                    self.dead, self.reason = True, answer["reason"]
            self._changed.notify_all()
