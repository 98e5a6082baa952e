import json
import math

import pandas as pd
import pytest
from result_rows import BUSY, compare, run, text
from stratbench.results import schema
from stratbench.results.showing import plain

ROWS = (
    run("single", rate=1000.0),
    run("mirrored", 2, 1500.0),
    run("mirrored", 2, 1700.0, repeat=2),
    run("ps", 2, 900.0, options={"sync": True, "ps": 1}),
    run("horovod", 2, status="failed", reason="worker-1: [Errno 28] :warning: [red]disk"),
    run("multiworker", 2, status="skipped", reason="needs more ports"),
)


def test_a_report_in_a_pipe():
    output = text(*ROWS)
    assert "\x1b" not in output
    lines = output.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0] == (
        "cnn on digits · split 80/10/10 · sharding global · 2 epochs · sgd, learning rate 0.1 · seed 1 · "
        "1 core per replica"
    )
    same = ["12.5", "0.5000", "0.2500", "3.0", "ok"]
    table = {line.split()[0]: line.split() for line in reversed(lines) if line.strip()}
    assert table["single"] == ["single", "1", "64", "1,000", "1", "1.00", "100%", *same]
    assert table["mirrored"] == ["mirrored", "2", "64", "1,597", "2", "~1.60", "~80%", *same]
    assert table["ps"][:9] == ["ps", "sync=true", "ps=1", "2", "64", "900", "1", "~0.90", "~45%"]
    assert "speed-up and efficiency against single×1 (same global batch)" in lines
    assert "mirrored ×2 had the highest rate, 1.60× as fast as single ×1, in 1 run each; that may be chance." in lines
    assert "horovod ×2 failed: worker-1: [Errno 28] :warning: [red]disk" in output
    assert "multiworker ×2 skipped: needs more ports" in lines


@pytest.mark.parametrize("width", [76, 80, 100])
def test_a_report_on_narrow_terminals(width):
    rows = [*ROWS, *(run("multiworker", 8, 1_234_567.0 + 1e4 * each, batch=4096, repeat=each) for each in range(3))]
    output = text(*rows, width=width)
    lines = output.splitlines()
    assert max(map(len, lines)) <= width and "…" not in output
    two = ["2"] if width < 100 else ["2", "runs", "2"]
    million = ["3"] if width < 100 else ["1,220k–1,270k", "3"]
    assert any(line.split()[: 4 + len(two)] == ["mirrored", "2", "64", "1,597", *two] for line in lines)
    assert any(
        line.split()[: 4 + len(million)] == ["multiworker", "8", "4096", "1,244,540", *million] for line in lines
    )
    assert ("step" in output) == (width >= 100)


def table_of(*rows, width=None):
    """The cells of each line, by its first word."""
    found = {}
    for line in text(*rows, width=width).splitlines():
        if cells := line.split():
            found.setdefault(cells[0], cells)
    return found


@pytest.mark.parametrize("width", [76, 80, 100, 120, 200])
@pytest.mark.parametrize("repeats", [1, 3])
def test_no_table_is_cropped_or_wider_than_a_hundred_columns(width, repeats):
    rows = [
        run(name, replicas, rate * (1 + repeat / 10), repeat=repeat) | {"disturbed": BUSY}
        for repeat in range(repeats)
        for name, replicas, rate in (("single", 1, 58_321), ("multiworker", 8, 999_999), ("horovod", 2, 80_000))
    ]
    rows.append(run("horovod", 2, status="timeout", reason="x", repeat=9))
    rows.append(run("ps", 4, status="skipped", reason="x"))
    lines = text(*rows, width=width).splitlines()
    table = [line.rstrip() for line in lines[: 1 + next(i for i, line in enumerate(lines) if line.startswith("ps "))]]
    assert max(map(len, table[2:])) <= min(width, 100) and "…" not in "".join(lines)
    assert any(line.endswith("ok, busy") for line in table) and any(line.endswith("skipped") for line in table)
    assert any(line.endswith(f"ok {repeats}/{repeats + 1}, busy") for line in table)


def test_figures_that_rest_on_one_run_are_marked():
    rows = [run("single"), *(run("ps", 2, 150 + repeat, repeat=repeat) for repeat in range(3))]
    table = table_of(*rows, run("mirrored", 2, 120))
    assert table["single"][4:9] == ["1", "run", "1", "1.00", "100%"]
    assert table["ps"][4:8] == ["149–154", "3", "~1.51", "~75%"]
    assert table["mirrored"][4:9] == ["1", "run", "1", "~1.20", "~60%"]
    assert " ".join(table["~"]) == "~ rests on fewer than 3 runs: some of it may be chance; --repeats 3 or more tells"


def test_figures_of_repeats_are_not_marked():
    rows = [run(name, n, 100 * n - r, repeat=r) for name, n in (("single", 1), ("ps", 2)) for r in range(3)]
    output = text(*rows)
    assert "~" not in output and "*" not in output and "busy" not in output
    assert "97–102" in output and "197–201" in output and "1.97–2.05" in output
    assert "95 % intervals by Student's t" in output and "in each round" not in output


def test_ratios_of_runs_made_in_rounds_are_taken_in_each_round():
    """A machine that is slower in one round slows both: it is no reason to doubt their ratio."""
    machine = (1.0, 0.5, 0.9)
    rows = [
        run(name, replicas, rate * machine[r], repeat=r) | {"started_at": f"2026-11-29T0{r}:{minute}:00.000+00:00"}
        for r in range(3)
        for name, replicas, rate, minute in (("single", 1, 100, 10), ("ps", 2, 150 + r, 20))
    ]
    single, ps = compare(*rows)
    assert ps["by_rounds"] and 1.48 < ps["speedup_low"] < ps["speedup"] < ps["speedup_high"] < 1.54
    assert single["examples_per_second_low"] < 40 and math.isnan(single["speedup_low"])
    assert ps["efficiency_low"] == pytest.approx(ps["speedup_low"] / 2)
    assert "speed-ups are taken in each round of runs" in text(*rows)
    apart = [row | {"started_at": f"2026-11-29T0{i % 2}:{i}0:00.000+00:00"} for i, row in enumerate(rows)]
    _, ps = compare(*apart)
    assert not ps["by_rounds"] and ps["speedup_low"] < 1 < ps["speedup_high"]


def test_runs_of_unlike_machines_are_neither_put_together_nor_divided():
    machines = [{"cpu_model": model, "cores_available": 2} for model in ("A", "B")]
    rows = [
        run("single", rate=100) | machines[0],
        run("ps", 2, 150) | machines[1],
        run("ps", 2, 50, repeat=1) | machines[0],
    ]
    found = {(row["strategy"], row["cpu_model"]): row for row in compare(*rows)}
    assert found["ps", "A"]["base"] == "single×1" and found["ps", "A"]["speedup"] == 0.5
    assert found["ps", "B"]["base"] == "ps×2" and found["ps", "B"]["ok"] == 1
    output = text(*rows, width=200)
    assert "· on A, 2 cores\n" in output and "· on B, 2 cores\n" in output and "file" not in output


def test_runs_on_a_busy_machine_are_marked_and_say_why():
    rows = [run(name, n, 100 + r, repeat=r) for name, n in (("single", 1), ("ps", 2)) for r in range(3)]
    rows[4]["disturbed"] = BUSY
    table = table_of(*rows)
    assert table["single"][3] == "101" and table["single"][-1] == "ok"
    assert (
        table["ps"][3] == "*101"
        and table["ps"][6:9] == ["*1.00", "0.98–1.02", "*50%"]
        and table["ps"][-2:] == ["ok,", "busy"]
    )
    assert f"ps ×2 busy in 1 of 3 runs, such as: {BUSY}" in text(*rows)
    assert "the base" not in text(*rows)


def test_a_base_on_a_busy_machine_makes_what_is_set_against_it_doubtful():
    rows = [run("single") | {"disturbed": BUSY}, run("ps", 2, 250)]
    table, output = table_of(*rows), text(*rows)
    assert table["single"][3:7] == ["*100", "1", "1.00", "100%"] and table["ps"][3:7] == [
        "250",
        "1",
        "*~2.50",
        "*~125%",
    ]
    assert f"the base single×1 may be too slow, and speed-ups too high: {BUSY}" in output
    assert "ps ×2: efficiency above 100% is more than added replicas explain" in output


@pytest.mark.parametrize("replicas, rate, told", [(2, 202, True), (2, 200.9, False), (1, 150, False)])
def test_an_efficiency_above_one_is_remarked_where_replicas_were_added(replicas, rate, told):
    assert ("above 100%" in text(run("single"), run("ps", replicas, rate))) is told


def test_static_sharding_into_other_parts_is_other_work():
    single = {"sharding": "static"}
    rows = [
        run("single", **single),
        run("single", rate=110, options={"parts": 2}, **single),
        run("ps", 1, 90, **single),
        run("ps", 2, 165, **single),
        run("ps", 4, 300, **single),
        run("ps", 2, 500),
    ]
    by_work = {(r["strategy"], r["replicas"], r["parts"], r["sharding"]): r for r in compare(*rows)}
    assert by_work["ps", 1, 1, "static"]["speedup"] == pytest.approx(0.9)
    assert by_work["ps", 2, 2, "static"]["speedup"] == pytest.approx(1.5)
    assert by_work["ps", 4, 4, "static"]["base"] == "ps×4" and by_work["ps", 2, 1, "global"]["base"] == "ps×2"
    titles = [line for line in text(*rows).splitlines() if line.startswith("cnn on")]
    assert sorted(title.split(" · ")[2] for title in titles) == [
        "sharding global",
        "sharding static, 1 part",
        "sharding static, 2 parts",
        "sharding static, 4 parts",
    ]


def test_a_cut_model_is_told_with_its_bubble():
    cut = {"cut": "a 40 %, b 60 %", "bubble": 0.234, "bubble_expected": 0.2}
    output = text(
        run("single"), run("pipeline", 2) | cut, run("pipeline", 2, repeat=1) | cut | {"cut": "c 50 %, b 50 %"}
    )
    told = "pipeline ×2: cut into a 40 %, b 60 %; c 50 %, b 50 %; parts waited 23% of the passes' time (20% expected)"
    assert told in " ".join(output.split())
    assert "cut into" not in text(run("single"))


def test_a_report_with_several_bases_and_workloads():
    output = text(
        run("single"),
        run("ps", 2, 150),
        run("mirrored", 2, 150, optimizer="adam"),
        run("mirrored", 4, 150, optimizer="adam"),
        run("horovod", 2, 150, optimizer="adam"),
    )
    assert "sgd, learning rate 0.1" in output and "adam, learning rate 0.1" in output
    assert "mirrored: speed-up and efficiency against mirrored×2 (same global batch)" in output
    assert "horovod: speed-up and efficiency against horovod×2" in output


def test_partly_failed_and_oversubscribed_runs_are_told():
    rows = [run("single"), run("single", repeat=2, status="timeout", reason="nothing moved for 5 s")]
    rows[0]["oversubscribed"] = True
    output = text(*rows)
    assert "ok 1/2" in output and "single ×1 timeout: nothing moved for 5 s" in output
    assert "single ×1 oversubscribed" in output


def test_a_kept_last_batch_is_another_workload():
    output = text(run("single"), run("single", last_batch="drop", repeat=2), run("single", last_batch="keep"))
    assert output.count("cnn on digits") == 2 and output.count("last batch kept") == 1


def test_a_schedule_is_in_the_title_and_older_runs_had_none():
    output = text(run("single"), run("single", lr_schedule="constant", repeat=2), run("single", lr_schedule="cosine"))
    assert output.count("learning rate 0.1, cosine schedule ·") == 1 and output.count("learning rate 0.1 ·") == 1


def test_large_numbers_have_all_their_digits():
    lengths = [run("single", epochs=None, steps=steps) for steps in (1_000_000, 1_234_567, 1_234_568)]
    rows = (*lengths, run("single", epochs=2.5, lr_scaling="linear", reference_batch=1_048_576.0))
    output = " ".join(text(*rows).split())
    assert all(f"· {amount} ·" in output for amount in ("1,000,000 steps", "1,234,567 steps", "1,234,568 steps"))
    assert "2.5 epochs" in output and "linear from batch 1048576" in output


UPDATES = {"updates_applied": 318.0, "updates_dropped": 2.0, "staleness_mean": 0.966, "staleness_max": 4.0}


TRAFFIC = {"traffic_bytes_expected": 16.6e6, "traffic_bytes_measured": 17.8e6}


@pytest.mark.parametrize(
    "figures, remark",
    [
        (
            UPDATES | TRAFFIC | {"blocked_seconds": 1.23},
            "staleness 0.97 mean, 4 max; 2 of 320 updates dropped; blocked 1.2 s; "
            "8.9 MB an epoch sent and received (8.3 expected)",
        ),
        (UPDATES | {"updates_dropped": 0.0, "blocked_seconds": 0.0}, "staleness 0.97 mean, 4 max"),
        ({"updates_applied": 1.5e6, "updates_dropped": 1.0}, "1 of 1,500,001 updates dropped"),
        (TRAFFIC, "8.9 MB an epoch sent and received (8.3 expected)"),
        (
            TRAFFIC | {"epochs": math.nan, "steps": 10, "traffic_bytes_measured": 0.0},
            "nothing sent over TCP, as through shared memory (1.66 MB a step expected)",
        ),
        ({"traffic_bytes_expected": 4e9, "traffic_bytes_measured": 5e9}, "2,500 MB an epoch sent and received (2,000"),
        (TRAFFIC | {"traffic_bytes_measured": math.nan}, None),
        (TRAFFIC | {"traffic_bytes_expected": 0.0}, None),
        (TRAFFIC | UPDATES | {"status": "failed", "reason": "x"}, None),
    ],
)
@pytest.mark.parametrize("width", [80, 120])
def test_a_remark_tells_what_the_workers_exchanged(figures, remark, width):
    lines = text(run("ps", 2) | figures, width=width).splitlines()
    remarks = [line for line in lines if line.startswith("ps ×2: ")]
    assert len(remarks) == bool(remark) and all(line.startswith(f"ps ×2: {remark}") for line in remarks)


def test_the_remark_is_of_the_median_repeat():
    rows = [
        run("ps", 2, repeat=repeat) | UPDATES | {"staleness_mean": mean} for repeat, mean in enumerate((0.5, 0.75, 3.0))
    ]
    assert "ps ×2: staleness 0.75 mean, 4 max; 2 of 320 updates dropped\n" in text(*rows)


def test_json_is_strict_and_has_all_columns():
    row = run("single", rate=math.nan) | {"final_loss": math.inf}
    (read,) = json.loads(plain.to_json(pd.DataFrame([row])), parse_constant=pytest.fail)
    assert list(read) == [column.name for column in schema.TABLES["runs"]]
    assert (read["examples_per_second"], read["final_loss"], read["replicas"]) == (None, "inf", 1)
    assert read["oversubscribed"] is False
