"""A user's compiled model is trained as by Keras itself, under every strategy, and all of its metrics are reported."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import any_models
import keras
import numpy as np
import pytest
from conformance import CUT, RATE, STEPS, SYNCHRONOUS, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from stratbench.datasets.structure import is_empty
from stratbench.errors import UsageError
from stratbench.harness.plan import class_weights
from stratbench.harness.worker import evaluate, trial
from stratbench.harness.worker.building import policy
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("beside_the_models")]

USUAL = {
    "two_by_two": ("mirrored", "horovod", "ps:sync=true", "fsdp"),
    "regression": ("multiworker",),
    "segmentation": ("horovod",),
    "half_trained": (),
    "weighted": ("mirrored", "ps:sync=true"),
    "own_loss": ("ps:sync=true", "fsdp"),
    "binary": ("ps:sync=true",),
    "autoencoder": ("fsdp",),
    "untargeted": ("mirrored", "allgather", "ps:sync=true"),
    "rare": ("mirrored", "ps:sync=true"),
    "half": ("multiworker", "ps:sync=true"),
    "masked": ("mirrored", "ps:sync=true", "fsdp"),
    "normalised": ("allgather", "ps-tree"),
    "scheduled": ("mirrored", "ps:sync=true", "fsdp"),
    "accumulated": ("mirrored", "horovod", "ps:sync=true", "fsdp"),
    "bounded": ("ps:sync=true", "ps-tree"),
}
"""Strategies that each model meets in every commit's tests; the others are ``exhaustive``."""


HALF = 0.05
"""Tolerance of weights and metrics that are computed with bfloat16: sums of numbers that are rounded by up to 0.004."""


def tolerance(case: str) -> float:
    return HALF if case == "half" else TOLERANCE["adam" if case == "scheduled" else "momentum"]


def work(case: str, data: Path) -> dict[str, Any]:
    optimizer = any_models.OWN.get(case, {"optimizer": "momentum", "learning_rate": RATE["momentum"]})
    return {"model": f"any_models:{case}", "dataset": any_models.dataset(data, case)} | optimizer


@pytest.fixture(scope="module")
def single(data: Path, tmp_path_factory: pytest.TempPathFactory):
    """The folder of a case's run by `single`, and its weights."""
    known: dict[str, tuple[Path, list[np.ndarray]]] = {}

    def get(case: str) -> tuple[Path, list[np.ndarray]]:
        if case not in known:
            folder = tmp_path_factory.mktemp("single") / "run"
            known[case] = folder, weights("single", 1, folder=folder, **work(case, data))
        return known[case]

    return get


def by_keras(case: str, data: Path, **arguments: Any) -> tuple[list[np.ndarray], dict[str, float]]:
    """Weights after the same steps by ``train_on_batch``, and what ``evaluate`` says of the validation set."""
    import keras

    workload = SpecWorkload(make_spec(**work(case, data), steps=STEPS))
    keras.utils.set_random_seed(workload.spec.seed)
    with policy(workload.spec.precision, case):
        model = getattr(any_models, case)(**arguments)
    weights = class_weights.parse(workload.spec.class_weight) or None
    if case not in any_models.OWN:
        model.optimizer = workload.optimizer()
    for _, batch in zip(range(STEPS), workload.batches(1, 0).epoch(0), strict=False):
        model.train_on_batch(*with_targets(batch), class_weight=weights)
    (whole,) = workload.in_order(workload.rows["validation"], any_models.ROWS)
    x, y, *weight = with_targets(whole)
    return model.get_weights(), model.evaluate(x, y, any_models.ROWS, 0, *weight, return_dict=True)


def with_targets(batch: Any) -> Any:
    """As Keras takes it."""
    return [None if is_empty(part) else part for part in batch]


@pytest.mark.parametrize("case", any_models.DATA)
def test_single_trains_and_reports_as_keras_does(case: str, single, data: Path) -> None:
    folder, found = single(case)
    expected, metrics = by_keras(case, data)
    assert_same(found, expected, tolerance(case))
    (evaluation,) = journal.read(folder / "worker-0.jsonl").evaluations
    assert evaluation["validation"] == pytest.approx(metrics, rel=HALF if case == "half" else 1e-4), json.dumps(
        evaluation
    )
    assert evaluation["test"].keys() == metrics.keys()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in ("two_by_two", "weighted", "masked") else [pytest.mark.exhaustive])
        for case in any_models.DATA
    ],
)
def test_measures_in_several_batches_are_those_of_evaluate(
    case: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 50)
    workload = SpecWorkload(make_spec(**work(case, data), steps=1))
    model, rows = workload.model(), workload.rows["validation"]
    assert len(rows) == 120
    (whole,) = workload.in_order(rows, any_models.ROWS)
    x, y, weights = workload.unpack(whole)
    for _ in range(2):
        expected = model.evaluate(x, y, 50, 0, weights, return_dict=True)
        assert evaluate.measure(workload, model, rows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", ["scheduled", "accumulated"])
def test_clipping_changes_these_models(case: str, single, data: Path) -> None:
    """Otherwise they would not show whether it is done, and on what."""
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(single(case)[1], by_keras(case, data, clip=False)[0], 0.01)


def test_constraints_change_this_model(single, data: Path) -> None:
    """Otherwise it would not show that they are obeyed."""
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(single("bounded")[1], by_keras("bounded", data, bounds=False)[0], 0.01)


def test_16_bits_and_class_weights_change_these_models(single, data: Path) -> None:
    """Otherwise they would not show that they are used."""
    for case, flag in (("half", "precision"), ("rare", "class_weight")):
        without = {key: value for key, value in work(case, data).items() if key != flag}
        plain = SpecWorkload(make_spec(**without, steps=STEPS))
        keras.utils.set_random_seed(plain.spec.seed)
        model = getattr(any_models, case)()
        for _, batch in zip(range(STEPS), plain.batches(1, 0).epoch(0), strict=False):
            model.train_on_batch(*batch)
        with pytest.raises(AssertionError, match="differs by"):
            assert_same(single(case)[1], model.get_weights(), TOLERANCE["momentum"])


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in ("two_by_two", "accumulated", "rare") else [pytest.mark.exhaustive])
        for case in any_models.DATA
    ],
)
def test_fit_trains_what_single_does(case: str, single, data: Path, tmp_path: Path, no_strays: None) -> None:
    found = weights("fit", 1, folder=tmp_path / "run", **work(case, data))
    assert_same(found, single(case)[1], tolerance(case))
    ours, theirs = (journal.read(folder / "worker-0.jsonl").steps for folder in (tmp_path / "run", single(case)[0]))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=HALF if case == "half" else 1e-4)
    assert np.isnan(ours["input_seconds"]).all() and (ours["step_seconds"] > 0).all()


def test_metrics_are_in_the_order_of_compile(single) -> None:
    folder, _ = single("regression")
    (evaluation,) = journal.read(folder / "worker-0.jsonl").evaluations
    assert list(evaluation["validation"]) == ["loss", "root_mean_squared_error", "mae"]


COMPILE = {
    "optimizer": "adopted by the command line, or refused: tests/test_compiled.py",
    "loss": "two_by_two",
    "loss_weights": "two_by_two",
    "metrics": "two_by_two",
    "weighted_metrics": "weighted",
    "run_eagerly": "named as unused: tests/test_compiled.py",
    "steps_per_execution": "named as unused: tests/test_compiled.py",
    "jit_compile": "used, or named as unused: tests/test_numerics.py",
    "auto_scale_loss": "used for mixed_float16: tests/test_numerics.py",
}
"""Each argument of ``compile()``, and the case here that uses it, or what else becomes of it."""


def test_every_argument_of_compile_is_used_or_named() -> None:
    assert set(inspect.signature(keras.Model.compile).parameters) - {"self"} == set(COMPILE)


def cases() -> list[Any]:
    return [
        pytest.param(case, name, marks=[] if name in USUAL[case] else [pytest.mark.exhaustive])
        for case in any_models.DATA
        for name in SYNCHRONOUS
        if name not in CUT
        # Each process of local-sgd clips its own gradient, and takes the mean over what its own masks leave.
        if case not in ("scheduled", "accumulated", "masked", "normalised")
        or not name.startswith(("local-sgd", "parameter-server", "sandblaster"))
        # They hold parts of weights; and the mean of weights that obey a constraint does not always obey it.
        if case != "bounded" or not name.startswith(("local-sgd", "fsdp", "sandblaster"))
        # They have no layer that could be split.
        if name != "model-parallel:split=tensor" or case not in ("segmentation", "binary", "bounded")
        # Each process has an optimizer of its own, which follows its own gradients.
        if name != "allgather:share=weights"
    ]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in ("scheduled", "bounded") else [pytest.mark.exhaustive])
        for case in any_models.DATA
    ],
)
def test_pieces_of_weights_on_several_servers_equal_one(
    case: str, single, data: Path, tmp_path: Path, no_strays: None
) -> None:
    found = weights("ps:sync=true,ps=3", 2, folder=tmp_path / "run", **work(case, data))
    assert_same(found, single(case)[1], tolerance(case))


ASSIGNED = {"model": "any_models:assigned", "optimizer": "momentum", "learning_rate": RATE["momentum"]}
"""Not in `any_models.DATA`, as some strategies can't train it."""


@pytest.mark.parametrize("strategy", ["mirrored", "horovod"])
def test_weights_that_the_call_assigns(strategy: str, data: Path, tmp_path: Path, no_strays: None) -> None:
    known = ASSIGNED | {"dataset": any_models.dataset(data, "regression")}
    expected = weights("single", 1, folder=tmp_path / "single", **known)
    assert_same(weights(strategy, 2, folder=tmp_path / "run", **known), expected, TOLERANCE["momentum"])


@pytest.mark.parametrize(
    "strategy", ["ps:sync=true", "fsdp", "model-parallel", "central-storage", "parameter-server", "sandblaster"]
)
def test_weights_that_the_call_assigns_where_others_hold_them(
    strategy: str, data: Path, tmp_path: Path, no_strays: None
) -> None:
    known = ASSIGNED | {"dataset": any_models.dataset(data, "regression")}
    outcome = launch(make_spec(strategy, 2, **known, steps=2), tmp_path)
    assert outcome.status == "failed"
    assert "call assigns sequential/spectral_normalization/dense/kernel, as SpectralNorm" in outcome.reason


def test_a_loss_without_targets_is_refused(data: Path) -> None:
    spec = make_spec(**work("regression", data) | {"dataset": any_models.dataset(data, "untargeted")})
    with pytest.raises(UsageError, match="is compiled with a loss, which needs targets"):
        trial.attempt(spec)


@pytest.mark.parametrize(("case", "strategy"), cases())
def test_two_replicas_equal_one(case: str, strategy: str, single, data: Path, tmp_path: Path, no_strays: None) -> None:
    if (problem := make_spec(strategy, 2, **work(case, data)).skip()) is not None:
        pytest.skip(problem)
    found = weights(strategy, 2, folder=tmp_path / "run", **work(case, data))
    assert_same(found, single(case)[1], tolerance(case))


def test_parts_of_a_model_obey_constraints(single, data: Path, tmp_path: Path, no_strays: None) -> None:
    found = weights("model-parallel", 2, folder=tmp_path / "run", **work("bounded", data))
    assert_same(found, single("bounded")[1], tolerance("bounded"))


def test_as_many_outputs_as_examples_of_a_trial_are_no_targets(data: Path) -> None:
    """Keras takes the rows of a single array for the targets of so many outputs, where it is not in a graph."""
    found = trial.attempt(make_spec(**work("half_trained", data)))
    assert (found["alone"], found["unevaluated"]) == ("", "")
    workload = SpecWorkload(make_spec(**work("half_trained", data)))
    workload.model()
    assert [workload.objective.unlike_outputs(count) for count in (1, 2, 3)] == [2, 3, 3]
