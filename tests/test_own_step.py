"""A model's own ``train_step`` is what trains it, under every strategy that can call it; others say that they can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import own_steps
import pytest
from conformance import STEPS, assert_same, keep_weights, weights  # noqa: F401
from conftest import make_spec
from stratbench.datasets.structure import is_empty
from stratbench.errors import RunError, UsageError
from stratbench.harness.cli.grid import Grid
from stratbench.harness.launch.trying import Tried
from stratbench.harness.worker import trial, wording
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal
from stratbench.strategies.registry import available

pytestmark = pytest.mark.usefixtures("beside_the_models")

WORK = {
    "guide": {"optimizer": "momentum:global_clipnorm=1.0", "learning_rate": 0.05},
    "denoise": {"optimizer": "adam", "learning_rate": 0.001},
}
TOLERANCE = 1e-4
ABLE = [name for name, cls in available().items() if cls.runs_own_steps and cls.max_replicas != 1]


def work(case: str, data: Path) -> dict[str, Any]:
    arrays = "x=wide,y=none" if case == "denoise" else "x=wide,y=three"
    return {"model": f"own_steps:{case}", "dataset": f"hdf5:{data},{arrays}"} | WORK.get(case, {})


def by_keras(case: str, data: Path) -> tuple[list[np.ndarray], list[float]]:
    """Weights and losses of the same steps by ``model.fit``, which calls ``train_step``."""
    import keras

    workload = SpecWorkload(make_spec(**work(case, data), steps=STEPS))
    keras.utils.set_random_seed(workload.spec.seed)
    model = getattr(own_steps, case)()
    losses = []
    for _, (x, y) in zip(range(STEPS), workload.batches(1, 0).epoch(0), strict=False):
        history = model.fit(x, None if is_empty(y) else y, batch_size=len(x), verbose=0).history
        losses.append(history["loss"][0])
    return model.get_weights(), losses


@pytest.mark.slow
@pytest.mark.parametrize("case", ["guide", pytest.param("denoise", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("strategy", ["single", pytest.param("fit", marks=pytest.mark.exhaustive)])
def test_it_trains_as_by_keras(case: str, strategy: str, data: Path, tmp_path: Path) -> None:
    expected, losses = by_keras(case, data)
    assert_same(weights(strategy, 1, folder=tmp_path, **work(case, data)), expected, TOLERANCE)
    log = journal.read(tmp_path / "worker-0.jsonl")
    assert log.steps["loss"] == pytest.approx(losses, rel=1e-3)
    assert log.work and log.work["flops_per_example"] is None


@pytest.mark.slow
@pytest.mark.parametrize("case", ["guide", pytest.param("denoise", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=[] if name in ("mirrored", "horovod") else [pytest.mark.exhaustive]) for name in ABLE],
)
def test_two_replicas_apply_the_mean(case: str, strategy: str, data: Path, tmp_path: Path, no_strays: None) -> None:
    if (problem := available()[strategy]().skip(2)) is not None:
        pytest.skip(problem)
    given = work(case, data)
    if strategy == "local-sgd":
        # The mean of weights is that of gradients for plain SGD alone.
        strategy, given = "local-sgd:period=1", given | {"optimizer": "sgd"}
    expected = weights("single", 1, folder=tmp_path / "single", **given)
    assert_same(weights(strategy, 2, folder=tmp_path / "run", **given), expected, TOLERANCE)


def test_the_trial_takes_the_models_own_optimizer(data: Path) -> None:
    found = trial.attempt(make_spec(**work("guide", data) | {"optimizer": "adam"}))
    assert found["own_step"] and found["optimizer"] == "momentum:global_clipnorm=1.0"
    assert found["learning_rate"] == 0.05 and found["unused_by_own"] == ""
    plain = trial.attempt(make_spec(model="any_models:regression", dataset=f"hdf5:{data},x=wide,y=three"))
    assert not plain["own_step"]


def test_strategies_that_can_not_call_it_say_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = object.__new__(Grid)
    grid._tried = Tried(own_step=True)
    spec = make_spec("ps", **work("guide", data))
    assert grid.why_not(spec) == (
        "the model has a train_step of its own, which ps can't call; use one of fit, horovod, local-sgd, mirrored, "
        "multiworker, single"
    )
    assert grid.why_not(make_spec("horovod", **work("guide", data))) == ""
    workload = SpecWorkload(spec)
    model = workload.model()
    (batch,) = workload.in_order(np.arange(4), 4)
    with pytest.raises(RunError, match="has a train_step of its own, which ps can't call"):
        workload.total_loss(model, batch)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("two", {}, "must train with the optimizer of compile() alone: a train_step with others, as of a GAN, is not"),
        ("nameless", {}, "train_step must return a dictionary with the key 'loss'. Received: loss_of_mine."),
        ("guide", {"accumulate": 2}, "has a train_step of its own: leave --accumulate out."),
    ],
)
def test_what_is_not_supported_is_one_line(case: str, changes: dict[str, Any], message: str, data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        trial.attempt(make_spec(**work(case, data), **changes))
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_first_of_several_errors_is_told() -> None:
    text = "Graph execution error:\n\n2 root error(s) found.\n  (0) INVALID_ARGUMENT: Sizes differ\n  (1) CANCELLED: x"
    assert wording.telling_line(text) == "INVALID_ARGUMENT: Sizes differ"
