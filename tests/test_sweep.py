"""``--sweep``: which runs it makes, what it refuses, and the picture of a quality by batch and learning rate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import WORK, call
from result_rows import run, text
from stratbench.harness.plan.spec import RunSpec
from stratbench.results.page import charts, figures
from stratbench.results.page.page import build
from stratbench.results.page.studies import studies
from stratbench.results.showing.workloads import workloads
from test_page import tables

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")
BASE = ["compare", "-s", "single", "-s", "mirrored", "-n", "1,2", "--dataset", "synthetic"]


def compared(planned: list[RunSpec], *flags: str) -> list[RunSpec]:
    assert call(*BASE, *flags) == 0
    return planned


class TestGrid:
    def test_each_value_has_the_whole_grid(self, planned: list[RunSpec]) -> None:
        specs = compared(planned, "--sweep", "global-batch=64,128,64")
        found = [(spec.strategy, spec.replicas, spec.global_batch) for spec in specs]
        grid = [("single", 1), ("mirrored", 1), ("mirrored", 2)]
        assert found == [(*each, batch) for batch in (64, 128) for each in grid]

    def test_several_flags_give_each_combination(self, planned: list[RunSpec]) -> None:
        flags = [
            "--sweep",
            "lr-scaling=none,linear",
            "--sweep",
            "global_batch=64,128",
            "--sweep",
            "warmup-epochs=0,0.5",
        ]
        specs = compared(planned, *flags)
        points = {(spec.lr_scaling, spec.global_batch, spec.warmup_epochs) for spec in specs}
        assert len(points) == 8 and len(specs) == 24 and len({spec.run_id for spec in specs}) == 24

    def test_rounds_have_every_point(self, planned: list[RunSpec]) -> None:
        specs = compared(planned, "--sweep", "global-batch=64,128", "--repeats", "3")
        rounds = [specs[start : start + 6] for start in range(0, 18, 6)]
        assert all({spec.repeat for spec in each} == {number} for number, each in enumerate(rounds))
        assert len({tuple(spec.global_batch for spec in each) for each in rounds}) > 1

    def test_the_smallest_batch_is_the_reference_of_all(self, planned: list[RunSpec]) -> None:
        specs = compared(planned, "--sweep", "lr-scaling=none,sqrt", "--sweep", "global-batch=256,64")
        assert {spec.reference_batch for spec in specs if spec.lr_scaling == "sqrt"} == {64}
        # Where nothing is scaled it has no meaning, and a run is that of a command without a sweep.
        assert all(spec.reference_batch == spec.global_batch for spec in specs if spec.lr_scaling == "none")

    def test_a_reference_that_is_given_stays(self, planned: list[RunSpec]) -> None:
        flags = ["--lr-scaling", "linear", "--reference-batch", "32", "--sweep", "global-batch=64,128"]
        assert {spec.reference_batch for spec in compared(planned, *flags)} == {32}

    def test_a_swept_learning_rate_comes_before_the_models_own(
        self, planned: list[RunSpec], capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("own.py").write_text(
            "import keras\n"
            "def model():\n"
            "    made = keras.Sequential([keras.layers.Input((28, 28, 1)), keras.layers.Flatten(),"
            " keras.layers.Dense(10)])\n"
            "    made.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(True))\n"
            "    return made\n"
        )
        flags = ["--model", "own:model", "--global-batch", "32", "--sweep", "learning-rate=0.1,0.2"]
        specs = compared(planned, *flags)
        assert {spec.learning_rate for spec in specs} == {0.1, 0.2}
        assert {spec.optimizer.partition(":")[0] for spec in specs} == {"sgd"}
        assert "by its own optimizer, sgd, learning rate 0.1, 0.2" in capsys.readouterr().err

    def test_a_spec_file_may_have_it(self, planned: list[RunSpec]) -> None:
        Path("plan.toml").write_text('sweep = ["global-batch=64,128", "seed=1,2"]\n')
        assert len(compared(planned, "--spec", "plan.toml")) == 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep", "global-batch"], "must be FLAG=VALUE,…, such as global-batch=64,128. Received: 'global-batch'."),
        (["--sweep", "global-bach=1,2"], "Received: 'global-bach'. Did you mean 'global-batch'?"),
        (["--sweep", "optimizer=sgd,adam"], "flags of numbers and choices. Received: 'optimizer'."),
        (["--sweep", "timeout=1,2"], "Received: 'timeout'."),
        (["--sweep", "seed=1,2", "--sweep", "seed=3"], "must name each flag once. Received: 'seed' twice."),
        (["--sweep", "seed=1,two"], "'two' is not a valid int"),
        (["--sweep", "seed=1,"], "'' is not a valid int"),
        (["--sweep", "lr-scaling=none,cubic"], "'cubic' is not one of"),
        (["--sweep", "seed=1,2", "--seed", "3"], "give --seed, or sweep it, not both."),
        (["--sweep", "per-replica-batch=8,16"], "exactly one of --global-batch and --per-replica-batch"),
        (["--sweep", "seed=1,-2"], "--seed must be from 0"),
        (["--sweep", "seed=" + ",".join(map(str, range(9000)))], "at most 10000 runs"),
    ],
)
def test_what_can_not_be_swept_is_told(refused: Any, flags: list[str], message: str) -> None:
    assert message in refused("compare", "-s", "single", "-s", "fit", *WORK, *flags)


def rows(*batches: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        run("single", batch=batch, repeat=repeat, lr_scaling=rule, **changes)
        | {"metric": "accuracy", "test_metric": 0.9 - batch / 10000 + repeat / 1000}
        for batch in batches
        for rule in ("none", "linear")
        for repeat in range(3)
    ]


class TestPicture:
    def test_one_study_of_all_batches_and_rules(self) -> None:
        (study,) = studies(workloads(pd.DataFrame(rows(64, 128, 256))))
        assert len(study.rows) == 6 and study.title == "accuracy of cnn on digits"
        (chart,) = [chart.to_dict() for _, chart in charts.by_batch(study).values()]
        (records,) = [each["values"] for each in [chart["data"]]]
        assert {record["global_batch"] for record in records} == {64, 128, 256}
        assert len({record["rule"] for record in records}) == 2
        assert all(record["low"] < record["value"] < record["high"] for record in records)

    def test_one_batch_is_none(self) -> None:
        assert studies(workloads(pd.DataFrame(rows(64)))) == []

    def test_other_seeds_are_other_studies(self) -> None:
        found = studies(workloads(pd.DataFrame(rows(64, 128) + rows(64, 128, seed=7))))
        assert [len(study.rows) for study in found] == [4, 4]

    def test_the_page_and_the_files_have_it(self, tmp_path: Path) -> None:
        data = tables(rows(64, 128))
        page = build(data, "here")
        assert "By global batch: accuracy of cnn on digits" in page and page.count('id="s1-by-batch"') == 1
        # The picture's section has no table.
        assert len(re.findall("<table id=", page)) == 2
        assert {"study-1-by-batch.svg", "study-1-by-batch.png"} <= {path.name for path in figures.save(data, tmp_path)}


def test_rows_of_one_strategy_at_several_batches_are_told_apart() -> None:
    output = " ".join(text(*[row | {"disturbed": "busy"} for row in rows(64, 128)]).split())
    assert "single ×1 at batch 64 busy" in output and "single ×1 at batch 128 busy" in output
    assert "at batch" not in text(*rows(64))
