"""Tries a user's model once before anything runs: ``python -m stratbench.harness.plan.check_model MODEL DATASET``.

A process of its own, as the command line does not load TensorFlow.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ...datasets import base as datasets
from ...errors import UsageError
from . import models

REFUSED = 2


def check(model: str, dataset: str) -> None:
    """Refuse a model that does not import, is no Keras model or has the wrong shapes. Raises UsageError.

    Of the models that come with stratbench only the fit to the examples is asked, which needs no trial.
    """
    models.check_reference(model)
    if model in models.BUILDERS:
        models.check_fit(model, datasets.parse(dataset).info().shape)
        return
    trial = subprocess.run(
        [sys.executable, "-P", "-m", __name__, model, dataset],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    last = (trial.stderr.strip().splitlines() or ["no message"])[-1]
    if trial.returncode == REFUSED:
        raise UsageError(last)
    if trial.returncode:
        raise UsageError(f"model {model} can't be tried: {last}")


def main() -> None:
    """Exit code 0 if the model will do; 2 with the reason as the last line on standard error if not."""
    model, dataset = sys.argv[1:]
    info = datasets.parse(dataset).info()
    try:
        models.build(model, info.shape, info.classes)
    except UsageError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
