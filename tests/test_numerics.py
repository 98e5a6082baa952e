"""Loss scaling for float16 and compilation by XLA: what Keras does, under every strategy that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numeric_models
import numpy as np
import pytest
from conformance import STEPS, assert_same, keep_weights, weights  # noqa: F401
from conftest import make_spec
from stratbench.errors import RunError, UsageError
from stratbench.harness.launch import trying
from stratbench.harness.launch.starter import Starter
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal, measure
from stratbench.strategies.registry import available
from test_train import run as run_steps

pytestmark = pytest.mark.usefixtures("beside_the_models")

WORK = {"optimizer": "momentum", "learning_rate": 0.05}
CLOSE = 1e-3
"""Tolerance of weights whose gradients are of float16, where the same ones are added up."""


def work(case: str, data: Path) -> dict[str, Any]:
    clip = {"overflows": {"optimizer": "momentum:global_clipnorm=0.5"}}.get(case, {})
    arrays = "x=words,y=tags" if case == "recurrent" else "x=wide,y=three"
    return {"model": f"numeric_models:{case}", "dataset": f"hdf5:{data},{arrays}", **WORK, **clip}


def row(folder: Path) -> dict[str, Any]:
    return measure.run([journal.read(path) for path in sorted(folder.glob("*.jsonl"))], 0.0)


@pytest.fixture(scope="module")
def by_keras(data: Path):
    """(parts of a batch, steps of an update) → weights after STEPS steps, and how many updates were left out.

    Each part's gradient is computed by itself, in 16 bits, as a replica does.
    """
    known: dict[tuple[int, int], tuple[list[np.ndarray], int]] = {}

    def get(parts: int, accumulate: int = 1) -> tuple[list[np.ndarray], int]:
        if (parts, accumulate) not in known:
            known[parts, accumulate] = _by_keras(data, parts, accumulate)
        return known[parts, accumulate]

    return get


def _by_keras(data: Path, parts: int, accumulate: int) -> tuple[list[np.ndarray], int]:
    import tensorflow as tf

    workload = SpecWorkload(make_spec(**work("overflows", data), steps=STEPS))
    keras.utils.set_random_seed(workload.spec.seed)
    model = numeric_models.overflows()
    optimizer, trained = model.optimizer, model.trainable_variables
    optimizer.build(trained)

    @tf.function(autograph=False)
    def gradients(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
            scaled = optimizer.scale_loss(loss) / parts
        return tape.gradient(scaled, [variable.value for variable in trained])

    sums: list[tf.Tensor] = []
    for step, (x, y) in zip(range(STEPS), workload.batches(1, 0).epoch(0), strict=False):
        for part in zip(np.split(x, parts), np.split(y, parts), strict=True):
            found = gradients(*part)
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        if (step + 1) % accumulate == 0:
            optimizer.apply([each / accumulate for each in sums], trained)
            sums = []
    return model.get_weights(), STEPS // accumulate - int(optimizer.iterations.numpy())


@pytest.mark.slow
def test_updates_that_are_not_finite_are_left_out_as_by_keras(data: Path, by_keras: Any, tmp_path: Path) -> None:
    expected, skipped = by_keras(1)
    assert 0 < skipped < STEPS / 2
    for strategy in ("single", "one-device", "fit"):
        found = weights(strategy, 1, folder=tmp_path / strategy, **work("overflows", data))
        assert_same(found, expected, CLOSE)
        assert row(tmp_path / strategy)["updates_skipped"] == skipped


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=[] if name in ("mirrored", "horovod") else [pytest.mark.exhaustive])
        for name, cls in available().items()
        if cls.max_replicas != 1 and not cls().skip_loss_scaling()
    ],
)
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_all_replicas_leave_out_the_same_updates(
    strategy: str, accumulate: int, data: Path, by_keras: Any, tmp_path: Path, no_strays: None
) -> None:
    if (problem := available()[strategy]().skip(2)) is not None:
        pytest.skip(problem)
    expected, skipped = by_keras(2, accumulate)
    given = work("overflows", data) | {"accumulate": accumulate}
    assert_same(weights(strategy, 2, folder=tmp_path, **given), expected, CLOSE)
    logs = [journal.read(path) for path in tmp_path.glob("*.jsonl")]
    assert skipped and {log.trained["updates_skipped"] for log in logs} == {skipped}


def test_strategies_without_loss_scaling_say_so(data: Path) -> None:
    spec = make_spec("ps", precision="mixed_float16")
    assert spec.skip() == "ps has no loss scaling, which float16 needs; use --precision mixed_bfloat16 or float32"
    assert "loss scaling" in (make_spec("fsdp", optimizer="sgd:loss_scale_factor=8.0").skip() or "")
    assert make_spec("ps", precision="mixed_bfloat16").skip() is None
    assert "elastic=true has no loss scaling" in (
        make_spec("horovod", options={"elastic": "true"}).create_strategy().skip_loss_scaling() or ""
    )
    tried = trying.check([make_spec(**work("overflows", data))], Starter(forks=False))
    assert tried.scales_loss and tried.optimizer == "momentum:global_clipnorm=0.5"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_scale_that_stays_the_same(tmp_path: Path) -> None:
    given = {"model": "mlp", "dataset": "mnist-12k", **WORK}
    plain = weights("single", 1, folder=tmp_path / "plain", **given)
    scaled = given | {"optimizer": "momentum:loss_scale_factor=1024.0"}
    assert_same(weights("single", 1, folder=tmp_path / "run", **scaled), plain, 1e-5)
    assert row(tmp_path / "run")["updates_skipped"] == 0 and row(tmp_path / "plain")["updates_skipped"] is None


def test_a_scaled_loss_may_be_infinite_but_not_for_long(tmp_path: Path) -> None:
    log, _ = run_steps(tmp_path, 4, [1.0, np.inf, np.nan, 1.0], scales_loss=True)
    assert len(log.steps) == 4
    with pytest.raises(RunError, match="the loss has been nan for 100 steps, up to step 100"):
        run_steps(tmp_path, 300, [1.0, *[np.nan] * 200], scales_loss=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "replicas"),
    [
        ("single", 1),
        pytest.param("fit", 1, marks=pytest.mark.exhaustive),
        ("horovod", 2),
        pytest.param("allgather", 2, marks=pytest.mark.exhaustive),
        pytest.param("master-worker", 2, marks=pytest.mark.exhaustive),
        pytest.param("local-sgd:period=1,average_momentum=true", 2, marks=pytest.mark.exhaustive),
    ],
)
def test_compiled_steps_train_the_same(strategy: str, replicas: int, tmp_path: Path, no_strays: None) -> None:
    if (problem := available()[strategy.partition(":")[0]]().skip(replicas)) is not None:
        pytest.skip(problem)
    given = {"model": "mlp", "dataset": "mnist-12k", **WORK}
    expected = weights("single", 1, folder=tmp_path / "off", **given, jit="off")
    assert_same(weights(strategy, replicas, folder=tmp_path / "on", **given, jit="on"), expected, 1e-5)
    assert row(tmp_path / "on")["compiled"] and not row(tmp_path / "off")["compiled"]


def test_a_model_may_say_that_it_is_compiled(data: Path) -> None:
    given = work("compiled", data)
    for strategy, jit, expected, unused in (
        ("single", "auto", True, ""),
        ("single", "off", False, "jit_compile=True"),
        ("mirrored", "auto", False, "jit_compile=True"),
    ):
        workload = SpecWorkload(make_spec(strategy, **given, jit=jit))
        workload.model()
        assert (workload.jit, workload.unused) == (expected, unused), (strategy, jit)
    workload = SpecWorkload(make_spec("single"))
    workload.model()
    assert workload.jit == bool(keras.src.backend.tensorflow.core.tf.config.list_physical_devices("GPU"))


def test_what_can_not_be_compiled_is_said(data: Path) -> None:
    reason = make_spec("ps", jit="on").skip()
    assert reason and reason.startswith(
        "ps can't be compiled by XLA; use --jit off or auto, or one of allgather, allreduce, fit"
    )
    slow = make_spec("single", jit="on", inject=["slow:worker=0,factor=2"])
    assert slow.skip() == "a compiled step can't be slowed down on purpose; use --jit off"
    for replicas, expected in ((1, True), (2, False)):
        workload = SpecWorkload(make_spec("horovod", replicas, **work("recurrent", data), jit="on"))
        workload.model()
        assert workload.jit is expected and workload.objective.normalised


def test_a_layer_that_xla_can_not_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strings_model.py").write_text(
        "import keras\n"
        "class Host(keras.layers.Layer):\n"
        "    def __init__(self):\n"
        "        super().__init__(name='host')\n"
        "        self.supports_jit = False\n"
        "    def call(self, x):\n"
        "        return x\n"
        "def make():\n"
        "    image = keras.Input((28, 28, 1))\n"
        "    return keras.Sequential([image, keras.layers.Flatten(), Host(), keras.layers.Dense(10)])\n"
    )
    workload = SpecWorkload(make_spec(model="strings_model:make", jit="on"))
    with pytest.raises(UsageError, match="--jit on can't compile the layer host of model strings_model:make"):
        workload.model()
