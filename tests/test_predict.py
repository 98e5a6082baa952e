"""``stratbench predict``: the model of a step, its fit, its intervals, and what it refuses to say."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as some
from result_rows import run
from stored_results import save
from stratbench.harness.cli.commands import cli
from stratbench.harness.cli.predicting import _algorithm
from stratbench.results.analysis import comparison, cost_model, intervals, prediction
from stratbench.results.analysis.cost_model import Network
from stratbench.results.analysis.prediction import Prediction, Series
from stratbench.results.showing import predictions as showing
from stratbench.results.showing import terminal
from stratbench.results.showing.workloads import workloads
from stratbench.results.tables import store
from stratbench.strategies import registry
from stratbench.strategies.transport import Exchange
from test_results_record import make_log, make_record, make_spec

ALPHA, BETA = 0.002, 0.004
"""Seconds a message, and for bytes as many as those of the weights."""
FIXED, EACH = 0.01, 0.001
"""Seconds of computing, of a step and of an example."""


def true_parts(strategy: str, replicas: int, batch: int, **options: Any) -> dict[str, float]:
    """Seconds of a step by the model, without any noise."""
    exchange = registry.create(strategy, options).exchange(replicas)
    assert exchange is not None
    communicating = 0.003 + ALPHA * exchange.messages + BETA * exchange.weights
    return {"computing": FIXED + EACH * batch / replicas, "communicating": communicating, "waiting": 0.0, "input": 0.0}


def made(strategy: str, replicas: int, noise: float = 1.0, batch: int = 64, repeat: int = 0, **changes: Any) -> Any:
    """A row of the runs table."""
    parts = {name: seconds * noise for name, seconds in true_parts(strategy, replicas, batch).items()}
    step = sum(parts.values())
    shares = {f"{name}_share": seconds / step for name, seconds in parts.items()}
    figures = {"parameters": 1e6, "train_examples": 6400.0, "cores_available": 2, "cpu_model": "a CPU"}
    row = run(strategy, replicas, batch / step, batch=batch, repeat=repeat, **changes)
    return row | shares | figures


def predicted(rows: list[Any], replicas: list[int], network: Network | None = None, steps: Any = None) -> list[Series]:
    empty = pd.DataFrame({"run_id": [], "warmup": np.array([], bool), "computing_seconds": []})
    compared = comparison.compared(pd.DataFrame(rows))
    return prediction.predict(compared, empty if steps is None else steps, replicas, _algorithm, network)


def thrice(row: Any) -> list[Any]:
    """Three repeats, alike: an interval then has what is not known, and no chance."""
    return [row | {"repeat": repeat, "run_id": f"{row['run_id'][:-1]}{repeat}"} for repeat in range(3)]


def one(series: list[Series], replicas: int) -> Prediction:
    (only,) = series
    assert not only.why_not
    (found,) = [each for each in only.predictions if each.replicas == replicas]
    return found


@pytest.mark.parametrize("strategy", ["horovod", "multiworker", "ps", "master-worker"])
def test_the_step_of_more_replicas_follows_the_formula(strategy: str) -> None:
    found = predicted([made(strategy, n) for n in (1, 2, 4)], [8, 64])
    for replicas in (8, 64):
        each = one(found, replicas)
        parts = true_parts(strategy, replicas, 64)
        assert each.step_seconds.value == pytest.approx(sum(parts.values()))
        assert each.shares["communicating"] == pytest.approx(parts["communicating"] / sum(parts.values()))
        assert (each.kind, each.scaling, each.global_batch) == ("extrapolated", "strong", 64)
        assert each.rate == pytest.approx(64 / sum(parts.values()))
        assert each.epoch_seconds == pytest.approx(100 * sum(parts.values()))
        assert each.cost(36.0) == pytest.approx(replicas * sum(parts.values()))
    assert [check.replicas for check in found[0].checks] == [2, 4]
    assert abs(found[0].checks[0].error) < 0.2
    assert one(found, 2).kind == "measured"


@pytest.mark.parametrize("strategy", ["allgather", "fsdp"])
@pytest.mark.parametrize("directions", [1, 2])
def test_what_two_replicas_may_send_in_turn_may_have_counted_twice(strategy: str, directions: int) -> None:
    exchange = registry.create(strategy, {}).exchange(2)
    assert exchange is not None
    rows = {n: made(strategy, n) for n in (1, 2, 4)}
    parts = true_parts(strategy, 2, 64)
    parts["communicating"] += (directions - 1) * BETA * exchange.weights
    step = sum(parts.values())
    shares = {f"{name}_share": seconds / step for name, seconds in parts.items()}
    rows[2] |= shares | {"examples_per_second": 64 / step}
    for sizes in ((1, 2), (1, 2, 4)):
        each = one(predicted([again for n in sizes for again in thrice(rows[n])], [8]), 8).step_seconds
        assert each.low <= sum(true_parts(strategy, 8, 64).values()) * (1 + 1e-9)
        assert each.high >= sum(true_parts(strategy, 8, 64).values()) * (1 - 1e-9)
    network = Network(latency_seconds=0.001, bytes_per_second=4e6)
    found = one(predicted([again for n in (1, 4) for again in thrice(rows[n])], [2], network), 2).step_seconds
    sent = exchange.messages * 0.001 + exchange.weights * 1.0
    computing = FIXED + EACH * 32
    assert found.low == pytest.approx(sent + (0 if exchange.hides else computing))
    assert found.high > computing + sent + exchange.weights


def test_a_size_between_measured_ones_is_not_extrapolated() -> None:
    found = predicted([made("ps", n) for n in (1, 2, 4)], [2, 3])
    assert [each.kind for each in found[0].predictions] == ["measured", "measured", "predicted", "measured"]


def test_two_sizes_leave_open_what_the_exchange_depends_on() -> None:
    """All latency, all bandwidth, or all of them in one memory: the truth, a mixture, is between."""
    rows = [row for n in (1, 2) for row in thrice(made("horovod", n))]
    each = one(predicted(rows, [8]), 8)
    truth = sum(true_parts("horovod", 8, 64).values())
    assert each.step_seconds.low < truth < each.step_seconds.high
    comm = true_parts("horovod", 2, 64)["communicating"] - 0.003
    assert each.step_seconds.low == pytest.approx(0.018 + 0.003 + comm * (14 / 8))
    assert each.step_seconds.high == pytest.approx(0.018 + 0.003 + comm * 7)


def test_three_rounds_give_the_interval_of_a_further_run() -> None:
    noises = (0.9, 1.0, 1.1, 1.05)
    rows = [made("ps", n, noise, repeat=r) for n in (1, 2, 4) for r, noise in enumerate(noises)]
    step = one(predicted(rows, [8]), 8).step_seconds
    truth = sum(true_parts("ps", 8, 64).values())
    assert step.value == pytest.approx(truth * math.prod(noises) ** 0.25)
    logs = np.log(noises)
    reach = 3.182446 * logs.std(ddof=1) * math.sqrt(1 + 1 / 4)
    assert math.log(step.high / step.value) == pytest.approx(reach, rel=1e-4)
    assert not one(predicted([row for row in rows if row["repeat"] < 2], [8]), 8).step_seconds.known


def test_weak_scaling_keeps_the_batch_of_a_replica() -> None:
    rows = [made("ps", n, batch=32 * n) for n in (1, 2, 4)]
    each = one(predicted(rows, [8]), 8)
    assert (each.scaling, each.global_batch) == ("weak", 256)
    assert each.step_seconds.value == pytest.approx(sum(true_parts("ps", 8, 256).values()))


def test_another_network_takes_its_own_time() -> None:
    """4 MB of weights: nothing hides, and what the exchange costs here is on top at worst."""
    network = Network(latency_seconds=0.001, bytes_per_second=4e6)
    rows = [row for n in (1, 2, 4) for row in thrice(made("multiworker", n))]
    each = one(predicted(rows, [8], network), 8)
    there, here = 14 * 0.001 + 14 / 8 * 1.0, true_parts("multiworker", 8, 64)["communicating"]
    assert each.step_seconds.low == pytest.approx(0.018 + there)
    assert each.step_seconds.high == pytest.approx(0.018 + there + here)


def test_what_was_to_be_sent_counts_before_the_size_of_the_weights() -> None:
    """As where only some rows of a table are exchanged."""
    network = Network(latency_seconds=1e-9, bytes_per_second=1e3)
    rows = [
        made("multiworker", n) | {"traffic_bytes_expected": 4.0 * (n - 1) * 1e3 * 10, "steps_done": 10} for n in (1, 2)
    ]
    each = one(predicted([again for row in rows for again in thrice(row)], [4], network), 4)
    assert each.step_seconds.low == pytest.approx(FIXED + EACH * 16 + 1.5, rel=1e-3)


def test_one_replica_and_a_network_are_enough() -> None:
    network = Network(latency_seconds=0.001, bytes_per_second=4e9)
    assert one(predicted(thrice(made("multiworker", 1)), [8], network), 8).step_seconds.known
    (series,) = predicted([made("multiworker", 1)], [8])
    assert "two sizes" in series.why_not and not series.predictions


def test_a_network_changes_nothing_within_a_process() -> None:
    rows = [made("mirrored", n) for n in (1, 2, 4)]
    network = Network(latency_seconds=1.0, bytes_per_second=1.0)
    values = [one(predicted(rows, [8], each), 8).step_seconds.value for each in (network, None)]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("strategy", "changes", "why"),
    [
        ("pipeline", {}, "no formula"),
        ("single", {}, "no formula"),
        ("ps", {"computing_share": math.nan}, "not known where"),
    ],
)
def test_what_can_not_be_predicted_says_why(strategy: str, changes: dict[str, float], why: str) -> None:
    rows = [made("ps", n) | {"strategy": strategy} | changes for n in (1, 2)]
    (series,) = predicted(rows, [4])
    assert why in series.why_not and not series.predictions


def test_a_strategy_that_this_version_does_not_know_says_so() -> None:
    rows = [made("ps", n) for n in (1, 2)]
    rows += [row | {"strategy": "later", "run_id": f"later-{row['run_id']}"} for row in rows]
    found = {series.row["strategy"]: series for series in predicted(rows, [4])}
    assert "strategy must be one of" in found["later"].why_not and found["ps"].predictions


def test_more_replicas_than_examples_are_left_out() -> None:
    (series,) = predicted([made("ps", n) for n in (1, 2)], [64, 65])
    assert [each.replicas for each in series.predictions] == [1, 2, 64]
    assert series.left_out == ["×65: more replicas than examples of the global batch of 64"]


def test_replicas_that_shared_cores_are_not_used() -> None:
    rows = [made("ps", n) for n in (1, 2)] + [made("ps", 4) | {"oversubscribed": True}]
    crowded, series = predicted(rows, [4])
    assert crowded.left_out == ["ps ×4 is not used: its replicas shared cores"] and not crowded.predictions
    assert [(each.replicas, each.kind) for each in series.predictions][-1] == (4, "extrapolated")


def noisy_steps(rows: list[Any]) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    frames = [
        pd.DataFrame({"run_id": row["run_id"], "warmup": False, "computing_seconds": draw.gamma(16, 0.001, 400)})
        for row in rows
    ]
    return pd.concat(frames)


def test_who_waits_waits_for_the_slowest() -> None:
    """Of 64 replicas more than of 2, as far as runs of 2 waited; asynchronous workers don't."""
    for strategy, waits in (("horovod", True), ("ps", False)):
        rows = [made(strategy, n, batch=128) for n in (1, 2)]
        for row in rows[1:]:
            row |= {"computing_share": row["computing_share"] - 0.05, "waiting_share": 0.05}
        found = predicted(rows, [4, 64], steps=noisy_steps(rows))
        shares = [one(found, n).shares["waiting"] for n in (4, 64)]
        seconds = [one(found, n).shares["waiting"] / one(found, n).shares["computing"] for n in (2, 4, 64)]
        if waits:
            assert 0 < seconds[0] < seconds[1] < seconds[2]
        else:
            assert shares == [0, 0]


@given(some.lists(some.floats(0.1, 10), min_size=1, max_size=30), some.integers(1, 1000))
def test_the_slowest_of_n_is_between_the_mean_and_the_longest(values: list[float], replicas: int) -> None:
    spread = np.array(values)
    slowest = (1 + cost_model.slowest_of(spread, replicas)) * spread.mean()
    assert spread.mean() - 1e-9 <= slowest <= spread.max() + 1e-9


def test_the_slowest_of_two_is_their_mean_largest() -> None:
    """Of 1 and 3, drawn twice with replacement: 1, 3, 3, 3."""
    assert cost_model.slowest_of(np.array([3.0, 1.0]), 2) == pytest.approx(2.5 / 2 - 1)


def test_an_interval_of_a_further_run_is_wider_than_that_of_the_mean() -> None:
    values = [1.0, 1.1, 0.95, 1.02]
    mean, following = intervals.positive(values), intervals.of_next(values)
    assert following.value == mean.value and following.low < mean.low and following.high > mean.high


@pytest.mark.parametrize("name", registry.available())
def test_a_strategy_s_exchange_grows_with_the_replicas(name: str) -> None:
    """And nothing is sent by one replica, except to servers."""
    strategy = registry.create(name, {})
    found = [strategy.exchange(replicas) for replicas in (1, 2, 3, 4, 8)]
    if found[0] is None:
        assert found == [None] * 5
        return
    assert all(isinstance(each, Exchange) for each in found)
    costs = [(each.messages, each.weights) for each in found if each]
    assert costs == sorted(costs)
    if name not in ("ps", "parameter-server"):
        assert costs[0] == (0, 0)


def test_options_change_the_exchange() -> None:
    def of(reference: str, replicas: int, accumulate: int = 1, **options: Any) -> Exchange:
        found = registry.create(reference, options).exchange(replicas, accumulate)
        assert found is not None
        return found

    assert of("horovod", 4) == Exchange(6, 1.5, hides=True)
    assert of("horovod", 4, 2, compression="fp16", bucket_mib="all") == Exchange(3, 0.375)
    assert registry.create("horovod", {"op": "adasum"}).exchange(4) is None
    assert of("ps", 4, ps=2) == dataclasses.replace(Exchange(2, 4), waits=False)
    assert of("ps", 4, sync=True) == Exchange(2, 8)
    assert of("ps", 4, mode="downpour", fetch=4, push=4).weights == 2
    assert of("allreduce", 4, algorithm="rabenseifner").weights == 1.5
    assert of("allreduce", 4, algorithm="tree") == Exchange(4, 4)
    assert of("local-sgd", 4, period=3).messages == 2
    assert of("gossip", 8, graph="random") == Exchange(2, 2, waits=False, hides=True)


def test_the_fastest_is_named_with_what_can_not_be_told_from_it() -> None:
    rows = [row for name in ("horovod", "allgather", "ps") for n in (1, 2, 4) for row in thrice(made(name, n))]
    stream = io.StringIO()
    showing.render("a title", predicted(rows, [64]), 36.0, terminal.make_console(stream))
    told = " ".join(stream.getvalue().split())
    best = min(("horovod", "allgather", "ps"), key=lambda name: sum(true_parts(name, 64, 64).values()))
    assert f"×64: {best} has the highest rate" in told and "not told apart" not in told
    noisy = [
        row | {"examples_per_second": row["examples_per_second"] * noise}
        for row, noise in zip(rows, [1, 2, 4] * 9, strict=True)
    ]
    stream = io.StringIO()
    showing.render("a title", predicted(noisy, [64]), None, terminal.make_console(stream))
    assert "not told apart from it: " in stream.getvalue()
    stream = io.StringIO()
    showing.render("a title", predicted(rows[::3], [64]), None, terminal.make_console(stream))
    assert "not told apart from it: " in stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ps with 1 and 2 replicas, three times each; and a run that failed."""
    records = []
    for replicas in (1, 2):
        for repeat in range(3):
            logs = [make_log(rank) for rank in range(replicas)]
            for log in logs:
                log.ready = (log.ready or {}) | {"set_examples": {"train": 900, "validation": 100, "test": 200}}
                log.steps["computing_seconds"], log.steps["communicating_seconds"] = 0.06, 0.01
                log.steps["waiting_seconds"] = 0.0
            spec = make_spec(strategy="ps", replicas=replicas, repeat=repeat, global_batch=64)
            records.append(make_record(spec | {"per_replica_batch": 64 // replicas}, logs=logs))
    records.append(make_record(make_spec(strategy="horovod"), "failed", "it died", []))
    made_in = tmp_path_factory.mktemp("predict") / "out"
    with store.Store(made_in) as opened:
        for record in records:
            save(made_in, record)
            opened.add(record)
    return made_in


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["predict", *words])


def test_the_command_prints_a_table_with_its_worth(folder: Path) -> None:
    result = call(str(folder), "-n", "4,8", "--price", "2.50/replica-hour")
    assert result.exit_code == 0, result.output
    assert "extrapolated" in result.output and "cost of" in result.output
    assert "has the highest rate" not in result.output and "An epoch costs least with ps ×" in result.output
    assert "not checked, as there are runs of fewer than three sizes: ps" in result.output


def test_json_has_the_figures_of_the_table(folder: Path) -> None:
    result = call(str(folder), "-n", "4", "--json", "--price", "3")
    (series,) = json.loads(result.output)
    assert series["strategy"] == "ps" and not series["why_not"]
    assert [each["replicas"] for each in series["sizes"]] == [1, 2, 4]
    last = series["sizes"][-1]
    assert last["step_seconds_low"] <= last["step_seconds"] <= last["step_seconds_high"]
    assert last["epoch_cost"] == pytest.approx(4 * last["epoch_seconds"] / 3600 * 3)
    assert sum(last[f"{part}_share"] for part in ("computing", "communicating", "waiting", "input", "rest")) == (
        pytest.approx(1)
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-n", "0"], "--replicas must be from 1"),
        (["-n", "1000001"], "--replicas must be from 1"),
        (["-n", "4", "--bandwidth", "25Gbit"], "Missing: --latency"),
        (["-n", "4", "--latency", "5us"], "Missing: --bandwidth"),
        (["-n", "4", "--latency", "5us/s", "--bandwidth", "1Gbit"], "and a unit: "),
        (["-n", "4", "--latency", "5us", "--bandwidth", "25"], "and a unit: "),
        (["-n", "4", "--latency", "5us", "--bandwidth", "0Gbit"], "greater than 0"),
        (["-n", "4", "--price", "free"], "unit: /replica-hour"),
        ([], "Missing parameter"),
    ],
)
def test_bad_flags_are_one_line(folder: Path, words: list[str], says: str) -> None:
    result = CliRunner().invoke(cli, ["predict", str(folder), *words], standalone_mode=False)
    assert says in str(result.exception) + result.output


@pytest.mark.parametrize("text", ["25Gbit", "25Gbit/s", "25 gbit", "3.125GB", "3125MB/s"])
def test_bandwidths(folder: Path, text: str) -> None:
    base = call(str(folder), "-n", "4", "--json", "--latency", "5us", "--bandwidth", "25Gbit")
    assert call(str(folder), "-n", "4", "--json", "--latency", "5us", "--bandwidth", text).output == base.output


def test_nothing_is_invented_where_no_run_is_ok(tmp_path: Path) -> None:
    with store.Store(tmp_path / "out") as opened:
        record = make_record(make_spec(strategy="ps"), "failed", "it died", [])
        save(tmp_path / "out", record)
        opened.add(record)
    result = CliRunner().invoke(cli, ["predict", str(tmp_path / "out"), "-n", "4"], standalone_mode=False)
    assert "no run is ok" in str(result.exception)


def test_workloads_are_predicted_apart() -> None:
    rows = [made("ps", n, model=model) for n in (1, 2) for model in ("cnn", "mlp")]
    assert len(workloads(pd.DataFrame(rows))) == 2
    assert [len(series.predictions) for series in predicted(rows, [4])] == [3, 3]
