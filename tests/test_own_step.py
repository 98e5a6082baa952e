"""A model's own ``train_step`` is what trains it, under every strategy that can call it; others say that they can't."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_steps
import pytest
from conformance import STEPS, assert_same, keep_weights, weights  # noqa: F401
from conftest import kept, launch, make_spec
from stratbench.datasets.structure import is_empty
from stratbench.errors import RunError, UsageError
from stratbench.harness.cli.grid import Grid
from stratbench.harness.launch.trying import Tried
from stratbench.harness.plan import optimizers
from stratbench.harness.worker import trial, wording
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal, measure, quality
from stratbench.strategies.registry import available

pytestmark = pytest.mark.usefixtures("beside_the_models")

OWN = {"optimizer": "own: in words", "learning_rate": 1.0}
WORK = {
    "gan": OWN,
    "guide": {"optimizer": "momentum:global_clipnorm=1.0", "learning_rate": 0.05},
    "denoise": {"optimizer": "adam", "learning_rate": 0.001},
}
WITH_TARGETS = ("guide", "two", "nameless", "by_hand", "hidden", "aliased", "looking_up")
TOLERANCE = 1e-4
ABLE = [name for name, cls in available().items() if cls.runs_own_steps and cls.max_replicas != 1]


def work(case: str, data: Path) -> dict[str, Any]:
    arrays = "x=wide,y=three" if case in WITH_TARGETS else "x=wide,y=none"
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
        losses.append(history.get("loss", history.get("d_loss"))[0])
    return model.get_weights(), losses


@pytest.mark.slow
@pytest.mark.parametrize("case", ["guide", "gan", pytest.param("denoise", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    "strategy", ["single", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("fit", "one-device"))]
)
def test_it_trains_as_by_keras(case: str, strategy: str, data: Path, tmp_path: Path) -> None:
    expected, losses = by_keras(case, data)
    assert_same(weights(strategy, 1, folder=tmp_path, **work(case, data)), expected, TOLERANCE)
    log = journal.read(tmp_path / "worker-0.jsonl")
    assert log.steps["loss"] == pytest.approx(losses, rel=1e-3)
    assert log.work and log.work["flops_per_example"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["gan", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in WORK if each != "gan")]
)
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
        if case == "gan":
            pytest.skip("its optimizers are not plain SGD")
        strategy, given = "local-sgd:period=1", given | {"optimizer": "sgd"}
    expected = weights("single", 1, folder=tmp_path / "single", **given)
    assert_same(weights(strategy, 2, folder=tmp_path / "run", **given), expected, TOLERANCE)


def test_the_trial_takes_the_models_own_optimizer(data: Path) -> None:
    found = trial.attempt(make_spec(**work("guide", data) | {"optimizer": "adam"}))
    assert found["own_step"] and found["optimizer"] == "momentum:global_clipnorm=1.0"
    assert found["learning_rate"] == 0.05 and found["unused_by_own"] == ""
    plain = trial.attempt(make_spec(model="any_models:regression", dataset=f"hdf5:{data},x=wide,y=three"))
    assert not plain["own_step"]


def test_the_trial_finds_the_optimizers_that_a_step_uses(data: Path) -> None:
    found = trial.attempt(make_spec(**work("gan", data)))
    assert found["own_optimizers"] == (
        "d_optimizer momentum:clipnorm=0.1 (learning rate 0.05); g_optimizer adam:beta_1=0.5 (learning rate 0.002)"
    )
    assert found["loss"] == "d_loss" and "does not have a `call()` method" in found["unevaluated"]
    assert "optimizer" not in found and found["own_schedule"] == ""
    assert trial.attempt(make_spec(**work("scheduled_gan", data) | OWN))["own_schedule"] == "d_optimizer"
    # The same optimizer under a second name, by which the step may call it, can't be replaced.
    assert trial.attempt(make_spec(**work("aliased", data) | OWN))["own_optimizers"].startswith("optimizer mine adam (")
    # One that it holds and does not use makes no difference.
    unused = trial.attempt(make_spec(**work("two", data) | {"optimizer": "adam"}))
    assert (unused["own_optimizers"], unused["optimizer"], unused["unevaluated"]) == ("", "adam", "")


def grid_of(found: Tried, data: Path, **changes: Any) -> Grid:
    """Of a model that was tried with this answer."""
    grid = object.__new__(Grid)
    grid._flags = dict.fromkeys(("optimizer", "learning_rate", "clip_norm", "accumulate")) | changes
    known = work("gan", data) | {name: value for name, value in changes.items() if name != "clip_norm"}
    grid.specs = [make_spec(**known)]
    grid._points = [{}]
    grid._experiments = lambda given: [
        SimpleNamespace(grid=lambda: [make_spec(**known | given)], repeats=1, seed=1),
    ]
    return grid


def test_flags_do_not_replace_the_optimizers_of_a_step(data: Path) -> None:
    found = Tried(own_optimizers="d_optimizer adam", own_schedule="")
    grid = grid_of(found, data)
    assert "is trained by the optimizers of its own train_step, d_optimizer adam" in grid._take_own_of_step(found)
    assert (grid.specs[0].optimizer, grid.specs[0].learning_rate) == ("own: d_optimizer adam", 1.0)
    with pytest.raises(UsageError, match="--clip-norm can't change them; leave that out"):
        grid_of(found, data, clip_norm=1.0)._take_own_of_step(found)
    scheduled = Tried(own_optimizers="d_optimizer adam", own_schedule="d_optimizer")
    with pytest.raises(UsageError, match="can't change the schedule that model own_steps:gan gives to d_optimizer"):
        grid_of(scheduled, data, warmup_epochs=1.0)._take_own_of_step(scheduled)
    with pytest.raises(UsageError, match="--accumulate does not reach the optimizers of the model's own train_step"):
        optimizers.parse(optimizers.OWN + "x").changed(None, 2)


def test_a_factor_is_on_each_ones_own_rate(data: Path) -> None:
    workload = SpecWorkload(make_spec(**work("gan", data)))
    workload.model()
    both = workload.optimizer()
    both.learning_rate.value.assign(3.0)
    assert [float(each.learning_rate) for each in both.members] == pytest.approx([0.15, 0.006])
    workload = SpecWorkload(make_spec(**work("scheduled_gan", data) | OWN))
    workload.model()
    workload.optimizer().learning_rate.value.assign(3.0)
    assert [float(each.learning_rate) for each in workload.optimizer().members] == pytest.approx([0.1, 0.006])


@pytest.mark.slow
def test_what_a_step_returns_is_in_the_tables(data: Path, tmp_path: Path) -> None:
    assert launch(make_spec("horovod", 2, **work("gan", data), steps=4), tmp_path).status == "ok"
    logs = [journal.read(tmp_path / f"worker-{rank}.jsonl") for rank in range(2)]
    rows = list(quality.rows(logs, logs[0]))
    assert {(row["epoch"], row["split"], row["metric"]) for row in rows} == {
        (0, "train_step", name) for name in ("d_loss", "g_loss")
    }
    assert rows[0]["value"] == pytest.approx(np.mean([log.steps["loss"] for log in logs]), rel=1e-5)
    row = measure.run(logs, 0.0)
    assert (row["metric"], row["test_metric"]) == ("", None) and row["final_loss"] > 0


@pytest.mark.slow
def test_replicas_of_tf_distribute_need_built_layers(data: Path, tmp_path: Path) -> None:
    given = work("late", data) | {"optimizer": "adam"}
    outcome = launch(make_spec("mirrored", 2, **given, steps=2), tmp_path / "mirrored")
    assert "must be built by its function, as replicas of tf.distribute can't create weights" in outcome.reason
    assert launch(make_spec("single", 1, **given, steps=2), tmp_path / "single").status == "ok"


def test_strategies_that_can_not_call_it_say_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = object.__new__(Grid)
    grid._tried = Tried(own_step=True)
    spec = make_spec("ps", **work("guide", data))
    assert grid.why_not(spec) == (
        "the model has a train_step of its own, which ps can't call; use one of allreduce, fit, horovod, local-sgd, "
        "mirrored, multiworker, one-device, single"
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
        (
            "by_hand",
            {},
            "by optimizers that are attributes of the model. Received: no call of apply or apply_gradients.",
        ),
        ("hidden", {}, "by optimizers that are attributes of the model. Received: others, Adam."),
        ("nameless", {}, "train_step must return a dictionary with a value that has loss in its name. Received: error"),
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


@pytest.mark.slow
def test_values_that_are_no_means_are_of_their_step_under_fit_too(data: Path, tmp_path: Path) -> None:
    """As a step returns them that keeps no metrics."""
    losses, means = [], []
    for strategy in ("single", "fit"):
        spec = make_spec(strategy, 1, **work("late", data) | {"optimizer": "adam"}, steps=6)
        assert launch(spec, tmp_path / strategy).status == "ok"
        log = journal.read(tmp_path / strategy / "worker-0.jsonl")
        losses.append(log.steps["loss"])
        means.append([row["value"] for row in quality.rows([log], None)])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert means[1] == pytest.approx(means[0], rel=1e-4) and means[0] == pytest.approx([losses[0].mean()], rel=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_embedding_is_trained_alike_by_one_replica_and_by_two(data: Path, tmp_path: Path) -> None:
    given = work("looking_up", data) | {"optimizer": "adam", "learning_rate": 0.01}
    expected = weights("single", 1, folder=tmp_path / "single", **given)
    assert_same(weights("horovod", 2, folder=tmp_path / "run", **given), expected, TOLERANCE)
    log = journal.read(tmp_path / "single" / "worker-0.jsonl")
    assert log.ready and log.ready["unused"].startswith("sparse gradients of embedding")


@pytest.mark.slow
def test_a_model_that_can_not_be_evaluated_is_saved_as_it_was_trained(data: Path, tmp_path: Path) -> None:
    spec = make_spec(**work("gan", data), steps=None, epochs=2, save_model=str(tmp_path))
    assert launch(spec, tmp_path / "run").status == "ok"
    saved = own_steps.gan()
    saved.built = True
    saved.load_weights(tmp_path / f"{spec.run_id}.keras")
    assert_same(saved.get_weights(), kept(tmp_path / "run")[-1], 1e-6)
