"""A run's own folder for temporary files.

Tasks end without the clean-up of a usual end, as TensorFlow's servers and Horovod's threads can't be stopped, or are
killed. What TensorFlow's AutoGraph or the user's code leaves would stay.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "TMPDIR"
"""Of the environment; ``tempfile`` and TensorFlow read it."""
_PREFIX = "stratbench-run-"


@contextmanager
def own_folder() -> Iterator[str]:
    """A new folder, which is removed at the end with all that is in it."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        yield folder


@contextmanager
def used() -> Iterator[None]:
    """This process uses a folder of its own."""
    with own_folder() as folder:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE], tempfile.tempdir = folder, None
        try:
            yield
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before
            tempfile.tempdir = None


def remove() -> None:
    """Remove the folder of this process's run, whose launcher is gone."""
    folder = Path(os.environ.get(VARIABLE, ""))
    if folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
