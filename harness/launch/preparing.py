"""Has examples made ready before anything runs, by processes that have Keras.

Those of a user's function and of Keras's own data sets are kept in a file, by `worker.prepare`. What synthetic ones
look like is read from the model, by `worker.fitting`, and kept, too.
"""

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
from typing import Any

import psutil

from ...datasets import base as datasets
from ...datasets.prepared import Prepared
from ...datasets.synthetic import Form, Synthetic, described
from ...errors import RunError, UsageError
from ...results.raw.files import shown, why
from ..plan import models
from .asking import ask
from .starter import Starter

FOLDER = "data"
"""Subfolder of the output folder. A file there is named by its content."""
_PREPARE = "stratbench.harness.worker.prepare"
_FITTING = "stratbench.harness.worker.fitting"
_UNFINISHED = ".unfinished-"
_MIB = 2**20


class Preparing:
    """Prepares what a command needs.

    Args:
        output: the output folder.
        timeout: in seconds without progress, for what a process is asked.
        tell: what is told the user, in one line.
        show: how far a process is, for the time being.
    """

    def __init__(
        self,
        output: Path,
        starter: Starter,
        timeout: float,
        tell: Callable[[str], None],
        show: Callable[[str], None] = lambda words: None,
    ):
        self._folder, self._starter, self._timeout = output / FOLDER, starter, timeout
        self._tell, self._show = tell, show

    def file(self, reference: str, model: str, precision: str) -> str:
        """What the data set of that reference reads; empty for one that needs nothing prepared.

        Args:
            model, precision: that synthetic examples must fit.

        Raises:
            UsageError: the user's function can't be used, in one line.
            RunError: the file can't be written.
        """
        dataset = datasets.parse(reference)
        try:
            if isinstance(dataset, Prepared):
                return self._examples(reference, dataset.question)
            if isinstance(dataset, Synthetic) and dataset.fits_model:
                return self._form(model, precision)
        except OSError as error:
            raise RunError(
                f"the examples of {reference} can't be kept in {shown(self._folder)}: {why(error)}"
            ) from None
        return ""

    def _examples(self, reference: str, asked: dict[str, Any]) -> str:
        """Keep the examples; the same examples are kept once."""
        with _own_folder(self._folder) as own:
            question = json.dumps(asked | {"folder": str(own), "timeout": self._timeout})
            found = self._ask(_PREPARE, question, own, f"data set {reference} can't be prepared")
            kept = self._folder / found["file"]
            if not kept.exists():
                (own / found["file"]).replace(kept)
                size = kept.stat().st_size / _MIB
                self._tell(
                    f"the {found['examples']:,} examples of {reference} are kept in {shown(kept)} ({size:,.1f} MiB)"
                )
        return str(kept)

    def _form(self, reference: str, precision: str) -> str:
        """Keep what examples that fit the model look like; empty if the model does not say it."""
        models.check_reference(reference)
        if (model := models.own(reference)) is not None:
            form = model.form()
            return "" if form is None else self._keep(reference, form)
        with tempfile.TemporaryDirectory(prefix="stratbench-") as folder:
            question = json.dumps({"model": reference, "precision": precision})
            found = self._ask(_FITTING, question, Path(folder), f"model {reference} can't be built")
        if "unknown" in found:
            self._tell(
                f"synthetic examples are {described(Synthetic().form)}, as model {reference} says no others: "
                f"{found['unknown']}"
            )
            return ""
        return self._keep(reference, Form.from_json(found["form"]))

    def _keep(self, reference: str, form: Form) -> str:
        kept = self._folder / form.file_name
        if not kept.exists():
            with _own_folder(self._folder) as own:
                (own / kept.name).write_text(form.to_json())
                (own / kept.name).replace(kept)
        self._tell(f"synthetic examples fit model {reference}: {described(form)}")
        return str(kept)

    def _ask(self, module: str, question: str, folder: Path, what: str) -> dict[str, Any]:
        found = ask(module, question, folder, self._starter, self._timeout, what, self._show)
        if "refused" in found:
            raise UsageError(found["refused"])
        return found


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
