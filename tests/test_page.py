"""``stratbench report``: the page's figures are those of the comparison, and it opens in a browser without an error."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from result_rows import run
from stratbench.errors import RunError, UsageError
from stratbench.harness.cli.commands import cli
from stratbench.results import schema
from stratbench.results.analysis.comparison import compare, compared
from stratbench.results.page import charts, figures
from stratbench.results.page.page import build
from stratbench.results.showing import verdict
from stratbench.results.tables.reading import Tables

QUANTILES = {f"step_seconds_{name}": 0.01 + 0.001 * i for i, name in enumerate(("p05", "p25", "median", "p75", "p95"))}


def tables(rows: list[dict[str, Any]], steps: int = 30) -> Tables:
    """Tables with these runs, each with steps of rank 0 and two epochs."""
    ok = [row for row in rows if row["status"] == "ok"]
    more: dict[str, list[dict[str, Any]]] = {
        "epochs": [
            {"run_id": row["run_id"], "epoch": epoch, "seconds": 1.5, "validation_metric": 0.5 + epoch / 10}
            for row in ok
            for epoch in range(2)
        ],
        "steps": [
            {"run_id": row["run_id"], "role": "worker", "step": step, "step_seconds": 0.01, "warmup": step < 2}
            for row in ok
            for step in range(steps)
        ],
        "staleness": [
            {"run_id": row["run_id"], "role": "ps", "staleness": each, "updates": 10 - each}
            for row in ok
            if row["staleness_mean"] > 0
            for each in range(3)
        ],
        "metrics": [
            {"run_id": row["run_id"], "epoch": epoch, "step": 30 * (epoch + 1), "seconds": 1.5 * (epoch + 1)}
            | {"split": "validation", "metric": "accuracy", "value": 0.5 + epoch / 10}
            for row in ok
            for epoch in range(2)
        ],
    }
    frames = {
        table: pd.DataFrame(schema.columns(table, [schema.row(table, row) for row in more.get(table, [])]))
        for table in schema.TABLES
        if table != "runs"
    }
    runs = pd.DataFrame(rows) if rows else pd.DataFrame([run("single")]).iloc[:0]
    return Tables(runs=runs, **frames)


def grid(repeats: int = 3, **changes: Any) -> list[dict[str, Any]]:
    figures = {
        "test_metric": 0.9,
        "validation_metric": 0.8,
        "metric": "accuracy",
        **QUANTILES,
        "examples_done": 3840,
        "steps_done": 60,
    }
    moved = {"traffic_bytes_expected": 8e6, "traffic_bytes_measured": 8.1e6}
    stale = {"staleness_mean": 0.5, "staleness_max": 2.0, "test_metric": 0.88}
    return [
        run(name, replicas, rate * (1 + repeat / 100), repeat=repeat) | figures | extra | changes
        for repeat in range(repeats)
        for name, replicas, rate, extra in (
            ("single", 1, 1000, {}),
            ("mirrored", 1, 980, {}),
            ("mirrored", 2, 1700, moved),
            ("ps", 2, 1900, moved | stale),
        )
    ]


def answer(*rows: dict[str, Any]) -> list[str]:
    return verdict.sentences(compared(pd.DataFrame(rows)))


class TestVerdict:
    def test_the_fastest_with_its_interval_its_price_and_what_is_as_good(self) -> None:
        rows = grid()
        for row in rows:
            row["test_metric"] += row["repeat"] * 1e-4
        first, *others = answer(*rows)
        assert first.startswith("ps ×2 trains fastest: 1.90× as fast as single ×1 (1.8")
        assert first.endswith("95% of what so many replicas would give without loss.")
        assert others == [
            "Its test accuracy is 0.8801, against 0.9001 of single ×1: -0.02 (-0.02 to -0.02).",
            "It is asynchronous: its updates are 0.50 others late on average.",
            "Of those that are not shown to be less accurate, mirrored ×2 is the fastest: 1.70×.",
        ]

    def test_one_run_is_no_proof(self) -> None:
        first, *_ = answer(*grid(repeats=1))
        assert first == "ps ×2 had the highest rate, 1.90× as fast as single ×1, in 1 run each; that may be chance."

    def test_when_nothing_pays(self) -> None:
        rows = [
            run(name, n, rate + r, repeat=r) for name, n, rate in (("single", 1, 900), ("ps", 2, 800)) for r in range(3)
        ]
        first, last = answer(*rows)
        assert first == "Nothing that was measured trains faster than single ×1: distributing does not pay here."
        assert last.startswith("A step takes 12.5 ms, and an exchange is paid in each. Larger batches")

    def test_one_that_may_be_faster_is_not_called_no_use(self) -> None:
        rows = [run("single", 1, rate, repeat=r) for r, rate in enumerate((900, 500, 700))]
        rows += [run("ps", 2, rate, repeat=r) for r, rate in enumerate((500, 800, 600))]
        first, second, *_ = answer(*rows)
        assert first == "Nothing that was measured trains faster than single ×1, but that may be chance."
        assert second.startswith("Too close to it to tell them apart: ps ×2")

    def test_of_rows_that_distribute_nothing_it_is_not_said_what_that_pays(self) -> None:
        assert answer(run("single"), run("fit", 1, 90)) == [
            "Nothing that was measured trains faster than single ×1, in 1 run each; that may be chance."
        ]

    def test_a_base_is_found_by_its_options_too(self) -> None:
        """Without ``single``, each row of `ps` is its own base, and both are called ps×2."""
        rows = [run("ps", 2, 100, repeat=r) for r in range(3)]
        rows += [run("ps", 4, 150, repeat=r, options={"sync": True}) for r in range(3)]
        rows += [run("ps", 2, 120, repeat=r, options={"sync": True}) for r in range(3)]
        assert answer(*rows)[0].startswith("ps sync=true ×4 trains fastest: 1.25× as fast as ps sync=true ×2 (1.25")

    def test_when_nothing_is_shown_to_pay(self) -> None:
        rows = [run("single", 1, rate, repeat=r) for r, rate in enumerate((90, 110, 100))]
        rows += [run("ps", 2, rate, repeat=r) for r, rate in enumerate((95, 115, 100))]
        rows += [run("mirrored", 2, rate, repeat=r) for r, rate in enumerate((94, 114, 99))]
        first, second, *_ = answer(*rows)
        assert first.startswith("Nothing is shown to train faster than single ×1: ps ×2 comes next, 1.03× as fast")
        assert second.startswith("Too close to it to tell them apart: mirrored ×2 (0.") and "single" not in second

    def test_a_busy_machine_is_told(self) -> None:
        rows = [row | {"disturbed": "other programs used 30% of its cores"} for row in grid()]
        assert "Something else used the machine during some of these runs: repeat them on a quiet one." in answer(*rows)

    def test_waiting_for_data_is_told(self) -> None:
        rows = [row | {"input_share": 0.5} for row in grid()]
        assert "Waiting for data takes 50% of its step." in answer(*rows)

    @pytest.mark.parametrize(
        "rows, words",
        [
            ([run("ps", status="failed", reason="x")], "No run is ok, so nothing can be said"),
            ([run("single")], "Only single ×1 has a rate"),
            ([run("single", rate=math.nan)], "No run is ok"),
            ([run("ps", 2), run("mirrored", 2, 50)], "ps ×2 had the highest rate, 2.00× as fast as mirrored ×2, in 1"),
        ],
    )
    def test_what_can_not_be_concluded(self, rows: list[dict[str, Any]], words: str) -> None:
        assert answer(*rows)[0].startswith(words)


def before_scripts(page: str) -> str:
    """The page without Vega and the page's own script, which are the same in all pages."""
    return page.partition("</main>")[0]


def rows_of(page: str) -> list[list[str]]:
    """The text of the cells of the page's tables."""
    found = []
    for line in re.findall(r"<tr>(.*?)</tr>", before_scripts(page), re.DOTALL):
        cells = re.findall(r"<t[hd][ >](.*?)</t[hd]>", line, re.DOTALL)
        found.append([html.unescape(" ".join(re.sub(r"<[^>]*>|^[^<>]*>", " ", cell).split())) for cell in cells])
    return found


def test_the_figures_are_those_of_the_comparison() -> None:
    known = grid()
    head, *shown = rows_of(build(tables(known), "here"))
    assert head[:6] == ["strategy", "replicas", "global batch", "examples per second", "speed-up", "efficiency"]
    expected = compare(pd.DataFrame(known)).to_dict("records")
    assert len(shown) == len(expected) == 4
    for cells, row in zip(shown, expected, strict=True):
        rate, *ends = (row[f"examples_per_second{end}"] for end in ("", "_low", "_high"))
        assert cells[3] == f"{rate:,.0f} {ends[0]:,.0f}–{ends[1]:,.0f}"
        if not row["is_base"]:
            assert cells[4] == f"{row['speedup']:.2f} {row['speedup_low']:.2f}–{row['speedup_high']:.2f}"
            assert cells[5] == f"{row['efficiency']:.0%} {row['efficiency_low']:.0%}–{row['efficiency_high']:.0%}"
    page = build(tables(known), "here")
    for row in known:
        assert f"<code>runs/{row['run_id']}</code>: ok, {row['examples_per_second']:,.0f} examples/s" in page


def test_every_picture_has_the_values_of_its_rows() -> None:
    known = tables(grid())
    (made,) = [charts.pictures(rows, known) for rows in [compared(known.runs)]]
    assert list(made) == ["rate", "efficiency", "steps", "time", "quality", "traffic", "staleness"]
    specs = {name: json.dumps(chart.to_dict()) for name, (_, chart) in made.items()}
    for row in compare(known.runs).to_dict("records"):
        assert f'"examples_per_second": {float(format(row["examples_per_second"], ".6g"))}' in specs["rate"]
        assert f'"label": "{row["strategy"]} \\u00d7{row["replicas"]}"' in specs["rate"]
    assert '"measured": 8.1' in specs["traffic"] and '"expected": 8.0' in specs["traffic"]
    assert "NaN" not in "".join(specs.values())


def test_bars_of_where_a_step_goes() -> None:
    shares = {"computing_share": 0.7, "communicating_share": 0.2, "waiting_share": 0.04, "input_share": 0.01}
    known = tables([row | shares for row in grid()])
    rows = compared(known.runs)
    made = charts.pictures(rows, known)
    assert list(made)[2] == "split"
    bars = made["split"][1].to_dict()["data"]["values"]
    assert len(bars) == 5 * len(rows)
    assert {bar["part"]: bar["share"] for bar in bars} == {
        "computing": 0.7,
        "communicating": 0.2,
        "waiting for others": 0.04,
        "waiting for data": 0.01,
        "the rest of the step": 0.05,
    }
    assert "Communicating takes 20% of its step." in answer(*[row | shares for row in grid()])
    build(known, "here")


def test_text_from_results_stays_text() -> None:
    evil = "</script><script>alert('x')</script>"
    known = [row | {"dataset": evil, "options": json.dumps({"a": evil})} for row in grid()]
    known.append(run("ps", 4, status="failed", reason=f"<img src=x onerror=alert(1)> {evil}", dataset=evil))
    page = build(tables(known), evil)
    own = before_scripts(page)
    assert "alert('x')" not in own and "<img" not in own
    assert own.count("<script") == own.count("</script") == own.count('<script type="application/json"') == 7


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "There are no runs, so nothing can be concluded."),
        ([run("ps", status="failed", reason="worker-1: killed")], "ps ×1 failed: worker-1: killed"),
        ([run("single")], "Only single ×1 has a rate, so there is nothing to compare it with."),
        ([row | {"cpu_model": f"CPU {row['replicas']}"} for row in grid()], "on CPU 2, 0 cores"),
    ],
)
def test_poor_results_say_what_can_not_be_concluded(rows: list[dict[str, Any]], words: str) -> None:
    assert words in html.unescape(build(tables(rows), "here"))


def test_many_runs_make_no_large_page() -> None:
    rows = [
        run("ps", 2, 100.0 + repeat, repeat=repeat, seed=seed) | QUANTILES for seed in range(400) for repeat in range(5)
    ]
    page = build(tables(rows, steps=20), "here")
    assert len(page.encode()) < 6_000_000
    assert "Pictures of this workload are left out, as there are many" in page and 0 < page.count("<figure>") < 150


def test_a_long_run_makes_no_large_picture() -> None:
    (row,) = compared(pd.DataFrame([run("single") | QUANTILES]))
    _, chart = charts.pictures([row], tables([run("single")], steps=50_000))["time"]
    assert len(json.dumps(chart.to_dict())) < 40_000


def test_figures_as_files(tmp_path: Path) -> None:
    made = figures.save(tables(grid(repeats=1)), tmp_path / "new" / "folder")
    assert len(made) == 14 and all(path.stat().st_size > 1000 for path in made)
    assert (tmp_path / "new" / "folder" / "1-rate.svg").read_text().startswith("<svg")
    assert (tmp_path / "new" / "folder" / "1-rate.png").read_bytes().startswith(b"\x89PNG")


class TestCommand:
    @pytest.fixture(autouse=True)
    def results(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "out").mkdir()
        monkeypatch.setattr("stratbench.results.load", lambda path: tables(grid(repeats=1)))
        monkeypatch.setattr("stratbench.results.tables.reading.load_runs", lambda path: tables(grid(repeats=1)).runs)

    def test_writes_a_page_beside_the_tables(self) -> None:
        result = CliRunner().invoke(cli, ["report", "out", "--figures", "pictures"], standalone_mode=False)
        assert result.exception is None, result.exception
        assert result.output == f"Report: {Path('out/report.html')}\nPictures: 14 files in pictures\n"
        assert "Which strategy trains fastest?" in Path("out/report.html").read_text()

    def test_json_has_the_answer_and_every_figure(self) -> None:
        result = CliRunner().invoke(cli, ["report", "out", "--json"], standalone_mode=False)
        (workload,) = json.loads(result.output, parse_constant=pytest.fail)
        assert workload["answer"] == answer(*grid(repeats=1)) and workload["notes"]
        for found, row in zip(workload["rows"], compare(pd.DataFrame(grid(repeats=1))).to_dict("records"), strict=True):
            assert found["examples_per_second"] == row["examples_per_second"] and found["speedup_low"] is None
            assert len(found["runs"]) == 1 and found["runs"][0].startswith(f"{row['strategy']}-n{row['replicas']}-")
        assert not Path("out/report.html").exists()

    @pytest.mark.parametrize("flags", [["-o", "missing/page.html"], ["-o", "out"]])
    def test_a_page_that_can_not_be_written(self, flags: list[str]) -> None:
        result = CliRunner().invoke(cli, ["report", "out", *flags], standalone_mode=False)
        assert isinstance(result.exception, RunError) and "the report can't be written" in str(result.exception)


def test_results_that_can_not_be_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(tmp_path)], standalone_mode=False)
    assert isinstance(result.exception, UsageError) and "results.h5" in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_browser_draws_every_picture_without_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(build(tables(grid()), "here"))
    # Nothing but the page itself may be reached.
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = ["chromium", *flags.split(), "--disable-component-update", "--disable-quic", "--enable-logging=stderr"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"file://{page}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count('data-drawn="yes"') == 7
    assert "can't be drawn" not in done.stdout.partition("<script>")[0]
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
