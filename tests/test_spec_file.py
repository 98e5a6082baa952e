"""``--spec FILE.toml``: what its keys mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import call
from stratbench.harness.plan.spec import RunSpec

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


class TestSpecFile:
    def write(self, text: str) -> str:
        Path("spec.toml").write_text(text)
        return "spec.toml"

    FILE = """
        strategy = ["single", "ps"]
        replicas = [1, 2]
        repeats = 2
        model = "mlp"
        dataset = "synthetic:examples=600"
        split = "60/20/20"
        sharding = "static"
        global_batch = 24
        last_batch = "keep"
        steps = 7
        optimizer = "adam"
        learning_rate = 0.01
        lr_scaling = "sqrt"
        reference_batch = 12
        warmup_epochs = 0.5
        lr_schedule = "cosine:end=0.10"
        seed = 5
        cores_per_replica = 1
        timeout = 60
        output = "elsewhere"
        [option]
        sync = true
        ps = 2
    """
    FLAGS = (
        "-s single -s ps -n 1,2 --repeats 2 --model mlp --dataset synthetic:examples=600 --split 60/20/20 "
        "--sharding static --global-batch 24 --last-batch keep --steps 7 --optimizer adam --learning-rate 0.01 "
        "--lr-scaling sqrt --reference-batch 12 --warmup-epochs 0.5 --seed 5 --cores-per-replica 1 --timeout 60 "
        "--lr-schedule cosine:end=0.1 --output elsewhere -o sync=true -o ps=2"
    )

    def test_means_what_the_flags_mean(self, planned: list[RunSpec]) -> None:
        assert call("compare", "--spec", self.write(self.FILE)) == 0
        from_file = list(planned)
        planned.clear()
        assert call("compare", *self.FLAGS.split()) == 0
        assert len(planned) == 6
        assert from_file == planned
        assert [spec.run_id for spec in from_file] == [spec.run_id for spec in planned]

    def test_flags_win(self, planned: list[RunSpec]) -> None:
        flags = ["-s", "mirrored", "-n", "4", "--repeats", "1", "--optimizer", "sgd", "-o", "cross_device_ops=nccl"]
        assert call("compare", *flags, "--spec", self.write(self.FILE), "--seed", "6") == 0
        (spec,) = planned
        assert (spec.strategy, spec.replicas, spec.optimizer, spec.seed) == ("mirrored", 4, "sgd", 6)
        assert (spec.steps, spec.model) == (7, "mlp")

    def test_repeats_may_be_a_percentage(self, planned: list[RunSpec]) -> None:
        one = 'strategy = "single"\nglobal_batch = 8\ndataset = "synthetic"\nrepeats = "2%"'
        assert call("compare", "--spec", self.write(one)) == 0
        assert [spec.repeat for spec in planned] == [0, 1, 2]

    def test_gives_required_flags_and_single_values(self, planned: list[RunSpec]) -> None:
        one = 'strategy = "mirrored"\nreplicas = 2\nglobal_batch = 8\ndataset = "synthetic"'
        assert call("run", "--spec", self.write(one)) == 0
        assert call("compare", "--spec", "spec.toml") == 0
        assert len(planned) == 2 and planned[0] == planned[1]
        assert planned[0].replicas == 2

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a = = b", "must be TOML"),
            ("spec = 'other.toml'", "Received: 'spec'"),
            ("strategy = 3\nglobal_batch = 32", "3"),
            ("strategy = ['single', 'ps']\nglobal_batch = 32", "single"),
            ("strategy = 'single'\nglobal_batch = 'many'", "'many'"),
            ("strategy = 'single'\n[global_batch]\nvalue = 3", "global"),
            ("strategy = 'single'\nglobal_batch = 32.5", "32.5"),
            ("strategy = 'mirrored'\nglobal_batch = 32\nreplicas = true", "True"),
            ("strategy = 'single'\nglobal_batch = 32\noutput = 3", "output"),
            ("strategy = 'single'\nglobal_batch = 32\noption = 3", "option"),
            ("strategy = 'single'\nglobal_batch = 32\noptimizer = ['sgd']", "sgd"),
            ("strategy = 'single'\nglobal_batch = 32\nseed = 1.5", "1.5"),
            ("strategy = 'single'\nglobal_batch = 32\nsteps = '2%'", "steps must be a whole number"),
            ("strategy = 'single'\nglobal_batch = 32\ntimeout = {}", "timeout"),
        ],
    )
    def test_that_is_wrong_is_refused(self, text: str, message: str, refused: Any, planned: list[RunSpec]) -> None:
        self.write(text)
        assert message in refused("run", "--dataset", "synthetic", "--spec", "spec.toml")
        assert not planned

    def test_that_is_missing_or_unreadable_is_refused(self, refused: Any, tmp_path: Path) -> None:
        assert "nowhere.toml" in refused("run", "--spec", "nowhere.toml")
        Path("binary.toml").write_bytes(b"\xff\xfe\0")
        assert "must be TOML" in refused("run", "--spec", "binary.toml")
        assert "directory" in refused("run", "--spec", str(tmp_path))
