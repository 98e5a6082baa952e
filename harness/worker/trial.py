"""Tries a user's model before anything runs: ``python -P -m stratbench.harness.worker.trial FOLDER``.

One training step and one evaluation on made-up examples, in a process of its own, as the command line does not load
TensorFlow. The folder has the ``spec.json``. The answer is written to ``trial.json`` there: ``{"unused": …}``, what the
run does not use of what the model was compiled with, or ``{"refused": reason}``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..plan import spec
from .main import no_collection, watch_parent

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Batch
    from .workload import SpecWorkload

ANSWER = "trial.json"
_EXAMPLES = 4


def main() -> None:
    """Write the answer and end the process. Without an answer, the last line of the output says why."""
    folder = Path(sys.argv[1])
    # The folder is temporary, and the launcher would have removed it.
    watch_parent(lambda: shutil.rmtree(folder, ignore_errors=True))
    # A trial is small, and the GPUs' memory may be in use.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with no_collection():
            import keras  # noqa: F401
        answer = {"unused": attempt(spec.read(folder / "spec.json"))}
    except UsageError as error:
        answer = {"refused": " ".join(str(error).split())}
    (folder / ANSWER).write_text(json.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def attempt(run: spec.RunSpec) -> str:
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

    workload = SpecWorkload(run)
    model = workload.model()
    random = np.random.default_rng(0)
    info = workload.info
    integers = np.dtype(info.dtype).kind in "iu"
    shape = (_EXAMPLES, *info.shape)
    # Bytes or ids from a small range: an Embedding takes none beyond its size.
    x = (random.integers(0, 2, shape) if integers else random.random(shape)).astype(info.dtype)
    y = (np.arange(_EXAMPLES) % info.classes).astype(np.int32)
    optimizer = workload.optimizer()
    try:
        _, gradients = loss_and_gradients(workload, model, (x, y))
        optimizer.apply(gradients, model.trainable_variables)
        once, twice = (_extra_loss(workload, model, (each, y)) for each in (x, np.concatenate([x, x])))
    except Exception as error:
        raise UsageError(f"model {run.model} can't be trained: {one_line(error)}") from error
    if not np.isclose(once, twice, rtol=1e-3, atol=1e-6):
        raise UsageError(
            f"model {run.model} must give add_loss a mean over its examples, or a term that does not depend on them: "
            f"N replicas would not train what one does. Received: {once:.4g} for {_EXAMPLES} examples, {twice:.4g} "
            f"for the same ones twice."
        )
    try:
        for value in batch_measure(workload, model)((x, y)):
            float(value)
    except Exception as error:
        raise UsageError(f"model {run.model} can't be evaluated: {one_line(error)}") from error
    return workload.unused


def _extra_loss(workload: SpecWorkload, model: keras.Model, batch: Batch) -> float:
    from ...strategies._replica import extra_loss

    model(workload.inputs(batch), training=False)
    return float(extra_loss(model))


if __name__ == "__main__":
    main()
