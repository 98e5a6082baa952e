"""Figures for notebooks: the examples in the docstrings run, and agree with what the commands show."""

import doctest

import pandas as pd
import pytest
import stratbench
from result_rows import compare
from stratbench import results
from stratbench.errors import UsageError
from stratbench.results.tables import store
from test_results_record import make_record, make_spec
from test_split import log_of


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """One replica and two, three runs each."""
    folder = tmp_path_factory.mktemp("results")
    with store.Store(folder) as opened:
        for repeat in range(3):
            alone = [log_of(0, [10.0, 11.0, 12.0, 13.0], communicating=0.0, computing=0.08 + 0.001 * repeat)]
            two = [log_of(0, [10.0, 11.0, 12.0, 13.0]), log_of(1, [10.0, 11.02, 12.02, 13.02])]
            for strategy, replicas, logs in (("single", 1, alone), ("horovod", 2, two)):
                spec = make_spec(strategy=strategy, replicas=replicas, repeat=repeat)
                opened.add(make_record(spec=spec, logs=logs))
    return results.load(folder)


@pytest.mark.parametrize("name", ["speedup", "efficiency", "time_to_quality", "split"])
def test_the_examples_run(name, tables):
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(results, name), name, globs={"stratbench": stratbench, "tables": tables})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_speedups_are_those_of_the_comparison(tables):
    rows = compare(*tables.runs.to_dict("records"))
    for name in ("speedup", "efficiency"):
        found = getattr(results, name)(tables)
        assert found[name].tolist() == [row[name] for row in rows]
        assert found["runs"].tolist() == [3, 3]
        assert found["base"].tolist() == ["single×1", "single×1"]


def test_parts_add_up_to_the_step_of_each_task(tables):
    found = results.split(tables)
    assert len(found) == 9
    waited = found[(found.strategy == "horovod")].set_index(["repeat", "task"])["waiting_seconds"]
    assert waited[(0, 0)] == pytest.approx(0.02)
    assert waited[(0, 1)] == pytest.approx(0.0)


def test_runs_that_never_reach_a_target_stay(tables):
    found = results.time_to_quality(tables, "accuracy=0.99")
    assert len(found) == 6
    assert not found["reached"].any()
    assert found["seconds"].isna().all()
    with pytest.raises(UsageError, match="METRIC=VALUE"):
        results.time_to_quality(tables, "fast")


def test_without_runs_there_are_no_rows(tables):
    empty = type(tables)(**{name: getattr(tables, name).iloc[:0] for name in vars(tables)})
    for found in (results.speedup(empty), results.efficiency(empty), results.split(empty)):
        assert isinstance(found, pd.DataFrame)
        assert found.empty
