"""``--repeats auto``: how many rounds are made, and when they end."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from command_line import call
from conftest import make_spec
from result_rows import run
from stratbench.harness.cli import repeating
from stratbench.harness.cli.values import Repeats, Until
from stratbench.harness.plan.spec import RunSpec
from stratbench.results.analysis import intervals
from stratbench.results.analysis.intervals import LEAST_RUNS

SPECS = [
    make_spec(name, replicas).model_copy(update={"repeat": repeat})
    for repeat in range(repeating.MOST_ROUNDS)
    for name, replicas in (("single", 1), ("mirrored", 2), ("ps", 2))
]


class Runs:
    """In place of real ones: rows with the rates that are given, and a failure of every `ps`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rates: Any, codes: Any = None):
        self.rows: list[dict[str, Any]] = []
        self.calls: list[list[RunSpec]] = []
        self._rates, self._codes = rates, codes or itertools.repeat(0)
        monkeypatch.setattr(repeating, "load_runs", lambda output: pd.DataFrame(self.rows))

    def __call__(self, specs: list[RunSpec]) -> int:
        self.calls.append(specs)
        for spec in specs:
            status = "failed" if spec.strategy == "ps" else "ok"
            row = run(spec.strategy, spec.replicas, next(self._rates), repeat=spec.repeat, status=status)
            self.rows.append(row | {"run_id": spec.run_id})
        return next(self._codes)


def test_rounds_end_when_every_rate_is_known(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    noisy = itertools.chain([100, 100, 0, 140, 100, 0, 90, 100, 0], itertools.repeat(110))
    made = Runs(monkeypatch, noisy)
    assert repeating.run_until(0.1, SPECS, Path(), made) == 0
    first, *others = made.calls
    assert [spec.repeat for spec in first] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # Of a row that never is ok, no more runs are made.
    assert [(spec.strategy, spec.repeat) for spec in others[0]] == [("single", 3), ("mirrored", 3)]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(others) > 1
    assert said[0].startswith("round 3: 1 rate is not known to ±10 % yet, least single ×1, ±")
    assert said[1].startswith("round 4: ")


def test_three_rounds_are_the_least(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    made = Runs(monkeypatch, itertools.repeat(100))
    assert repeating.run_until(0.001, SPECS, Path(), made) == 0
    assert len(made.calls) == 1
    assert not capsys.readouterr().err


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    made = Runs(monkeypatch, itertools.cycle([50, 100, 0, 100, 50, 0, 75, 75, 0]))
    assert repeating.run_until(0.001, SPECS, Path(), made) == 0
    assert {spec.repeat for specs in made.calls for spec in specs} == set(range(repeating.MOST_ROUNDS))
    assert capsys.readouterr().err.endswith("stratbench: more than 30 rounds are not made\n")


@pytest.mark.parametrize("code", [130, 143])
def test_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    made = Runs(monkeypatch, itertools.cycle([50, 100]), iter([1, code]))
    assert repeating.run_until(0.001, SPECS, Path(), made) == code
    assert len(made.calls) == 2


def test_a_failure_is_the_command_s(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Runs(monkeypatch, itertools.repeat(100), iter([1]))
    assert repeating.run_until(0.1, SPECS, Path(), made) == 1


def test_without_tables_nothing_is_repeated(tmp_path: Path) -> None:
    assert repeating.run_until(0.1, SPECS, tmp_path / "nothing", lambda specs: 0) == 0


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), (4, 4), ("auto", Until(0.03)), ("2%", Until(0.02)), ("0.5 %", Until(0.005))]
)
def test_what_the_flag_may_be(text: Any, value: Any) -> None:
    assert Repeats().convert(text, None, None) == value


@pytest.mark.parametrize(
    ("text", "hint"), [("many", "auto, or a percentage"), ("0%", "between 0% and 100%"), ("1.5", "a whole number")]
)
def test_what_it_may_not_be(text: str, hint: str) -> None:
    with pytest.raises(click.BadParameter, match=hint):
        Repeats().convert(text, None, None)


def test_stopping_early_costs_little_of_the_confidence() -> None:
    """Of runs that differ by 5 %, which end as soon as ±3 % is reached."""
    draw, cases, held = np.random.default_rng(1), 1500, 0
    for _ in range(cases):
        rates = list(np.exp(draw.normal(0, 0.05, LEAST_RUNS)))
        while len(rates) < repeating.MOST_ROUNDS:
            found = intervals.positive(rates)
            if (found.high - found.low) / (2 * found.value) <= 0.03:
                break
            rates.append(float(np.exp(draw.normal(0, 0.05))))
        held += not intervals.positive(rates).excludes(1.0)
    assert 0.89 <= held / cases <= 0.93


def test_a_real_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(repeating, "MOST_ROUNDS", 4)
    arguments = ["-s", "single", "--model", "mlp", "--dataset", "synthetic:examples=200", "--global-batch", "16"]
    arguments += ["--steps", "6", "--cores-per-replica", "1", "--output", str(tmp_path / "out")]
    assert call("compare", *arguments, "--repeats", "0.0001%") == 0
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert sorted(runs["repeat"]) == [0, 1, 2, 3]
    said = capfd.readouterr().err
    assert "round 3: 1 rate is not known to ±0.0001 % yet, least single ×1, ±" in said
    assert "stratbench: more than 4 rounds are not made" in said
    # What is there is not made again.
    assert call("compare", *arguments, "--repeats", "99.9%") == 0
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 4
