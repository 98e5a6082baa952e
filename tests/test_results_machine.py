"""What the machine did beside a run: made-up readings, and one real run beside a busy loop."""

import json
import math
import os
import subprocess
import sys
import time

import psutil
import pytest
from stratbench.harness.launch import beside as beside_module
from stratbench.harness.launch.beside import Beside
from stratbench.results import schema
from stratbench.results.raw import cgroups, machine
from stratbench.strategies.base import Task
from test_results_record import make_log, make_record

STAT = """\
cpu  300 20 100 5000 10 5 6 70 0 0
cpu0 100 10 50 2500 5 3 3 20 0 0
cpu1 200 10 50 2500 5 2 3 50 9 0
intr 5727
cpufreq 1
"""


def reading(at, own=0.0, throttled=0.0, **cores):
    """Keywords as c0=(busy, stolen)."""
    return machine.Reading(at, {int(name[1:]): machine.Core(*core) for name, core in cores.items()}, own, throttled)


def shares(begin, end, *logs, load=1.0):
    return machine.run(machine.Beside(load, begin, end), logs or [make_log(0)])


def test_cores_of_proc_stat():
    assert machine.parse_stat(STAT, 100) == {0: machine.Core(1.6, 0.2), 1: machine.Core(2.6, 0.5)}
    assert machine.parse_stat(STAT, 1000)[1] == machine.Core(0.26, 0.05)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("usage_usec 5\nnr_periods 9\nnr_throttled 3\nthrottled_usec 2500000\n", 2.5),
        ("nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000\n", 2.5),
        ("usage_usec 5\nuser_usec 3\n", None),
        ("", None),
    ],
)
def test_throttling_of_a_cgroup(text, seconds):
    assert machine.parse_cpu_stat(text) == seconds


def use_cgroup(folder, monkeypatch, cgroup, files):
    """A process's control group, and the files of it and of those above it."""
    (folder / "own").write_text(cgroup)
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(cgroups, "_OWN", folder / "own")
    monkeypatch.setattr(cgroups, "_ROOT", folder / "fs")


@pytest.mark.parametrize(
    "cgroup, files, seconds",
    [
        ("0::/\n", {"cpu.stat": "throttled_usec 1000000"}, 1.0),
        ("0::/a/b\n", {"a/b/cpu.stat": "throttled_usec 1000000", "a/cpu.stat": "throttled_usec 500000"}, 1.5),
        ("3:cpuset:/x\n2:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.stat": "throttled_time 2000000000"}, 2.0),
        # A container's own view of version 1: its path is the host's, its mount is its own.
        ("1:cpu:/docker/f00\n", {"cpu/cpu.stat": "throttled_time 3000000000"}, 3.0),
        ("0::/\n", {"cpu.stat": "usage_usec 1"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_throttling_is_found_where_the_cgroup_is(tmp_path, monkeypatch, cgroup, files, seconds):
    use_cgroup(tmp_path, monkeypatch, cgroup, files)
    found = machine.read()
    assert found is None or found.throttled == seconds


@pytest.mark.parametrize(
    ("cgroup", "files", "cores", "memory"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000", "job/memory.max": "max", "cpu.max": "max 100000"}, 1.5, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/memory.max": "4096"}, 0.5, 4096),
        (
            "2:cpu,cpuacct:/x\n3:memory:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": "1000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            3.0,
            1000,
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, None, None),
        ("0::/\n", {}, None, None),
    ],
)
def test_a_container_s_limits(tmp_path, monkeypatch, cgroup, files, cores, memory):
    use_cgroup(tmp_path, monkeypatch, cgroup, files)
    assert (cgroups.cpu_limit_cores(), cgroups.memory_limit_bytes()) == (cores, memory)
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "none")
    assert (cgroups.cpu_limit_cores(), cgroups.memory_limit_bytes()) == (None, None)


def test_a_system_without_proc_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_STAT", tmp_path / "stat")
    assert machine.read() is None
    run = make_record(beside=machine.Beside(None)).run
    assert all(math.isnan(run[name]) for name in ("load_before", "other_cpu_share", "steal_share", "throttled_share"))
    assert run["disturbed"] == ""


def test_what_is_busy_beside_the_run_was_used_by_others():
    begin = reading(10.0, own=5.0, c0=(100.0, 1.0), c1=(50.0, 0.0))
    end = reading(20.0, own=12.0, throttled=0.2, c0=(109.0, 1.1), c1=(60.0, 9.0))
    row = shares(begin, end)
    assert row["other_cpu_share"] == pytest.approx(0.2) and row["steal_share"] == pytest.approx(0.01)
    assert row["throttled_share"] == pytest.approx(0.02) and row["load_before"] == 1.0
    # The other core, which its one task isn't bound to, was busy all the time and half stolen.
    assert row["disturbed"] == "other programs used 20% of its cores"
    both = shares(begin, end, make_log(0), make_log(1))
    assert both["other_cpu_share"] == pytest.approx(0.6) and both["steal_share"] == pytest.approx(0.9)
    assert both["disturbed"] == "other programs used 60% of its cores; the hypervisor took 90% of a core"


def test_a_run_that_used_its_cores_alone_is_not_disturbed():
    # Ticks are samples: a little more own time than busy time is none of others'.
    row = shares(reading(0.0, c0=(0, 0)), reading(10.0, own=10.3, c0=(10.0, 0)), load=40.0)
    assert (row["other_cpu_share"], row["disturbed"]) == (0.0, "")


@pytest.mark.parametrize(
    "begin, end",
    [
        (None, None),
        (reading(0.0, c0=(0, 0)), None),
        (reading(0.0, c0=(0, 0)), reading(0.4, c0=(0.4, 0))),
        (reading(0.0, c7=(0, 0)), reading(9.0, c7=(9.0, 0))),
    ],
    ids=["never trained", "not read again", "too short", "other cores"],
)
def test_what_is_not_known_is_missing_and_disturbs_nothing(begin, end):
    row = shares(begin, end)
    assert math.isnan(row["other_cpu_share"]) and math.isnan(row["steal_share"]) and row["disturbed"] == ""


def test_a_limit_that_can_not_be_read_is_missing_alone():
    row = shares(reading(0.0, throttled=None, c0=(0, 0)), reading(9.0, throttled=None, c0=(9.0, 0)))
    assert math.isnan(row["throttled_share"]) and row["other_cpu_share"] == 1.0


@pytest.mark.parametrize(
    "other, replicas, marked",
    [(0.09, 1, False), (0.11, 1, True), (0.09, 3, False), (0.05, 8, True), (0.03, 8, False), (0.029, 100, False)],
)
def test_with_many_replicas_less_is_enough_as_all_wait_for_the_slowest(other, replicas, marked):
    assert (
        bool(machine.disturbed({"other_cpu_share": other, "steal_share": 0, "throttled_share": 0}, replicas)) is marked
    )


def test_the_container_s_limit_is_told():
    row = shares(reading(0.0, c0=(0, 0)), reading(10.0, own=6.0, throttled=4.0, c0=(6.0, 0)))
    assert row["disturbed"] == "its container's CPU limit throttled it for 40% of the time"


def test_context_switches_of_the_tasks_and_of_the_run():
    logs = [make_log(0), make_log(1)]
    for log, count in zip(logs, (50, 200), strict=True):
        log.trained = {"time": log.ready["time"] + 10, "involuntary_switches": count}
    built = make_record(logs=logs)
    assert [row["involuntary_switches"] for row in built.tasks] == [50, 200]
    assert built.run["involuntary_switches_per_second"] == 20
    assert math.isnan(make_record().run["involuntary_switches_per_second"])


def burn(seconds):
    return subprocess.Popen([sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass"])


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_own_time_is_that_of_the_run_s_processes_dead_or_alive():
    stranger = burn(60)
    family = [stranger]
    try:
        strangers = machine.children()
        assert stranger.pid in {process.pid for process in strangers}
        begin = machine.read(strangers)
        burn(0.3).wait()
        family.append(burn("0.3: pass\nwhile True: time.sleep(9) #"))
        wait_until(lambda: sum(psutil.Process(family[1].pid).cpu_times()[:2]) >= 0.27)
        wait_until(lambda: sum(psutil.Process(stranger.pid).cpu_times()[:2]) >= 2.5)
        end = machine.read(strangers)
    finally:
        for process in family:
            process.kill()
            process.wait()
    # Of one that has ended and one that lives, with what Python's start takes; the stranger's would be 2 more.
    assert 0.5 <= end.own - begin.own <= 1.9


class Kernel:
    """Readings with a clock that a test sets."""

    def __init__(self):
        self.now = 0.0

    def read(self):
        return reading(self.now, c0=(self.now, 0))


def follow(kernel, *events, tasks=None):
    heard = []
    tasks = tasks or [Task(), Task(index=1)]
    beside = Beside(tasks, lambda label, event: heard.append((label, event["event"])), read=kernel.read)
    for kernel.now, label, name in events:
        beside.listen(label, {"event": name})
    assert heard == [(label, name) for _, label, name in events]
    return beside.finish()


def test_training_lies_between_the_last_ready_and_the_last_trained():
    found = follow(
        Kernel(),
        (1, "worker-0", "start"),
        (2, "worker-0", "ready"),
        (3, "worker-1", "ready"),
        (9, "worker-1", "trained"),
        (10, "worker-0", "trained"),
        (20, "worker-0", "end"),
    )
    assert (found.begin.at, found.end.at) == (3, 10)


def test_a_server_is_not_waited_for():
    tasks = [Task(role="ps", replicas=0), Task()]
    found = follow(Kernel(), (1, "worker-0", "ready"), (5, "worker-0", "trained"), (9, "ps-0", "end"), tasks=tasks)
    assert (found.begin.at, found.end.at) == (1, 5)


@pytest.mark.parametrize("trained", [((1.1, "worker-0", "trained"),), ()], ids=["short", "died"])
def test_the_end_of_the_run_stands_for_that_of_a_short_training(trained):
    found = follow(Kernel(), (1, "worker-0", "ready"), *trained, (4, "worker-0", "failed"), tasks=[Task()])
    assert (found.begin.at, found.end.at) == (1, 4)


def test_a_run_that_was_never_ready_has_no_readings():
    found = follow(Kernel(), (1, "worker-0", "ready"), (2, "worker-1", "failed"))
    assert (found.begin, found.end) == (None, None) and found.load_before >= 0


def test_a_system_without_load_average_is_no_hindrance(monkeypatch):
    monkeypatch.setattr(beside_module.os, "getloadavg", lambda: (_ for _ in ()).throw(OSError()))
    assert follow(Kernel(), (1, "worker-0", "start")).load_before is None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs cores that can be bound to")
def test_a_run_beside_busy_loops_on_its_core_is_marked(tmp_path):
    core = min(os.sched_getaffinity(0))
    loop = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
    # Two, so that its share is plain however busy the machine is otherwise.
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(2)]
    command = [
        "run",
        "-s",
        "single",
        "--model",
        "mlp",
        "--dataset",
        "synthetic:shape=28x28x1,classes=10,examples=12000",
    ]
    command += ["--global-batch", "48", "--epochs", "4", "--cores-per-replica", "1", "--output", str(tmp_path)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "stratbench.harness.cli", *command], capture_output=True, text=True, timeout=300
        )
    finally:
        for process in loops:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/record.json")
    row = schema.row("runs", json.loads(path.read_text())["run"])
    assert row["status"] == "ok" and row["other_cpu_share"] > 0.3
    assert row["disturbed"].startswith("other programs used") and row["load_before"] >= 0
    assert row["involuntary_switches_per_second"] > 0
    assert "ok, busy" in done.stdout and f"single ×1 busy: {row['disturbed']}" in done.stdout
