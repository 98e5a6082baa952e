"""Temporary files of tasks go with their run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import Write, launch, make_spec, processes_of
from stratbench.harness.plan import temporary

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_strays")]

HEAD = """
import tempfile
from pathlib import Path
import keras
import tensorflow as tf

class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(10)

    @tf.function
    def doubled(self, x):
        # AutoGraph writes what it makes of this to a temporary file.
        if tf.rank(x) > 0:
            return x
        return 2 * x

    def call(self, x):
        return self.dense(self.doubled(self.flat(x)))

def make():
    Path(tempfile.gettempdir(), "left").write_text("")
    with Path("places.txt").open("a") as file:
        file.write(tempfile.gettempdir() + "\\n")
    model = Model()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this machine."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv(temporary.VARIABLE, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.mark.parametrize(
    ("strategy", "changes", "status"),
    [
        ("single", {}, "ok"),
        ("ps", {"inject": ["kill:worker=1,step=5"]}, "failed"),
        pytest.param("horovod:launcher=horovodrun", {}, "ok", marks=pytest.mark.exhaustive),
    ],
)
def test_nothing_is_left(
    strategy: str, changes: dict, status: str, place: Path, tmp_path: Path, write: Write, request
) -> None:
    if strategy.startswith("horovod"):
        request.getfixturevalue("horovod")
    outcome = launch(
        make_spec(strategy, 1 if strategy == "single" else 2, model=write(""), **changes), tmp_path / "run"
    )
    assert outcome.status == status, outcome.reason
    used = set((tmp_path / "places.txt").read_text().split())
    assert used and all(Path(each).parent == place and Path(each).name.startswith("stratbench-run-") for each in used)
    assert not list(place.iterdir())


def test_what_a_killed_command_left_is_removed_by_the_next_one(place: Path) -> None:
    with temporary.own_folder() as mine:
        name, _, rest = Path(mine).name.rpartition(f"-{os.getpid()}-")
        dead = place / f"{name}-{2**22 + 1}-{rest}"
        dead.mkdir()
        (dead / "left").write_text("")
        with temporary.own_folder() as other:
            assert Path(mine).exists() and Path(other).exists() and not dead.exists()
    assert not list(place.iterdir())


def test_nothing_is_left_when_the_launcher_is_killed(place: Path, tmp_path: Path, write: Write) -> None:
    flags = ["--model", write(""), "--dataset", "synthetic", "--global-batch", "16", "--steps", "1000000"]
    command = [sys.executable, "-m", "stratbench.harness.cli", "run", "-s", "ps", "-n", "2", *flags]
    parent = subprocess.Popen([*command, "--output", str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(place.glob("stratbench-run-*/left")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(place.glob("stratbench-run-*/left"))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while (processes_of(tmp_path) or list(place.glob("stratbench-run-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(place.glob("stratbench-run-*"))
