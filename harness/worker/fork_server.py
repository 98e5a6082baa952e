"""Imports once what every task needs, and forks the tasks: ``python -P -m stratbench.harness.worker.fork_server``.

Imports take most of the time of a short run. A process may be forked safely only while it has one thread, so nothing
here may use TensorFlow: its first tensor, graph or list of devices starts threads.

Requests are lines of JSON on standard input: ``id``, ``module`` that the task runs with the argument ``folder``, its
``env``, ``cwd`` and ``log``.
Answers are lines of JSON on standard output: ``{"unable": reason}`` or ``{"ready": true}``; then for each request
``{"id", "pid"}``, or ``{"id", "pid": null, "reason"}`` if it can't be forked; and ``{"id", "code"}`` when the task has
ended. The end of the input ends this process, and tasks that are left: their launcher is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ... import strategies
from ..plan import temporary
from . import main as worker
from . import usage

_MODULES = ("keras", "numpy", "h5py", "setproctitle")
_OWN = ("evaluate", "fitting", "inject", "prepare", "reducing", "serve", "tensors", "train", "trial", "workload")

GRACE_SECONDS = 3.0
"""In which tasks whose launcher is gone end by themselves and remove their temporary files: `main.watch_parent`."""
POLL_SECONDS = 0.02


class Server:
    """The process that forks.

    Args:
        requests, answers: file descriptors.
    """

    def __init__(self, requests: int, answers: int):
        self._requests, self._answers = requests, answers
        self._tasks: dict[int, int] = {}
        # Of the last task: all that are left at the end are of one run.
        self._environ: dict[str, str] = {}
        self._wake, waker = os.pipe()
        self._own = (requests, answers, self._wake, waker)
        for descriptor in (self._wake, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Fork and report until the requests end."""
        pending = b""
        while True:
            readable, _, _ = select.select([self._requests, self._wake], [], [])
            if self._wake in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._report()
            if self._requests in readable:
                text = os.read(self._requests, 65536)
                if not text:
                    return
                *lines, pending = (pending + text).split(b"\n")
                for line in lines:
                    self._fork(json.loads(line))

    def end_tasks(self) -> None:
        """Wait for the tasks, and kill those that are stopped, or can't notice that their launcher is gone.

        TensorFlow waits for other tasks in calls in which no other Python thread of the process can run.
        """
        deadline = time.monotonic() + GRACE_SECONDS
        while self._tasks and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                del self._tasks[pid]
            else:
                time.sleep(POLL_SECONDS)
        for pid in self._tasks:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._tasks:
            temporary.remove(self._environ)

    def tell(self, **answer: Any) -> None:
        """Send one answer."""
        os.write(self._answers, (json.dumps(answer) + "\n").encode())

    def _report(self) -> None:
        """Tell which tasks have ended."""
        while self._tasks:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self.tell(id=self._tasks.pop(pid), code=os.waitstatus_to_exitcode(status))

    def _fork(self, request: dict[str, Any]) -> None:
        if threads() != 1:
            # Another thread may hold a lock that no thread of the child would ever release.
            self.tell(id=request["id"], pid=None, reason="the fork server has more than one thread")
            return
        try:
            pid = os.fork()
        except OSError as error:
            self.tell(id=request["id"], pid=None, reason=f"forking failed: {error.strerror}")
            return
        if not pid:
            self._become(request)
        self._tasks[pid] = request["id"]
        self._environ = request["env"]
        self.tell(id=request["id"], pid=pid)

    def _become(self, request: dict[str, Any]) -> None:
        """Run the task in this forked process. Does not return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A terminal's Ctrl-C is for the launcher, which ends the tasks in order.
            os.setsid()
            for descriptor in self._own:
                os.close(descriptor)
            os.chdir(request["cwd"])
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _be_another(request["module"], request["folder"])
            os.environ.clear()
            os.environ.update(request["env"])
            # It is read from the environment once.
            tempfile.tempdir = None
            _mains()[request["module"]]()
        except SystemExit as error:
            print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(worker.FAILED)


def _mains() -> dict[str, Callable[[], None]]:
    """What a task may run, by the name of the module that ``python -m`` would run."""
    from . import fitting, prepare, reducing, tensors, trial

    others = (fitting, prepare, reducing, tensors, trial)
    return {__package__ or "": worker.train} | {each.__name__: each.main for each in others}


def _be_another(module: str, folder: str) -> None:
    """Give a forked process its own name and random numbers. Until then it shares those of its siblings.

    The name can only be set while the environment is where the kernel has put it.
    """
    import numpy as np
    import setproctitle

    sys.argv = [module, folder]
    title = f"{sys.executable} -P -m {module} {folder}"
    setproctitle.setproctitle(os.fsencode(title).decode(errors="replace"))
    random.seed()
    np.random.seed()


def threads() -> int:
    """Number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def _import_all() -> None:
    package = __package__
    for name in (*_MODULES, *(f"{package}.{own}" for own in _OWN), *_strategies()):
        # A missing package, such as Horovod, fails only in tasks that use it.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _strategies() -> Iterator[str]:
    for module in pkgutil.walk_packages(strategies.__path__, f"{strategies.__name__}."):
        yield module.name


def main() -> None:
    """Import, then serve."""
    requests, answers = os.dup(0), os.dup(1)
    # Output of imports must not mix with the answers.
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(silence, descriptor)
    with worker.no_collection():
        _import_all()
    usage.note_loaded()
    server = Server(requests, answers)
    if threads() != 1:
        server.tell(unable=f"imports left {threads()} threads")
        return
    server.tell(ready=True)
    # A task may end when the launcher no longer takes answers.
    with contextlib.suppress(BrokenPipeError):
        server.serve()
    server.end_tasks()


if __name__ == "__main__":
    main()
