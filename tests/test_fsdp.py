"""`fsdp`: what a process holds and moves, models that are awkward to cut, models that can't be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import launch, make_spec
from stratbench.harness.plan.task import NoPlace
from stratbench.results.raw import journal
from stratbench.strategies.registry import create

pytestmark = pytest.mark.slow
BOUND = """
import keras

def bound():
    layers = keras.layers
    dense = layers.Dense(10, kernel_constraint="non_neg", name="bound")
    return keras.Sequential([layers.Input((28, 28, 1)), layers.Flatten(), dense])
"""


def held(strategy: str, replicas: int, model: str, folder: Path) -> list[dict[str, int]]:
    """Each worker's `Memory`, from a real run."""
    outcome = launch(make_spec(strategy, replicas, model=model, steps=3, global_batch=8, optimizer="adam"), folder)
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(folder / f"worker-{index}.jsonl") for index in range(replicas)]
    return [log.ready["memory"] for log in logs]


@pytest.mark.parametrize(
    ("units", "replicas"),
    [
        (700, 2),
        pytest.param(700, 4, marks=pytest.mark.exhaustive),
        pytest.param(5900, 2, marks=pytest.mark.exhaustive),
        pytest.param(5900, 4, marks=pytest.mark.exhaustive),
    ],
)
def test_each_process_holds_its_part(units: int, replicas: int, tmp_path: Path, horovod: None) -> None:
    """The model has 1.0 M parameters with 700 units, 39.5 M with 5900."""
    model = f"mlp-wide:units={units}"
    (whole,) = held("single", 1, model, tmp_path / "single")
    total = whole["weights_bytes"] + whole["optimizer_bytes"]
    for part in held("fsdp", replicas, model, tmp_path / "fsdp"):
        assert part["weights_bytes"] + part["optimizer_bytes"] <= total * (1 / replicas + 0.05)
        # Two buffers of the largest layer, and the process's part of the gradients.
        layer = (max(units, 784) + 1) * units * 4
        assert 2 * layer <= part["transient_bytes"] <= 2 * layer + whole["weights_bytes"] / replicas + 64


def test_awkward_layers_give_the_whole_models_weights(horovod: None) -> None:
    (task,) = create("fsdp", {"launcher": "horovodrun"}).tasks(2, NoPlace())
    script = Path(__file__).with_name("sharded_model.py")
    done = subprocess.run(
        [*task.command, sys.executable, str(script)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_a_constraint_is_refused_and_the_weight_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horovod: None
) -> None:
    (tmp_path / "constrained.py").write_text(BOUND)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = launch(make_spec("fsdp", 2, model="constrained:bound"), tmp_path / "run")
    assert outcome.status == "failed"
    assert re.search(r"weight .*bound/kernel has a constraint", outcome.reason)


DEEP = """
import keras

def deep():
    layers = keras.layers
    equal = [layers.Conv2D(8, 3, padding="same", use_bias=False) for _ in range(10)]
    return keras.Sequential([layers.Input((8, 8, 8)), *equal, layers.Flatten(), layers.Dense(3)])
"""


def test_layers_wait_only_for_what_the_forward_pass_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horovod: None
) -> None:
    """The graph also has the gradient of the examples, which nobody needs: late layers would wait for it."""
    (tmp_path / "many.py").write_text(DEEP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = make_spec("fsdp", 2, model="many:deep", dataset="synthetic:shape=8x8x8,classes=3", steps=3)
    outcome = launch(spec, tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    log = journal.read(tmp_path / "run" / "worker-0.jsonl")
    assert log.ready["memory"]["transient_bytes"] < 4 * log.ready["parameters"]


@pytest.mark.parametrize("release", ["true", "false"])
def test_expected_traffic_counts_what_is_gathered_again(release: str, tmp_path: Path, horovod: None) -> None:
    spec = make_spec(f"fsdp:reshard_after_forward={release}", 2, model="cnn", steps=3, global_batch=8)
    assert launch(spec, tmp_path).status == "ok"
    log = journal.read(tmp_path / "worker-0.jsonl")
    weights = 4 * log.ready["parameters"]
    # The second convolution's weights and the first's are one unit, and do not fit beside the dense layer's.
    convolutions = 4 * (25 * 32 + 25 * 32 * 64)
    expected = 2 * (2 * weights + convolutions * (release == "true"))
    assert log.ready["traffic_bytes"] == pytest.approx(expected, abs=64)


CALLS_PYTHON = """
import keras
import tensorflow as tf


class Python(keras.layers.Layer):
    def call(self, values):
        passed = tf.numpy_function(lambda array: array, [values], values.dtype)
        passed.set_shape(values.shape)
        return tf.stop_gradient(passed)


def first():
    layers = keras.layers
    return keras.Sequential([layers.Input((28, 28, 1)), Python(), layers.Flatten(), layers.Dense(10)])


def between():
    layers = keras.layers
    return keras.Sequential([layers.Input((28, 28, 1)), layers.Flatten(), layers.Dense(9), Python(), layers.Dense(10)])
"""


@pytest.mark.parametrize("model", ["python_layer:first", "python_layer:between"])
def test_the_split_is_not_told_of_a_model_that_calls_python(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horovod: None
) -> None:
    """All of its gathers would count as computing. Before the first weights, it does no harm."""
    (tmp_path / "python_layer.py").write_text(CALLS_PYTHON)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = launch(make_spec("fsdp", 2, model=model, steps=3), tmp_path / "run")
    assert outcome.status == "ok", outcome.reason
    log = journal.read(tmp_path / "run" / "worker-0.jsonl")
    assert np.isnan(log.steps["communicating_seconds"]).all() == model.endswith("between")
