"""A run's own folder for temporary files.

Tasks end without the clean-up of a usual end, as TensorFlow's servers and Horovod's threads can't be stopped, or are
killed. What TensorFlow's AutoGraph or the user's code leaves would stay.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

VARIABLE = "TMPDIR"
"""Of the environment; ``tempfile`` and TensorFlow read it."""
_PREFIX = "stratbench-run-"


@contextmanager
def own_folder() -> Iterator[str]:
    """A new folder, which is removed at the end with all that is in it. Those of killed commands are, too."""
    prefix = f"{_PREFIX}{socket.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield folder


def remove(environ: Mapping[str, str] = os.environ) -> None:
    """Remove the folder of the run that a process with these variables belongs to. Its launcher is gone."""
    folder = Path(environ.get(VARIABLE, ""))
    if folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
