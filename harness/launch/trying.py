"""Has a user's model tried before anything runs, by `worker.trial`: a mistake is known before the run, not after it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from ...datasets import base as datasets
from ...errors import RunError, UsageError
from ...results.raw.files import why
from ...strategies.base import Task
from ..plan import models, optimizers, variables
from ..plan.spec import RunSpec
from .processes import end_all
from .starter import BACKEND_VARIABLE, Starter, common_environment

_MODULE = "stratbench.harness.worker.trial"
_ANSWER = "trial.json"


def needs_trial(spec: RunSpec) -> bool:
    """Whether Keras must say if the model can be trained: it is the user's, or the optimizer has settings."""
    return models.own(spec.model) is None or bool(optimizers.parse(spec.optimizer).given)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What a trial found.

    Attributes:
        unused: what the model was compiled with and the run does not use, in words; empty if there is nothing.
        unused_by_own: the same for a run with the model's own optimizer.
        alone: why several replicas would not train what one does; empty if they would.
        normalised: whether its loss is a mean over what a mask leaves, or over the sum of sample weights.
        optimizer, learning_rate: the model's own, as the flags of these names say it; empty and 0 if it has none.
        schedule: of the model's own optimizer, in words; empty if its rate is a number.
        problem: why the model's own optimizer can't be used, in one sentence; empty if it can.
    """

    unused: str = ""
    unused_by_own: str = ""
    alone: str = ""
    normalised: bool = False
    optimizer: str = ""
    learning_rate: float = 0.0
    schedule: str = ""
    problem: str = ""


def check(spec: RunSpec, starter: Starter) -> Tried:
    """Refuse a model that can't be trained and evaluated as ``spec`` says. Raises UsageError."""
    models.check_reference(spec.model)
    if (known := models.own(spec.model)) is not None:
        models.check_fit(known[0], datasets.parse(spec.dataset).info())
    if not needs_trial(spec):
        return Tried()
    try:
        with tempfile.TemporaryDirectory(prefix="stratbench-") as folder:
            answer = _try(spec, Path(folder), starter)
    except OSError as error:
        raise RunError(f"model {spec.model} can't be tried: a temporary folder is needed: {why(error)}") from None
    if "refused" in answer:
        raise UsageError(answer["refused"])
    return Tried(**answer)


def _try(spec: RunSpec, folder: Path, starter: Starter) -> dict[str, Any]:
    """The answer of the trial, which runs in a process of its own."""
    (folder / "spec.json").write_text(spec.model_dump_json())
    log = folder / "trial.log"
    # The trial is TensorFlow's, whatever backend the user's environment asks for.
    env = variables.for_task(os.environ) | {BACKEND_VARIABLE: "tensorflow"} | common_environment()
    process = starter.start(Task(), folder, env, log, threading.Event(), _MODULE)
    assert process is not None
    try:
        process.wait(spec.timeout)
    except subprocess.TimeoutExpired:
        return {"refused": f"model {spec.model} can't be tried: it took more than {spec.timeout:g} s (--timeout)."}
    finally:
        end_all([process], [])
    if (folder / _ANSWER).exists():
        return json.loads((folder / _ANSWER).read_text())
    last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
    return {"refused": f"model {spec.model} can't be tried: {last}"}
