"""The command line as a user meets it: help, one line for each mistake, and no TensorFlow in it. Nothing is trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from command_line import WORK, call, shell
from stratbench.harness.cli import commands as cli
from stratbench.harness.cli import doctor, grid
from stratbench.harness.launch.run import Store
from stratbench.harness.plan.spec import RunSpec
from stratbench.results import schema

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

COMMANDS = [
    "allreduce",
    "compare",
    "diff",
    "doctor",
    "export",
    "install-horovod",
    "list",
    "predict",
    "report",
    "run",
    "show",
]


class TestHelp:
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_the_program_tells_what_it_is_for_and_where_to_start(
        self, flag: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(flag) == 0
        out, error = capsys.readouterr()
        assert not error
        assert "stratbench doctor" in out and "stratbench compare -s single" in out
        assert all(f"\n  {command} " in out for command in COMMANDS)

    @pytest.mark.parametrize(
        ("command", "teaches"),
        [
            ("run", ["horovodrun -np", "ps:sync=true", "list strategies", "(strong", "[default: cnn]", "60/20/20"]),
            ("compare", ["Example", "-n 1,2,4", "skips runs that are 'ok'", "(weak", "--repeats", "--spec"]),
            ("list", ["{strategies|models|datasets}", "--json"]),
            ("doctor", ["What can and can't run", "--json"]),
            ("show", ["results.h5", "--json"]),
            ("install-horovod", ["TensorFlow that is installed", "HOROVOD_", "~/.cache/stratbench"]),
        ],
    )
    def test_each_command_teaches(self, command: str, teaches: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert call(command, "--help") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert [text for text in teaches if text not in out] == []

    def test_every_flag_has_a_help_text(self) -> None:
        for command in cli.cli.commands.values():
            assert command.help
            for option in command.params:
                assert option.param_type_name == "argument" or getattr(option, "help", None), option

    def test_without_a_command_the_help_is_shown_as_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        call()
        out, error = capsys.readouterr()
        assert len((out + error).splitlines()) > 10

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("--version") == 0
        assert capsys.readouterr().out.strip().count(".") == 2


class TestLight:
    """What is not loaded: a command line that loads TensorFlow answers after seconds."""

    HEAVY = ("tensorflow", "keras", "horovod")

    def loaded(self, program: str, *names: str) -> list[str]:
        report = f"print('loaded', *(name for name in {names!r} if name in sys.modules))"
        run = subprocess.run(
            [sys.executable, "-c", f"import sys, contextlib\n{program}\n{report}"], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()[-1].split()[1:]

    def test_help_loads_next_to_nothing(self) -> None:
        program = "sys.argv = ['stratbench', '--help']\nfrom stratbench.harness.cli.commands import main\n"
        program += "with contextlib.suppress(SystemExit): main()"
        assert self.loaded(program, *self.HEAVY, "pandas", "h5py", "numpy", "pydantic") == []

    def test_launcher_specs_and_strategies_load_no_tensorflow(self) -> None:
        program = (
            "from stratbench.harness.cli import commands, doctor, listing, progress, session\n"
            "from stratbench.harness.launch import launcher, run, trying\n"
            "from stratbench.harness.plan.experiment import Experiment\n"
            "from stratbench.results import load\n"
            "from stratbench.results.tables import store\n"
            "from stratbench.strategies import registry\n"
            "from stratbench.datasets import base as datasets\n"
            "registry.available(), datasets.available()\n"
            "for name in registry.available(): registry.create(name, {}).skip(2)\n"
            "specs = Experiment(strategies=['ps', 'single'], global_batch=60, dataset='synthetic').expand()\n"
            "specs[0].run_id"
        )
        assert self.loaded(program, *self.HEAVY) == []


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["frobnicate"], "'frobnicate'"),
            (["compar"], "Did you mean 'compare'"),
            (["run"], "--strategy"),
            (["compare"], "--strategy"),
            (["run", "-s", "sngle", *WORK], "Received: 'sngle'. Did you mean 'single'?"),
            (["run", "-s", "", *WORK], "one of allgather, allreduce, central-storage, estimator, fit, fsdp, gossip"),
            (["compare", "-s", "single", "-s", "mirorred", *WORK], "Did you mean 'mirrored'?"),
            (["run", "-s", "ps:synch=true", *WORK], "Did you mean 'sync'?"),
            (["run", "-s", "ps:sync=maybe", *WORK], "option sync of strategy ps"),
            (["run", "-s", "ps:sync", *WORK], "key=value. Received: 'sync'"),
            (["run", "-s", "ps:ps=0", *WORK], "greater than or equal to 1"),
            (["run", "-s", "ps:port=70000", *WORK], "less than or equal to 65535"),
            (["run", "-s", "horovod:fusion_mib=inf", *WORK], "option fusion_mib of strategy horovod"),
            (["run", "-s", "single", "-o", "x=1", *WORK], "single has the options steps_per_execution, mode"),
            (["run", "-s", "single", "-o", "x", *WORK], "key=value. Received: 'x'"),
            (["run", "-s", "single", "--model", "cn", *WORK], "Did you mean 'cnn'?"),
            (["run", "-s", "single", "--model", "", *WORK], "package.module:function"),
            (["run", "-s", "single", "--global-batch", "8", "--dataset", "mnits"], "Did you mean 'mnist'?"),
            (["run", "-s", "single", "--global-batch", "8", "--dataset", "hdf5"], "hdf5:PATH"),
            (["run", "-s", "single", "--global-batch", "8", "--dataset", "hdf5:no such.h5"], "'no such.h5'"),
            (["run", "-s", "single", "--global-batch", "8", "--dataset", "syn\nthetic"], "Did you mean"),
            (["run", "-s", "single", "--global-batch", "8", "--dataset", "synthetic:classes=x"], "Received: 'x'"),
            (["run", "-s", "single", "--global-batch", "2", "--dataset", "synthetic:examples=3"], "3 examples"),
            (["run", "-s", "mirrored", "-n", "0", *WORK], "--replicas must be at least 1. Received: 0"),
            (["compare", "-s", "mirrored", "-n", "1,0", *WORK], "--replicas must be at least 1. Received: 0"),
            (["compare", "-s", "mirrored", "-n", "1,2,x", *WORK], "Received: '1,2,x'"),
            (["compare", "-s", "mirrored", "-n", "", *WORK], "whole numbers such as 1,2,4"),
            (["compare", "-s", "mirrored", "-n", "1.5", *WORK], "Received: '1.5'"),
            (["run", "-s", "mirrored", "-n", "1,2", *WORK], "'1,2' is not a valid integer"),
            (["run", "-s", "single", "-n", "2", *WORK], "at most 1 replica"),
            (["run", "-s", "mirrored", "-n", "3", *WORK], "Received: 32 for 3 replicas; 30 or 33 would do"),
            (["run", "-s", "mirrored", "-n", "64", *WORK], "Received: 32 for 64 replicas; 64 would do"),
            (["run", "-s", "single", "--dataset", "synthetic"], "Received: neither"),
            (["run", "-s", "single", "--per-replica-batch", "4", *WORK], "Received: both"),
            (["run", "-s", "single", "--dataset", "synthetic", "--global-batch", "9601"], "9600 training examples"),
            (["run", "-s", "single", "--epochs", "1", "--steps", "2", *WORK], "not both"),
            (["run", "-s", "single", "--bogus", *WORK], "No such option '--bogus'"),
            (["run", "-s", "single", "--dataset", "synthetic", "--global-batch", "many"], "'many'"),
            (["run", "-s", "single", "--dataset", "synthetic", "--global-batch", "0"], "greater than 0. Received: 0"),
            (["run", "-s", "single", "--dataset", "synthetic", "--per-replica-batch", "-1"], "Received: -1"),
            (["run", "-s", "single", "--epochs", "0", *WORK], "--epochs must be greater than 0"),
            (["run", "-s", "single", "--steps", "0", *WORK], "--steps must be greater than 0"),
            (["run", "-s", "single", "--steps", *WORK], "--steps"),
            (["run", "-s", "single", "--optimizer", "rmsprob", *WORK], "Did you mean 'rmsprop'?"),
            (["run", "-s", "single", "--learning-rate", "nan", *WORK], "Received: nan"),
            (["run", "-s", "single", "--lr-scaling", "cubic", *WORK], "'none', 'linear', 'sqrt'"),
            (["run", "-s", "single", "--sharding", "none", *WORK], "'batch', 'static'"),
            (["run", "-s", "single", "--last-batch", "all", *WORK], "'drop', 'keep'"),
            (["run", "-s", "local-sgd:period=0", *WORK], "greater than or equal to 1"),
            (["run", "-s", "horovod:op=sum", *WORK], "'average' or 'adasum'"),
            (["run", "-s", "single", "--warmup-epochs", "-1", *WORK], "0 or more"),
            (["run", "-s", "single", "--reference-batch", "0", *WORK], "--reference-batch must be greater than 0"),
            (["run", "-s", "single", "--cores-per-replica", "0", *WORK], "--cores-per-replica must be greater than 0"),
            (["run", "-s", "single", "--timeout", "0", *WORK], "--timeout must be greater than 0"),
            (["run", "-s", "single", "--timeout", "inf", *WORK], "--timeout must be greater than 0"),
            (["run", "-s", "single", "--seed", "-1", *WORK], "--seed must be from 0"),
            (["compare", "-s", "single", "--repeats", "0", *WORK], "--repeats must be greater than 0"),
            (["run", "-s", "single", "--split", "nonsense", *WORK], "such as 60/20/20. Received: 'nonsense'"),
            (["run", "-s", "single", "--split", "60/20", *WORK], "60/20'"),
            (["run", "-s", "single", "--split", "50/50/50", *WORK], "sum to 100"),
            (["run", "-s", "single", "--split", "100/0/0", *WORK], "positive"),
            (["run", "-s", "ps", "-n", "2", "--inject", "kil:worker=1,step=5", *WORK], "Did you mean 'kill'?"),
            (
                ["run", "-s", "ps", "-n", "2", "--inject", "kill:worker=1", *WORK],
                "Received: 'kill:worker=1'",
            ),
            (["run", "-s", "ps", "-n", "2", "--inject", "kill:worker=7,step=5", *WORK], "ps-0, worker-0, worker-1"),
            (["list"], "strategies, models, datasets"),
            (["list", "cows"], "'cows'"),
            (["list", "strategies", "horovd"], "Did you mean 'horovod'?"),
            (["list", "models", "cn"], "Did you mean 'cnn'?"),
            (["list", "datasets", "hdf"], "Did you mean 'hdf5'?"),
            (["show"], "PATH"),
            (["show", "nowhere"], "Received: nowhere"),
            (["show", "."], "results.h5"),
        ],
        ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
    )
    def test_are_one_line_and_exit_code_2(self, arguments: list[str], message: str, refused: Any) -> None:
        assert message in refused(*arguments)

    def test_nothing_is_left_behind(self, refused: Any, tmp_path: Path) -> None:
        refused("run", "-s", "sngle", *WORK)
        refused("run", "-s", "single", "--model", "cn", *WORK)
        refused("run", "-s", "single", "--dataset", "synthetic:classes=1", "--global-batch", "8")
        refused("compare", "-s", "single", "--dataset", "hdf5:none.h5", "--global-batch", "8", "--output", "a/b")
        refused("compare", "-s", "single", "--model", "mlp:units=1", *WORK)
        refused("compare", "-s", "single", "--dataset", "synthetic:shape=4", "--model", "cnn", "--global-batch", "8")
        assert list(tmp_path.iterdir()) == []

    def test_in_a_process_of_its_own_too(self) -> None:
        run = shell("run", "-s", "single", "--split", "60/20", *WORK)
        assert (run.returncode, run.stdout) == (2, "")
        assert len(run.stderr.splitlines()) == 1 and "60/20/20" in run.stderr


class TestLastBatch:
    KEEP = ("-n", "2", "--last-batch", "keep", *WORK)

    @pytest.mark.parametrize("strategy", ["master-worker", "allgather"])
    def test_is_kept_where_shards_are_weighed_by_examples(self, strategy: str, planned: list[RunSpec]) -> None:
        assert call("run", "-s", strategy, *self.KEEP) == 0
        assert planned[0].last_batch == "keep"
        assert planned[0].skip() == planned[0].create_strategy().skip(2)

    def test_is_skipped_elsewhere_with_what_would_do(self, planned: list[RunSpec]) -> None:
        assert call("run", "-s", "mirrored", *self.KEEP) == 0
        reason = planned[0].skip() or ""
        assert "use --last-batch drop" in reason and "allgather" in reason and "\n" not in reason

    def test_is_dropped_unless_told(self, planned: list[RunSpec]) -> None:
        assert call("run", "-s", "mirrored", "-n", "2", *WORK) == 0
        assert (planned[0].last_batch, planned[0].skip()) == ("drop", planned[0].create_strategy().skip(2))


class TestOutputFolder:
    @pytest.mark.parametrize("command", ["run", "compare"])
    @pytest.mark.parametrize("folder", ["file", "file/inside", "/proc/nowhere/x"])
    def test_that_cannot_be_written_is_refused(self, command: str, folder: str, refused: Any) -> None:
        Path("file").touch()
        assert folder in refused(command, "-s", "single", "--steps", "1", "--output", folder, *WORK)

    def results(self, folder: str, **attributes: int) -> Path:
        path = Path(folder) / "results.h5"
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
        return path

    def assert_refused(self, refused: Any, path: Path, message: str) -> None:
        before = path.read_bytes()
        for command in ("run", "compare"):
            error = refused(command, "-s", "single", "--steps", "1", "--output", str(path.parent), *WORK)
            assert message in error
        assert message in refused("show", str(path))
        assert message in refused("show", str(path.parent), "--json")
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_of_no_hdf5_is_refused_and_untouched(self, refused: Any) -> None:
        path = Path("here/results.h5")
        path.parent.mkdir()
        path.write_text("strategy,replicas\n")
        self.assert_refused(refused, path, "must be whole HDF5")

    def test_of_somebody_elses_hdf5_is_refused_and_untouched(self, refused: Any) -> None:
        self.assert_refused(refused, self.results("here"), "must be written by stratbench")

    def test_of_a_newer_stratbench_is_refused_and_untouched(self, refused: Any) -> None:
        newer = schema.SCHEMA_VERSION + 1
        path = self.results("here", schema_version=newer)
        self.assert_refused(refused, path, f"has schema {newer}; this stratbench reads up to {schema.SCHEMA_VERSION}")

    def test_in_use_is_refused(self, refused: Any) -> None:
        with Store("here"):
            error = refused("compare", "-s", "single", "--steps", "1", "--output", "here", *WORK)
        assert f"in use by process {os.getpid()}" in error


class TestPlans:
    def test_sizes_by_commas_and_by_repeated_flags_are_the_same(self, planned: list[RunSpec]) -> None:
        for sizes in (["-n", "1,2"], ["-n", "1", "-n", "2"], ["-n", "1", "-n", "1, 2", "-n2"]):
            assert call("compare", "-s", "mirrored", *sizes, *WORK) == 0
            assert [spec.replicas for spec in planned] == [1, 2], sizes
            planned.clear()

    def test_run_inside_a_job_of_another_launcher_is_explained(
        self, refused: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
        assert "use run" in refused("compare", "-s", "horovod", *WORK)
        error = refused("run", "-s", "ps", *WORK)
        assert "horovod" in error and "Received: ps" in error
        assert "the job's size, 2" in refused("run", "-s", "horovod", "-n", "4", *WORK)


class TestList:
    @pytest.mark.parametrize(
        ("kind", "names"),
        [
            ("strategies", {"single", "mirrored", "multiworker", "ps", "horovod"}),
            ("models", {"cnn", "mlp", "mlp-wide", "package.module:function"}),
            ("datasets", {"mnist", "mnist-12k", "npz", "synthetic", "hdf5"}),
        ],
    )
    def test_for_people_and_programs(self, kind: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert call("list", kind) == 0
        text = capsys.readouterr().out
        assert call("list", kind, "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        assert names <= {row["name"] for row in rows}
        assert all(row["name"] in text and row["summary"] for row in rows)

    @pytest.mark.parametrize(
        ("kind", "name", "option"),
        [
            ("strategies", "ps", "sync"),
            ("strategies", "single", "mode"),
            ("datasets", "hdf5", "classes"),
            ("models", "mlp", None),
            ("models", "package.module:function", None),
        ],
    )
    def test_one_with_its_options(
        self, kind: str, name: str, option: str | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call("list", kind, name) == 0
        text = capsys.readouterr().out
        assert call("list", kind, name, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["name"] == name and name in text
        if option:
            assert option in {entry["name"] for entry in found["options"]} and option in text
        else:
            assert found["options"] == []

    def test_a_name_with_brackets_is_no_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("list", "models", "a:[/b]") == 0
        assert "a:[/b]" in capsys.readouterr().out

    def test_a_terminal_that_knows_ascii_only_is_no_error(self) -> None:
        run = shell("list", "models", env=os.environ | {"PYTHONIOENCODING": "ascii"})
        assert (run.returncode, run.stderr) == (0, "")

    def test_a_reader_that_has_seen_enough_is_no_error(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "stratbench.harness.cli", "list", "strategies", "ps"]
        run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (run.returncode, run.stderr) == (0, "")


class TestStreams:
    def test_a_full_disk_is_one_line(self) -> None:
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "stratbench.harness.cli", "list", "strategies"]
            run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert run.returncode == 1
        assert run.stderr == "stratbench: standard output must be writable. Received: No space left on device.\n"

    def test_closed_ones_are_no_error(self) -> None:
        command = f"{sys.executable} -m stratbench.harness.cli list models"
        assert subprocess.run(["sh", "-c", f"{command} >&- 2>&- <&-"]).returncode == 0
        run = subprocess.run(["sh", "-c", f"{command}x 2>&-"], stdout=subprocess.PIPE)
        assert (run.returncode, run.stdout) == (2, b"")

    @pytest.mark.parametrize("columns", ["²", "-1", "0", "9" * 30, "x", ""])
    def test_an_odd_size_of_the_terminal_is_no_error(self, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        assert call("list", "strategies") == 0

    def test_what_would_steer_the_terminal_is_shown_as_text(self, refused: Any) -> None:
        assert "\\x1b[2Jx" in refused("run", "-s", "\x1b[2Jx", *WORK)

    def test_an_exception_that_nobody_foresaw_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError("by\nzero")

        monkeypatch.setattr(grid, "Grid", fail)
        assert call("run", "-s", "single", *WORK) == 1
        error = capsys.readouterr().err
        assert error.startswith("stratbench: ZeroDivisionError: by zero. ") and len(error.splitlines()) == 1
        assert "STRATBENCH_TRACEBACK" in error
        monkeypatch.setenv("STRATBENCH_TRACEBACK", "1")
        assert call("run", "-s", "single", *WORK) == 1
        assert "Traceback" in capsys.readouterr().err


class TestDoctor:
    @pytest.mark.parametrize(("frameworks", "code"), [("2.21.0", 0), (None, 1)])
    def test_exit_code_tells_whether_anything_can_run(
        self, frameworks: str | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = doctor.Frameworks(frameworks, "3", (), None if frameworks else "no TensorFlow; run: something")
        monkeypatch.setattr(doctor, "probe_frameworks", lambda: found)
        assert call("doctor", "--json") == code
        assert json.loads(capsys.readouterr().out)["ok"] is (code == 0)

    @pytest.mark.slow
    def test_for_programs(self) -> None:
        run = shell("doctor", "--json")
        assert run.returncode == 0, run.stderr
        report = json.loads(run.stdout)
        assert report["ok"] is True
        assert report["frameworks"]["tensorflow"].startswith("2.")
        assert {"single", "ps"} <= {entry["name"] for entry in report["strategies"]}
