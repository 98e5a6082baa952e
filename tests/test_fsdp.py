"""`fsdp`: what a process holds, models that are awkward to cut, models that can't be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import launch, make_spec
from stratbench.errors import RunError
from stratbench.harness.plan.task import NoPlace
from stratbench.results.raw import journal
from stratbench.strategies.registry import create

pytestmark = pytest.mark.slow
SUBCLASS = """
import keras

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(10)

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, 784)))

def own():
    return Own()
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


def test_a_model_that_cannot_be_cut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horovod: None) -> None:
    (tmp_path / "uncut.py").write_text(SUBCLASS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = launch(make_spec("fsdp", 2, model="uncut:own"), tmp_path / "run")
    assert outcome.status == "failed"
    assert "fsdp needs a Sequential or Functional model" in outcome.reason


def test_its_checks_name_the_weight() -> None:
    import keras
    from stratbench.strategies.collectives._sharding import _check, _leaves

    layers = keras.layers
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, kernel_constraint="non_neg", name="bound")])
    with pytest.raises(RunError, match=r"constraint on a part of a weight\. Received: one on .*bound/kernel"):
        _check(model, [layer for layer in _leaves(model) if layer.trainable_variables])
