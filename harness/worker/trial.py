"""Tries a user's model before anything runs: ``python -P -m stratbench.harness.worker.trial``, the spec on its input.

One training step and one evaluation on made-up examples, in a process of its own, as the command line does not load
TensorFlow: what can't be trained or evaluated is known before the run, not after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ...datasets import base as datasets
from ...errors import UsageError
from ..plan import models

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Batch
    from ..plan.spec import RunSpec
    from .workload import SpecWorkload

REFUSED = 2
_EXAMPLES = 4


def check(spec: RunSpec) -> str:
    """Refuse a model that can't be trained and evaluated as ``spec`` says. Raises UsageError.

    Of the models that come with stratbench only the fit to the examples is asked, which needs no trial.

    Returns:
        What the model was compiled with and the run does not use, in words; empty if there is nothing.
    """
    models.check_reference(spec.model)
    if (known := models.own(spec.model)) is not None:
        models.check_fit(known[0], datasets.parse(spec.dataset).info().shape)
        return ""
    trial = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=spec.model_dump_json(),
        # The trial is TensorFlow's, whatever backend the user's environment asks for.
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        errors="replace",
    )
    last = (trial.stderr.strip().splitlines() or ["no message"])[-1]
    if trial.returncode == REFUSED:
        raise UsageError(last)
    if trial.returncode:
        raise UsageError(f"model {spec.model} can't be tried: {last}")
    return json.loads(trial.stdout.splitlines()[-1])["unused"]


def main() -> None:
    """Exit code 0 and what is unused on the last line of the output, or 2 and the reason on the last line of errors."""
    from ..plan.spec import RunSpec

    spec = RunSpec.model_validate_json(sys.stdin.read())
    try:
        unused = attempt(spec)
    except UsageError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(REFUSED)
    print()
    print(json.dumps({"unused": unused}))


def attempt(spec: RunSpec) -> str:
    """Train and evaluate on a few made-up examples.

    Returns:
        What the run does not use of what the model was compiled with.

    Raises:
        UsageError: the model can't be trained or evaluated, in one line.
    """
    import numpy as np

    from ...strategies._replica import loss_and_gradients
    from .building import one_line
    from .evaluate import batch_measure
    from .workload import SpecWorkload

    workload = SpecWorkload(spec)
    model = workload.model()
    random = np.random.default_rng(0)
    info = workload.info
    integers = np.dtype(info.dtype).kind in "iu"
    shape = (_EXAMPLES, *info.shape)
    # Bytes or ids from a small range: an Embedding takes none beyond its size.
    x = (random.integers(0, 2, shape) if integers else random.random(shape)).astype(info.dtype)
    y = (np.arange(_EXAMPLES) % info.classes).astype(np.int32)
    try:
        loss_and_gradients(workload, model, (x, y))
        once, twice = (_extra_loss(workload, model, (each, y)) for each in (x, np.concatenate([x, x])))
    except Exception as error:
        raise UsageError(f"model {spec.model} can't be trained: {one_line(error)}") from error
    if not np.isclose(once, twice, rtol=1e-3, atol=1e-6):
        raise UsageError(
            f"model {spec.model} must give add_loss a mean over its examples, or a term that does not depend on them: "
            f"N replicas would not train what one does. Received: {once:.4g} for {_EXAMPLES} examples, {twice:.4g} "
            f"for the same ones twice."
        )
    try:
        for value in batch_measure(workload, model)((x, y)):
            float(value)
    except Exception as error:
        raise UsageError(f"model {spec.model} can't be evaluated: {one_line(error)}") from error
    return workload.unused


def _extra_loss(workload: SpecWorkload, model: keras.Model, batch: Batch) -> float:
    from ...strategies._replica import extra_loss

    model(workload.inputs(batch), training=False)
    return float(extra_loss(model))


if __name__ == "__main__":
    main()
