"""``stratbench export``: what other tools read of it, with these tools themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from stored_results import save
from stratbench import results
from stratbench.errors import RunError
from stratbench.harness.cli.commands import cli
from stratbench.results import exporting
from stratbench.results.tables import store
from stratbench.results.tables.reading import Tables
from test_results_record import STARTED, make_log, make_record, make_spec

EVENTS = "events.out.tfevents.stratbench"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two runs of horovod, a failed one of single, and one that never started."""
    logs = [make_log(0), make_log(1)]
    for log in logs:
        log.ready = (log.ready or {}) | {"set_examples": {"train": 128, "validation": 100, "test": 200}}
        log.steps["computing_seconds"] = 0.06
    records = [make_record(make_spec(repeat=repeat), logs=logs) for repeat in range(2)]
    records.append(make_record(make_spec(strategy="single", replicas=1), "failed", "it died", [make_log(0)]))
    records.append(make_record(make_spec(strategy="tpu", replicas=1), "skipped", "there is none"))
    with store.Store(tmp_path / "out") as opened:
        for record in records:
            save(tmp_path / "out", record)
            opened.add(record)
    return tmp_path / "out"


@pytest.fixture
def tables(folder: Path) -> Tables:
    return results.load(folder)


def names(tables: Tables) -> list[str]:
    return tables.runs["run_id"].tolist()


def export(tables: Tables, name: str, folder: Path) -> list[Path]:
    made = exporting.export(tables, name, folder)
    assert sorted(made) == sorted(path for path in folder.rglob("*") if path.is_file())
    return made


@pytest.mark.parametrize("name", exporting.FORMATS)
def test_the_command_says_what_it_wrote(folder: Path, name: str) -> None:
    done = CliRunner().invoke(cli, ["export", str(folder), "--format", name])
    assert done.exit_code == 0, done.output
    found = [path for path in (folder / f"export-{name}").rglob("*") if path.is_file()]
    assert f"{len(found)} files in {folder / f'export-{name}'}" in done.output
    assert results.load(folder).runs.shape[0] == 4


@pytest.mark.parametrize(("name", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_tables_are_what_was_loaded(tables: Tables, tmp_path: Path, name: str, read: Any) -> None:
    export(tables, name, tmp_path / "e")
    steps = read(tmp_path / "e" / f"steps.{name}")
    pd.testing.assert_frame_equal(steps, tables.steps, check_dtype=False)
    comparison = read(tmp_path / "e" / f"comparison.{name}")
    assert comparison["strategy"].tolist() == ["single", "horovod", "tpu"]
    assert comparison["ok"].tolist() == [0, 2, 0]


def accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


class TestTensorBoard:
    def test_steps_are_scalars_at_their_times(self, tables: Tables, tmp_path: Path) -> None:
        export(tables, "tensorboard", tmp_path / "e")
        run = names(tables)[0]
        steps = tables.steps[(tables.steps["run_id"] == run) & (tables.steps["task"] == 1)]
        found = accumulated(tmp_path / "e" / run / "worker-1")
        for name in ("loss", "step_seconds", "input_seconds", "computing_seconds"):
            events = found.Scalars(f"steps/{name}")
            assert [event.step for event in events] == steps["step"].tolist()
            assert [event.value for event in events] == pytest.approx(steps[name].tolist())
        ends = STARTED + 5 + np.cumsum(steps["step_seconds"])
        assert [event.wall_time for event in events] == pytest.approx(ends.tolist())
        # What is not known has no points.
        assert "steps/waiting_seconds" not in found.Tags()["scalars"]

    def test_epochs_metrics_and_figures_of_the_run(self, tables: Tables, tmp_path: Path) -> None:
        export(tables, "tensorboard", tmp_path / "e")
        run = tables.runs.iloc[0]
        found = accumulated(tmp_path / "e" / str(run["run_id"]))
        accuracy = found.Scalars("metrics/validation/accuracy")
        assert [(event.step, event.value) for event in accuracy] == [(2, 0.25), (4, 0.5)]
        assert found.Scalars("metrics/test/loss")[0].value == 1.5
        rate = found.Scalars("runs/examples_per_second")[0].value
        assert rate == pytest.approx(run["examples_per_second"])
        seconds = [event.value for event in found.Scalars("epochs/seconds")]
        assert seconds == pytest.approx([9.2, 0.3])

    def test_runs_are_trials_of_the_hparams_page(self, tables: Tables, tmp_path: Path) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata

        export(tables, "tensorboard", tmp_path / "e")

        def said(folder: Path, tag: str) -> Any:
            content = accumulated(folder).SummaryMetadata(tag).plugin_data.content
            return content

        states = {}
        for run, strategy in zip(names(tables), tables.runs["strategy"], strict=True):
            begin = metadata.parse_session_start_info_plugin_data(
                said(tmp_path / "e" / run, metadata.SESSION_START_INFO_TAG)
            )
            assert begin.hparams["strategy"].string_value == strategy
            end = metadata.parse_session_end_info_plugin_data(said(tmp_path / "e" / run, metadata.SESSION_END_INFO_TAG))
            states[strategy] = end.status
        assert states["horovod"] == api_pb2.STATUS_SUCCESS and states["single"] == api_pb2.STATUS_FAILURE
        shown = metadata.parse_experiment_plugin_data(said(tmp_path / "e", metadata.EXPERIMENT_TAG))
        assert [each.name for each in shown.hparam_infos] == ["strategy", "replicas", "global_batch", "repeat"]
        assert "runs/examples_per_second" in [each.name.tag for each in shown.metric_infos]

    def test_a_second_export_replaces_the_first(self, tables: Tables, tmp_path: Path) -> None:
        for _ in range(2):
            export(tables, "tensorboard", tmp_path / "e")
        found = accumulated(tmp_path / "e" / names(tables)[0] / "worker-0")
        assert len(found.Scalars("steps/loss")) == 4


class TestMlperf:
    def lines(self, path: Path) -> list[dict[str, Any]]:
        return [json.loads(line.removeprefix(":::MLLOG ")) for line in path.read_text().splitlines()]

    def test_the_times_are_those_of_the_training_clock(self, tables: Tables, tmp_path: Path) -> None:
        export(tables, "mlperf", tmp_path / "e")
        lines = self.lines(tmp_path / "e" / f"{names(tables)[0]}.log")
        at = {line["key"]: line["time_ms"] / 1000 - STARTED for line in lines}
        assert at["init_start"] == 0 and at["run_start"] == 5
        assert at["run_stop"] == pytest.approx(5 + 9.2 + 0.3, abs=0.001)
        found = [(line["value"], line["metadata"]["epoch_num"]) for line in lines if line["key"] == "eval_accuracy"]
        assert found == [(0.25, 1), (0.5, 2)]
        assert {line["value"] for line in lines if line["key"] == "train_samples"} == {128}
        assert lines[-1]["metadata"]["status"] == "success"

    def test_a_run_that_failed_is_aborted_and_one_that_never_began_has_no_log(
        self, tables: Tables, tmp_path: Path
    ) -> None:
        made = export(tables, "mlperf", tmp_path / "e")
        stops = {path.name[:6]: self.lines(path)[-1]["metadata"]["status"] for path in made}
        assert stops == {"horovo": "success", "single": "aborted"}

    def test_the_checker_of_mlcommons_misses_an_official_benchmark_alone(self, tables: Tables, tmp_path: Path) -> None:
        export(tables, "mlperf", tmp_path / "e")
        log = str(tmp_path / "e" / f"{names(tables)[0]}.log")
        checker = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training"]
        done = subprocess.run(
            [*checker, "--ruleset", "5.1.0", log], capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
        said = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" in line or "Traceback" in line]
        assert len(said) == 1 and "'submission_benchmark' but found 0" in said[0], done.stderr


@pytest.mark.parametrize("name", exporting.FORMATS)
def test_no_runs_are_no_mistake(tables: Tables, tmp_path: Path, name: str) -> None:
    nothing = Tables(**{table: getattr(tables, table)[:0] for table in vars(tables)})
    export(nothing, name, tmp_path / "e")


@pytest.mark.parametrize("name", exporting.NEEDS)
def test_a_missing_package_is_named(tables: Tables, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_is_there", lambda package: False)
    package = exporting.NEEDS[name][0]
    with pytest.raises(RunError, match=f"^--format {name} needs the package {package}, .*: pip install {package}$"):
        exporting.export(tables, name, tmp_path)


@pytest.mark.parametrize("name", exporting.FORMATS)
def test_what_can_not_be_written_is_told_in_a_line(tables: Tables, tmp_path: Path, name: str) -> None:
    (tmp_path / "e").write_text("mine")
    with pytest.raises(RunError, match="the export can't be written"):
        exporting.export(tables, name, tmp_path / "e" / "x")


def test_the_command_line_does_not_load_tensorflow(folder: Path) -> None:
    code = (
        "import sys\n"
        "from stratbench.harness.cli.commands import cli\n"
        f"cli(['export', {str(folder)!r}, '--format', 'tensorboard'], standalone_mode=False)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
