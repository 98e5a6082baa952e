"""``stratbench allreduce``: its flags, its figures, its tables, and real processes that reduce, fail and are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from conftest import STARTER
from stratbench.errors import ResultsError, RunError
from stratbench.harness.launch.reducing import reduce_one
from stratbench.harness.plan import reduction
from stratbench.harness.plan.reduction import ReductionSpec, case
from stratbench.harness.worker.reducing import measure
from stratbench.results import schema
from stratbench.results.reductions import columns
from stratbench.results.reductions.measure import figures, line
from stratbench.results.reductions.tables import NAME, ReductionStore, load
from stratbench.results.reductions.words import seconds_words, size_words
from stratbench.strategies.transport import Transport


def spec(strategy: str = "allreduce", sizes: tuple[int, ...] = (1024, 65536), **changes: Any) -> ReductionSpec:
    settings: dict[str, Any] = {
        "strategy": strategy,
        "replicas": 2,
        "cases": tuple(case("vector", ((size // 4,),), 20) for size in sizes),
        "cores_per_replica": 1,
        "timeout": 60.0,
    }
    return ReductionSpec(**settings | changes)


def reduced(one: ReductionSpec, folder: Path, listen: Any = None) -> dict[str, list[dict[str, Any]]]:
    ignore = lambda label, event: None  # noqa: E731
    return reduce_one(one, folder, threading.Event(), listen or ignore, STARTER)


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs ``stratbench ARGUMENTS`` in this process. → exit code, output, errors"""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = call(*arguments)
        return code, *capsys.readouterr()

    return run


class TestFigures:
    def test_a_reduction_takes_as_long_as_the_slowest_process(self) -> None:
        slow = {"seconds": [4.0, 1.0, 2.0], "moved_bytes": 30.0, "rounds": 2.0}
        fast = {"seconds": [1.0, 2.0, 1.0], "moved_bytes": 12.0, "rounds": 3.0}
        found = figures(600, [slow, fast], 3, sums=True)
        assert found["seconds_median"] == 2.0
        assert found["seconds_min"] == 2.0
        assert found["algbw_bytes_per_second"] == 300
        assert found["busbw_bytes_per_second"] == 400
        assert found["moved_bytes_measured"] == 42
        assert found["rounds_measured"] == 3

    def test_what_no_process_can_count_is_missing(self) -> None:
        found = figures(600, [{"seconds": [1.0], "moved_bytes": None, "rounds": None}], 1, sums=False)
        assert all(np.isnan(found[name]) for name in ("moved_bytes_measured", "rounds_measured"))
        assert np.isnan(found["busbw_bytes_per_second"])

    def test_a_line_is_found(self) -> None:
        sizes = [2**power for power in range(10, 28, 2)]
        found = line(sizes, [1e-4 + 2e-9 * size for size in sizes])
        assert found["alpha_seconds"] == pytest.approx(1e-4)
        assert found["beta_seconds_per_byte"] == pytest.approx(2e-9)
        assert found["fit_error"] == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("seconds", [[1.0, 100.0], [100.0, 1.0]])
    def test_neither_part_of_the_line_is_negative(self, seconds: list[float]) -> None:
        found = line([10, 20], seconds)
        assert min(found["alpha_seconds"], found["beta_seconds_per_byte"]) == 0

    def test_one_size_is_no_line(self) -> None:
        assert line([10], [1.0]) == {}

    def test_large_vectors_are_reduced_less_often(self) -> None:
        assert case("vector", ((256,),), 100).iterations == 100
        assert case("vector", ((2**26,),), 100).iterations == reduction.FEWEST

    def test_words(self) -> None:
        assert [size_words(size) for size in (4, 1024, 3 * 2**19, 2**31)] == ["4 B", "1 KiB", "1.5 MiB", "2 GiB"]
        assert [seconds_words(each) for each in (2.5, 0.0125, 3e-6)] == ["2.5 s", "12.5 ms", "3 µs"]


class TestFlags:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["-n", "1"], "--replicas must be from 2"),
            (["--min-size", "3"], "a size must be a multiple of 4 bytes"),
            (["--min-size", "1MiB", "--max-size", "1KiB"], "--max-size must be no less"),
            (["--max-size", "1TiB"], "a size must be"),
            (["-s", "nosuch"], "strategy must be one of"),
            (["-s", "allreduce:algorithm=star"], "algorithm"),
            (["--model", "nosuch:model"], "nosuch"),
            (["--factor", "1"], "1"),
        ],
    )
    def test_wrong_ones_are_one_line(self, arguments: list[str], said: str, tmp_path: Path, invoke: Invoke) -> None:
        code, out, err = invoke("allreduce", *arguments, "--output", str(tmp_path / "out"))
        assert code == 2
        assert said in err
        assert len(err.strip().splitlines()) == 1
        assert not out

    def test_a_damaged_file_is_not_replaced(self, tmp_path: Path, invoke: Invoke) -> None:
        (tmp_path / NAME).write_text("mine")
        code, _, err = invoke("allreduce", "-s", "allreduce", "--output", str(tmp_path))
        assert code == 2
        assert "damaged or not stratbench's" in err
        assert (tmp_path / NAME).read_text() == "mine"


def test_the_page_has_every_column() -> None:
    page = Path(__file__).parents[1] / "docs" / "results.md"
    assert schema.markdown(columns.TABLES) in page.read_text(), "put the output of results.reductions.columns there"


class TestSkips:
    def test_a_strategy_without_an_all_reduce_of_its_own(self) -> None:
        assert "has no all-reduce that can be measured" in str(spec("fsdp").skip())

    @pytest.mark.parametrize(
        ("strategy", "options"),
        [
            ("horovod", {"elastic": True}),
            ("ps", {"mode": "downpour"}),
            ("ps", {"lock": True}),
            ("ps", {"mode": "sync", "backup": 1}),
        ],
    )
    def test_options_that_do_not_sum(self, strategy: str, options: dict[str, Any]) -> None:
        assert "sums over all processes" in str(spec(strategy, options=options).skip())

    def test_a_row_says_why(self, tmp_path: Path) -> None:
        rows = reduced(spec("gossip"), tmp_path)
        assert rows["transports"][0]["status"] == "skipped"
        assert "has no all-reduce" in rows["transports"][0]["reason"]
        assert rows["reductions"] == rows["samples"] == []


@pytest.mark.slow
def test_a_command_whose_transports_are_all_skipped_fails(tmp_path: Path, invoke: Invoke, no_strays: None) -> None:
    code, out, _ = invoke("allreduce", "-s", "fsdp", "--max-size", "1KiB", "--output", str(tmp_path))
    assert code == 1
    assert "fsdp skipped: fsdp has no all-reduce" in out
    assert "t = α" not in out


class Wrong(Transport):
    rank = 0

    def prepare(self, tensors: Any) -> Any:
        return lambda: [each * 2 for each in tensors]


def test_a_wrong_sum_is_no_figure() -> None:
    with pytest.raises(RunError, match=r"must give the sum of all processes' values\. Received: 2\.0 for 6"):
        measure(Wrong(), case("vector", ((8,),), 5), spec(replicas=3))


class TestTables:
    def test_rows_are_added_and_read_again(self, tmp_path: Path) -> None:
        row = {"run_id": "a", "status": "ok", "transport": "ps", "replicas": 2}
        for run_id in "ab":
            with ReductionStore(tmp_path) as store:
                store.add({"transports": [row | {"run_id": run_id}], "reductions": [], "samples": []})
        found = load(tmp_path)
        assert list(found.transports["run_id"]) == ["a", "b"]
        assert found.transports["alpha_seconds"].isna().all()
        assert (tmp_path / "allreduce-transports.csv").read_text().count("\n") == 3

    def test_two_commands_do_not_write_at_once(self, tmp_path: Path) -> None:
        with ReductionStore(tmp_path), pytest.raises(ResultsError):
            ReductionStore(tmp_path)


@pytest.mark.slow
def test_bytes_and_rounds_are_those_of_the_formula(tmp_path: Path, invoke: Invoke, no_strays: None) -> None:
    code, out, err = invoke(
        *("allreduce", "-s", "allreduce:algorithm=tree", "-s", "allreduce:algorithm=shared-memory", "-n", "3"),
        *("--max-size", "64KiB", "--factor", "8", "--model", "mlp", "--output", str(tmp_path)),
    )
    assert code == 0, err
    assert "all-reduce among 3 replicas" in out
    assert "mlp" in out
    tables = load(tmp_path)
    assert list(tables.transports["status"]) == ["ok"] * 3
    sums = tables.reductions[tables.reductions["rounds_expected"].notna()]
    assert len(sums) == 2 * 4
    np.testing.assert_allclose(sums["moved_bytes_measured"], sums["moved_bytes_expected"], rtol=0.03)
    np.testing.assert_array_equal(sums["rounds_measured"], sums["rounds_expected"])
    assert set(tables.samples["rank"]) == {0, 1, 2}
    code, shown, err = invoke("show", str(tmp_path))
    assert code == 0, err
    assert "all-reduce among 3 replicas" in shown


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["horovod", "multiworker", "ps"])
def test_libraries_sum(strategy: str, request: pytest.FixtureRequest, tmp_path: Path, no_strays: None) -> None:
    if strategy == "horovod":
        request.getfixturevalue("horovod")
    several = case("model", ((3, 5), (7,)), 5)
    one = spec(strategy, cases=(*spec(sizes=(4, 2**20)).cases, several))
    rows = reduced(one, tmp_path)
    assert rows["transports"][0]["status"] == "ok", rows["transports"][0]["reason"]
    assert [row["size_bytes"] for row in rows["reductions"]] == [4, 2**20, 88]
    large = rows["reductions"][1]
    assert large["moved_bytes_measured"] == pytest.approx(large["moved_bytes_expected"], rel=0.05)


@pytest.mark.slow
def test_the_devices_of_one_process_sum(tmp_path: Path, no_strays: None) -> None:
    several = case("model", ((3, 5), (7,)), 5)
    rows = reduced(spec("mirrored", replicas=3, cases=(*spec(sizes=(4, 2**20)).cases, several)), tmp_path)
    assert rows["transports"][0]["status"] == "ok", rows["transports"][0]["reason"]
    assert [row["size_bytes"] for row in rows["reductions"]] == [4, 2**20, 88]
    assert {row["rank"] for row in rows["samples"]} == {0}
    large = rows["reductions"][1]
    assert large["busbw_bytes_per_second"] == pytest.approx(large["algbw_bytes_per_second"] * 4 / 3)
    assert large["moved_bytes_expected"] == large["moved_bytes_measured"] == 0


@pytest.mark.slow
def test_what_was_measured_before_a_death_is_kept(tmp_path: Path, no_strays: None) -> None:
    def kill(label: str, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            pids[label] = event["pid"]
        if event["event"] == "reduced":
            told.add(label)
        # What both have told is measured.
        if told == {"worker-0", "worker-1"} and "worker-1" in pids:
            os.kill(pids.pop("worker-1"), signal.SIGKILL)

    pids, told = dict[str, int](), set[str]()
    begin = time.monotonic()
    cases = tuple(case("vector", ((256,),), 10_000) for _ in range(50))
    rows = reduced(spec(cases=cases), tmp_path, kill)
    assert time.monotonic() - begin < 60
    assert rows["transports"][0]["status"] == "failed"
    assert "worker-1 was killed by SIGKILL" in rows["transports"][0]["reason"]
    assert 1 <= len(rows["reductions"]) < 50
