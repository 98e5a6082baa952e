"""The doctor's report, put together from fake pieces: no TensorFlow is loaded here."""

import io
import json

import pytest
from rich.console import Console
from stratbench.harness.cli import doctor
from stratbench.harness.cli.doctor import Frameworks, Report, StrategyCheck
from stratbench.strategies.base import Strategy
from stratbench.strategies.collectives._build import HorovodStatus

MACHINE = {
    "cpu_model": "A CPU",
    "cores_available": 4,
    "memory_bytes": 8 * 2**30,
    "gpus": "",
    "python": "3.11.7",
    "stratbench": "0.1.0",
}
FRAMEWORKS = Frameworks("2.21.0", "3.15.1", ({"name": "/physical_device:CPU:0", "type": "CPU"},))
MISSING = HorovodStatus(False, problem="Horovod is not installed; run: stratbench install-horovod")
BUILT = HorovodStatus(True, "0.28.1+tf2.21.0", "2.21.0", ("gloo", "mpi"), nccl=True)


def report(frameworks=FRAMEWORKS, horovod=BUILT, gpus="", strategies=()):
    return Report({**MACHINE, "gpus": gpus}, frameworks, horovod, tuple(strategies))


def printed(found):
    stream = io.StringIO()
    doctor.render(found, Console(file=stream, width=140))
    return stream.getvalue()


class Fake(Strategy):
    name = "fake"
    summary = "asked, not run"
    max_replicas = 3

    def skip(self, replicas):
        return "two is one too many; run: something" if replicas == 2 else None

    def tasks(self, replicas, place):
        raise NotImplementedError

    def trainer(self, task, workload):
        raise NotImplementedError


class Single(Fake):
    max_replicas = 1


class Broken(Fake):
    def skip(self, replicas):
        raise KeyError("oops")


class TestReport:
    def test_all_there(self):
        found = report()
        assert found.ok and found.problems == []
        assert "0.28.1+tf2.21.0, built for TensorFlow 2.21.0 with gloo, mpi, nccl" in printed(found)

    def test_horovod_missing_is_told_and_still_ok(self):
        found = report(horovod=MISSING)
        assert found.ok and found.problems == [MISSING.problem]
        assert "stratbench install-horovod" in printed(found)

    def test_without_tensorflow_nothing_is_ok(self):
        found = report(frameworks=Frameworks(problem="no TensorFlow; run: pip install it"))
        assert not found.ok
        assert "pip install it" in printed(found) and "Nothing can be trained here" in printed(found)

    def test_gpus_that_tensorflow_does_not_see(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        found = report(gpus="NVIDIA A100")
        assert found.ok and "run: pip install 'tensorflow[and-cuda]'" in found.problems[0]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert report(gpus="NVIDIA A100").problems == []

    def test_as_json(self):
        found = report(horovod=MISSING, strategies=[StrategyCheck("fake", {1: None, 2: "why"})])
        data = json.loads(json.dumps(found.to_dict()))
        assert data["ok"] is True and data["problems"] == [MISSING.problem]
        assert data["machine"]["cores_available"] == 4
        assert data["frameworks"]["devices"][0]["type"] == "CPU"
        assert data["horovod"]["installed"] is False
        assert data["strategies"] == [{"name": "fake", "reasons": {"1": None, "2": "why"}}]

    def test_the_table_tells_who_runs_and_why_not(self):
        checks = [
            StrategyCheck("all", {1: None, 2: None}),
            StrategyCheck("none", {1: "why [x]", 2: "why [x]"}),
        ]
        lines = printed(report(strategies=checks)).splitlines()
        assert [line.split() for line in lines if line.startswith(("all", "none"))] == [
            ["all", "yes", "yes"],
            ["none", "no", "no", "why", "[x]"],
        ]


class TestStrategies:
    @pytest.mark.parametrize(
        "cls, reasons",
        [
            (Fake, {1: None, 2: "two is one too many; run: something"}),
            (Single, {1: None, 2: "it has at most 1 replica"}),
            (Broken, {1: "KeyError when asked: 'oops'", 2: "KeyError when asked: 'oops'"}),
        ],
    )
    def test_each_is_asked(self, cls, reasons):
        assert doctor.check_strategy("fake", cls) == StrategyCheck("fake", reasons)

    def test_examine_asks_all_and_none_without_tensorflow(self, monkeypatch):
        monkeypatch.setattr(doctor, "available", lambda: {"fake": Fake})
        monkeypatch.setattr(doctor, "status", lambda: BUILT)
        monkeypatch.setattr(doctor, "probe_frameworks", lambda: FRAMEWORKS)
        assert doctor.examine().strategies[0].reasons[1] is None
        monkeypatch.setattr(doctor, "probe_frameworks", lambda: Frameworks(problem="gone"))
        assert doctor.examine().strategies[0].reasons == dict.fromkeys((1, 2), "TensorFlow can't be imported")


class TestProbe:
    def test_takes_the_last_line(self):
        answer = {"tensorflow": "2", "keras": "3", "devices": [{"name": "c", "type": "CPU"}]}
        found = doctor.probe_frameworks(f"print('noise'); print({json.dumps(answer)!r})")
        assert found == Frameworks("2", "3", ({"name": "c", "type": "CPU"},))

    @pytest.mark.parametrize(
        "program, problem",
        [
            ("import no_such_package", "run: pip install 'tensorflow>=2.21' 'keras>=3.15'"),
            ("raise RuntimeError('cpu has no AVX')", "fails: RuntimeError: cpu has no AVX; run: "),
            ("import os; os._exit(132)", "fails: exit code 132; run: "),
        ],
    )
    def test_a_failed_import_is_told_with_a_command(self, program, problem):
        assert problem in (doctor.probe_frameworks(program).problem or "")

    def test_a_hanging_import_is_ended(self):
        found = doctor.probe_frameworks("import time; time.sleep(60)", timeout=0.5)
        assert (found.problem or "").startswith("importing TensorFlow took more than 0.5 s; run: ")
