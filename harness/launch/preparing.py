"""Has the examples of a user's function kept in a file, by `worker.prepare`, before anything runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ...datasets import base as datasets
from ...datasets.function import Function
from ...errors import RunError, UsageError
from ...results.raw.files import shown, why
from .asking import ask
from .starter import Starter

FOLDER = "data"
"""Subfolder of the output folder. A file there is named by its content."""
_MODULE = "stratbench.harness.worker.prepare"
_UNFINISHED = ".unfinished-"
_MIB = 2**20


def prepare(reference: str, output: Path, starter: Starter, timeout: float, tell: Callable[[str], None]) -> str:
    """Call the function that a data set's reference names, and keep its examples. → the file

    Returns "" for other data sets. The same examples are kept once.

    Raises:
        UsageError: the function can't be used, in one line.
        RunError: the file can't be written.
    """
    dataset = datasets.parse(reference)
    if not isinstance(dataset, Function):
        return ""
    folder = output / FOLDER
    try:
        with _own_folder(folder) as own:
            question = json.dumps({"function": dataset.function, "folder": str(own)})
            found = ask(_MODULE, question, own, starter, timeout, f"data set {reference} can't be prepared")
            if "refused" in found:
                raise UsageError(found["refused"])
            kept = folder / found["file"]
            if not kept.exists():
                (own / found["file"]).replace(kept)
                size = kept.stat().st_size / _MIB
                tell(f"the {found['examples']:,} examples of {reference} are kept in {shown(kept)} ({size:,.1f} MiB)")
    except OSError as error:
        raise RunError(f"the examples of {reference} can't be kept in {shown(folder)}: {why(error)}") from None
    return str(kept)


@contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A folder that is removed afterwards; those of killed commands are, too. Folders that end empty were not there."""
    made = [each for each in (parent, parent.parent) if not each.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{_UNFINISHED}{socket.gethostname()}-"
    for left in parent.glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()
