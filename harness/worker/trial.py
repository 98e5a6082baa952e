"""Tries a user's model before anything runs: ``python -P -m stratbench.harness.worker.trial FOLDER``.

One training step and one evaluation on a few training examples, in a process of its own, as the command line does not
load TensorFlow. The question is a spec, the answer what `attempt` returns.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RunError, UsageError
from ...strategies.trainer import examples_of
from ..plan import spec
from ..plan.models import is_application
from .answering import answer
from .wording import one_line

if TYPE_CHECKING:
    import keras

    from ...strategies.trainer import Batch, Mean, Tensor
    from .workload import SpecWorkload

_DRAWS = 32
"""Losses that are averaged if the model draws random numbers in evaluation, as a variational autoencoder does."""


def main() -> None:
    """Answer the launcher's question."""
    answer(lambda question: attempt(*[spec.RunSpec.model_validate(each) for each in json.loads(question)]))


def attempt(run: spec.RunSpec, *others: spec.RunSpec) -> dict[str, Any]:
    """Train and evaluate on a few examples.

    Args:
        others: that differ in how the model is distributed.

    Returns:
        The fields of `stratbench.harness.launch.trying.Tried`.

    Raises:
        UsageError: the model can't be trained or evaluated, in one line.
        DataError: the examples can't be read.
    """
    from ...strategies._shared.own_step import OwnStep
    from ...strategies._shared.replica import loss_and_gradients
    from . import compiled, own_optimizer
    from .building import build, policy
    from .evaluate import EXAMPLES, measure
    from .workload import SpecWorkload

    if run.create_strategy().own_optimizer:
        # One step of any optimizer shows whether there are gradients.
        run = run.model_copy(update={"optimizer": "sgd"})
    workload = SpecWorkload(run)
    # Only called, as what `model` does to a model would be seen in the same one.
    with policy(run.precision, run.model):
        first = None if is_application(run.model) else build(run.model, workload.info)
    model = workload.model()
    rows = workload.rows["train"][: 2 * workload.objective.unlike_outputs(EXAMPLES // 2)]
    (batch,) = workload.in_order(rows, len(rows))
    # The trial gives the model another optimizer.
    own = {} if workload.own_optimizers else own_optimizer.said(run.model, model, workload.total_steps)
    unused_by_own = compiled.unused(model)
    optimizer = workload.optimizer()
    # The first model that a process makes has the names that a run's has.
    named = first if first is not None and first.built else model
    reasons = {each.variant: each.create_strategy().skip_model(named, each.replicas) for each in (run, *others)}
    unfit = {variant: reason for variant, reason in reasons.items() if reason}
    alone, normalised, loss = "", False, ""
    try:
        if workload.own_step:
            step = OwnStep(workload, model, optimizer)
            step.update(batch)
            loss = step.loss
        else:
            _, gradients = loss_and_gradients(workload, model, batch, optimizer)
            alone = _why_alone(workload, model, batch)
            normalised = workload.objective.normalised
            optimizer.apply(gradients, model.trainable_variables)
    except Exception as error:
        raise UsageError(f"model {run.model} can't be trained: {one_line(error)}") from error
    unevaluated = ""
    try:
        measure(workload, model, rows)
    except Exception as error:
        unevaluated = one_line(error)
        if not workload.own_step:
            raise UsageError(f"model {run.model} can't be evaluated: {unevaluated}") from error
    found = own | {
        "same": model is first,
        "unfit": unfit,
        "unused": workload.unused,
        "unused_by_own": unused_by_own,
        "alone": alone,
        "normalised": normalised,
        "scales_loss": workload.scales_loss,
        "own_step": workload.own_step,
        "own_optimizers": workload.own_optimizers,
        "own_schedule": workload.own_scheduled,
        "loss": loss,
        "unevaluated": unevaluated,
    }
    if run.save_model:
        _try_to_save(run, model)
    return found


def _try_to_save(run: spec.RunSpec, model: keras.Model) -> None:
    """The model can't be used afterwards. Raises UsageError."""
    from .evaluate import save

    try:
        with tempfile.TemporaryDirectory(prefix="stratbench-") as folder:
            save(model, Path(folder) / "model.keras")
    except RunError as error:
        raise UsageError(f"--save-model can't save model {run.model}: {one_line(error.__cause__ or error)}") from error


def _why_alone(workload: SpecWorkload, model: keras.Model, batch: Batch) -> str:
    """Why the loss of a batch need not be the mean of the losses of its parts; empty if it is."""
    import keras
    import numpy as np

    from .compiled import layers

    half = examples_of(batch) // 2
    if not half:
        return ""
    batch, *parts = (
        keras.tree.map_structure(lambda each, start=start, end=end: each[start:end], batch)
        for start, end in ((0, 2 * half), (0, half), (half, 2 * half))
    )
    wholes = [_loss(workload, model, batch) for _ in range(2)]
    if not np.ptp(wholes):
        error, wholes = 0.0, wholes[:1]
        halves = [_mean_loss(workload, model, parts)]
    else:
        wholes = [_loss(workload, model, batch) for _ in range(_DRAWS)]
        halves = [_mean_loss(workload, model, parts) for _ in range(_DRAWS)]
        error = 5 * float(np.std(wholes) + np.std(halves)) / np.sqrt(_DRAWS)
    whole, mean = float(np.mean(wholes)), float(np.mean(halves))
    exact = all(layer.compute_dtype in ("float32", "float64") for layer in [model, *layers(model)])
    if not np.isfinite(whole) or np.isclose(whole, mean, rtol=1e-4 if exact else 1e-2, atol=1e-6 + error):
        return ""
    return (
        "its loss is not a mean over examples, as with a sum or with pairs of examples: "
        f"{whole:.4g} for {2 * half} examples, {mean:.4g} on average for each half of them"
    )


def _mean_loss(workload: SpecWorkload, model: keras.Model, parts: Sequence[Batch]) -> float:
    """Of replicas, each with one of the parts, whose losses are combined."""
    counts = [_counts(workload, model, part) for part in parts]
    means = [sum(each) / len(each) for each in zip(*counts, strict=True)]
    return sum(_loss(workload, model, part, _in_turn(means)) for part in parts) / len(parts)


def _counts(workload: SpecWorkload, model: keras.Model, batch: Batch) -> list[Tensor]:
    """The counts by which the losses of a batch are divided, where that is not the number of values."""
    counts: list[Tensor] = []

    def note(count: Tensor) -> Tensor:
        counts.append(count)
        return count

    _loss(workload, model, batch, note)
    return counts


def _in_turn(means: Sequence[Tensor]) -> Mean:
    following = iter(means)
    return lambda count: next(following)


def _loss(workload: SpecWorkload, model: keras.Model, batch: Batch, mean: Mean | None = None) -> float:
    """In evaluation, in which each example's outputs depend on no other example."""
    from . import normalisers
    from .objective import compute_loss

    x, y, weights = workload.unpack(batch)
    with normalisers.combined_by(mean):
        return float(compute_loss(model, x, y, model(x, training=False), weights, training=False))


if __name__ == "__main__":
    main()
