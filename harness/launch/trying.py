"""Has a user's model tried before anything runs, by `worker.trial`: a mistake is known before the run, not after it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...datasets import base as datasets
from ...errors import RunError, UsageError
from ...results.raw.files import why
from ..plan import models, optimizers
from ..plan.spec import RunSpec
from .asking import ask
from .starter import Starter

_MODULE = "stratbench.harness.worker.trial"


def needs_trial(specs: Sequence[RunSpec]) -> bool:
    """Whether Keras must say if the model can be trained: it is the user's, or the optimizer has settings.

    Or a strategy must see how it is made.
    """
    spec = specs[0]
    if models.own(spec.model) is None or optimizers.parse(spec.optimizer).given:
        return True
    return any(each.create_strategy().tries_models for each in specs)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What a trial found.

    Attributes:
        same: whether the user's function returns one and the same model at each call.
        unused: what the model was compiled with and the run does not use, in words; empty if there is nothing.
        unused_by_own: the same for a run with the model's own optimizer.
        alone: why several replicas would not train what one does; empty if they would.
        normalised: whether its loss is a mean over what a mask leaves, or over the sum of sample weights.
        scales_loss: whether its loss is scaled, as for float16.
        own_step: whether it has a ``train_step`` of its own.
        own_optimizers: in words, those of that step, if they are others than the one of ``compile``.
        own_schedule: the first of them whose learning rate is a schedule; empty if there is none.
        loss: the name of the value of that step that is its loss.
        unevaluated: why a model with such a step can't be evaluated; empty if it can.
        optimizer, learning_rate: the model's own, as the flags of these names say it; empty and 0 if it has none.
        schedule: of the model's own optimizer, in words; empty if its rate is a number.
        unfit: why a strategy can't distribute the model, by `RunSpec.variant`, where it can't.
        problem: why the model's own optimizer can't be used, in one sentence; empty if it can.
    """

    same: bool = False
    unused: str = ""
    unused_by_own: str = ""
    alone: str = ""
    normalised: bool = False
    scales_loss: bool = False
    own_step: bool = False
    own_optimizers: str = ""
    own_schedule: str = ""
    loss: str = ""
    unevaluated: str = ""
    optimizer: str = ""
    learning_rate: float = 0.0
    schedule: str = ""
    unfit: Mapping[str, str] = dataclasses.field(default_factory=dict)
    problem: str = ""


def check(specs: Sequence[RunSpec], starter: Starter) -> Tried:
    """Refuse a model that can't be trained and evaluated as ``specs`` say, which differ in how it is distributed.

    Raises UsageError.
    """
    spec = specs[0]
    models.check_reference(spec.model)
    if (known := models.own(spec.model)) is not None:
        known.check(datasets.parse(spec.dataset, spec.data_file).info())
    if not needs_trial(specs):
        return Tried()
    question = json.dumps([each.model_dump() for each in {each.variant: each for each in specs}.values()])
    try:
        with tempfile.TemporaryDirectory(prefix="stratbench-") as folder:
            what = f"model {spec.model} can't be tried"
            answer = ask(_MODULE, question, Path(folder), starter, spec.timeout, what)
    except OSError as error:
        raise RunError(f"model {spec.model} can't be tried: a temporary folder is needed: {why(error)}") from None
    if "refused" in answer:
        raise UsageError(answer["refused"])
    return Tried(**answer)
