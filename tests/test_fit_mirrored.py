"""``fit:distribute=mirrored``: Keras's own fit under MirroredStrategy, where it trains what one replica does."""

from __future__ import annotations

from pathlib import Path

import any_models
import pytest
from conformance import TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from conftest import launch, make_spec
from stratbench.errors import UsageError
from stratbench.harness.plan.experiment import Experiment
from stratbench.results.raw import journal

MIRRORED = "fit:distribute=mirrored"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "optimizer", "sharding"),
    [
        ("mlp", "momentum", "batch"),
        pytest.param("cnn", "adam", "batch", marks=pytest.mark.exhaustive),
        pytest.param("mlp", "momentum", "static", marks=pytest.mark.exhaustive),
    ],
)
def test_two_replicas_equal_one(model: str, optimizer: str, sharding: str, tmp_path: Path, no_strays: None) -> None:
    reference = "single:parts=2" if sharding == "static" else "single"
    expected = weights(reference, 1, model, optimizer, tmp_path / "single", sharding=sharding)
    found = weights(MIRRORED, 2, model, optimizer, tmp_path / "run", sharding=sharding)
    assert_same(found, expected, TOLERANCE[optimizer])
    log, other = (journal.read(tmp_path / name / "worker-0.jsonl") for name in ("run", "single"))
    assert log.steps["loss"] == pytest.approx(other.steps["loss"], rel=1e-3)
    assert log.start and log.start["replicas"] == 2 and set(log.steps["examples"]) == {48}
    assert log.ready["memory"]["weights_bytes"] == 2 * other.ready["memory"]["weights_bytes"]


@pytest.mark.slow
@pytest.mark.usefixtures("beside_the_models")
def test_a_loss_that_keras_would_not_divide_is_refused(tmp_path: Path, data: Path) -> None:
    spec = make_spec(MIRRORED, 2, model="any_models:own_loss", dataset=any_models.dataset(data, "own_loss"))
    outcome = launch(spec, tmp_path / "run")
    assert outcome.status == "failed" and "does not divide the loss of a model's own compute_loss" in outcome.reason


def test_what_keras_does_by_replica_is_skipped_with_the_reason() -> None:
    reasons = {
        "accumulates": make_spec(MIRRORED, 2, accumulate=2).skip(),
        "clips each replica's": make_spec(MIRRORED, 2, clip_norm=1.0).skip(),
        "checks each replica's": make_spec(MIRRORED, 2, precision="mixed_float16").skip(),
        "can't be compiled": make_spec(MIRRORED, 2, jit="on").skip(),
        "shards of one size": make_spec(MIRRORED, 2, last_batch="keep").skip(),
    }
    assert all(reason for reason in reasons.values())
    assert "does not accumulate" in (reasons["accumulates"] or "")
    for words in list(reasons)[1:]:
        assert words in (reasons[words] or ""), reasons
    assert make_spec(MIRRORED, 2).skip() is None
    assert make_spec("fit", accumulate=2, clip_norm=1.0, precision="mixed_float16", jit="on").skip() is None


def test_it_scales_where_fit_alone_has_one_replica() -> None:
    grid = Experiment(
        strategies=["fit", MIRRORED], replicas=[1, 2], dataset="synthetic:classes=10,shape=4", global_batch=8
    )
    found = [(spec.strategy, spec.options, spec.replicas) for spec in grid.expand()]
    options = {"distribute": "mirrored"}
    assert found == [("fit", {}, 1), ("fit", options, 1), ("fit", options, 2)]
    with pytest.raises(UsageError, match="strategy fit runs at most 1 replica"):
        Experiment(strategies=["fit"], replicas=[2], dataset="synthetic", global_batch=8).expand()
