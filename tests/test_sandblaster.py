"""``sandblaster``: L-BFGS by dot products alone, portions, and what the coordinator does when tasks die or are slow."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import kept, launch, make_spec
from scipy.optimize import minimize
from stratbench.errors import RunError
from stratbench.harness.worker.main import KEEP_VARIABLE
from stratbench.results.raw import journal
from stratbench.strategies import registry
from stratbench.strategies.base import Reaction, Task
from stratbench.strategies.sandblaster._lbfgs import Lbfgs
from stratbench.strategies.sandblaster._portions import Evaluation, Portion, Portions


class Local:
    """Vectors of this process, in float32 as those of the shards."""

    def __init__(self, weights: np.ndarray):
        self.vectors = {"weights": weights.astype(np.float32)}

    def dots(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(self.vectors[a].astype("f8") @ self.vectors[b].astype("f8")) for a, b in pairs]

    def combine(self, into: str, terms: Sequence[tuple[float, str]]) -> None:
        self.vectors[into] = sum(np.float32(factor) * self.vectors[name] for factor, name in terms)


def convex(seed: int) -> Any:
    """Logistic regression with a ridge: θ → loss, gradient; in float64."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(200, 30)) * np.geomspace(0.1, 3, 30)
    y = np.sign(x @ random.normal(size=30) + random.normal(size=200))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margin = y * (x @ theta)
        value = np.logaddexp(0, -margin).mean() + 0.005 * theta @ theta
        return float(value), -(x.T @ (y / (1 + np.exp(margin)))) / len(x) + 0.01 * theta

    return loss


def by_scipy(loss: Any, start: np.ndarray, iterations: int, history: int = 10) -> tuple[list[float], list[int]]:
    """Loss before each iteration of L-BFGS-B, and how many evaluations there had been by then."""
    counts, losses, before = [0], [loss(start)[0]], [1]

    def counted(theta: np.ndarray) -> tuple[float, np.ndarray]:
        counts[0] += 1
        return loss(theta)

    def note(theta: np.ndarray) -> None:
        losses.append(loss(theta)[0])
        before.append(counts[0])

    options = {"maxcor": history, "maxiter": iterations, "ftol": 0, "gtol": 0}
    minimize(counted, start, jac=True, method="L-BFGS-B", callback=note, options=options)
    return losses, before


def agreeing(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """In how many iterations both line searches have asked as often, from the first one on."""
    pairs = list(zip(ours, theirs, strict=False))
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))


@pytest.mark.parametrize("history", [1, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_every_iteration_is_that_of_scipy(seed: int, history: int) -> None:
    loss, start = convex(seed), np.zeros(30)
    theirs, their_counts = by_scipy(loss, start, 25, history)
    vectors, counts = Local(start), [0]

    def evaluate(weights: str, gradient: str) -> float:
        counts[0] += 1
        value, found = loss(vectors.vectors[weights].astype("f8"))
        vectors.vectors[gradient] = found.astype(np.float32)
        return value

    ours, our_counts = [], []
    lbfgs = Lbfgs(vectors, evaluate, history)
    for _ in range(25):
        ours.append(lbfgs.step(known=True))
        our_counts.append(counts[0])
    # A step's evaluations are over after it, an iteration's before the next.
    same = agreeing([1, *our_counts[:-1]], their_counts)
    assert same >= 10
    np.testing.assert_allclose(ours[:same], theirs[:same], rtol=1e-4)


def test_without_a_lower_place_the_weights_stay() -> None:
    """The slope is wrong on purpose."""
    vectors = Local(np.ones(3))

    def evaluate(weights: str, gradient: str) -> float:
        vectors.vectors[gradient] = -np.ones(3, np.float32)
        return float(vectors.vectors[weights].sum())

    lbfgs = Lbfgs(vectors, evaluate, 5)
    assert [lbfgs.step(known=False) for _ in range(3)] == [3.0] * 3
    np.testing.assert_array_equal(vectors.vectors["weights"], np.ones(3))


def test_a_loss_that_is_not_finite_is_too_far() -> None:
    vectors = Local(np.array([0.001]))

    def evaluate(weights: str, gradient: str) -> float:
        with np.errstate(all="ignore"):
            theta = vectors.vectors[weights].astype("f8")
            vectors.vectors[gradient] = (1 - 0.01 / theta).astype(np.float32)
            return float((theta - 0.01 * np.log(theta)).sum())

    lbfgs = Lbfgs(vectors, evaluate, 5)
    losses = [lbfgs.step(known=True) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert vectors.vectors["weights"][0] == pytest.approx(0.01, rel=1e-3)


def test_at_a_minimum_nothing_changes() -> None:
    vectors = Local(np.zeros(3))

    def evaluate(weights: str, gradient: str) -> float:
        vectors.vectors[gradient] = 2 * vectors.vectors[weights]
        return float((vectors.vectors[weights] ** 2).sum())

    assert [Lbfgs(vectors, evaluate, 5).step(known=False) for _ in range(2)] == [0.0, 0.0]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def evaluation(number: int, count: int, batch: int = 1) -> Evaluation:
    return Evaluation(number, batch, [[np.zeros(1)]] * count, 0, "weights")


def taken(portions: Portions, worker: int) -> Portion:
    """One that is there; a test that would wait fails."""
    found: list[Portion | None] = []
    thread = threading.Thread(target=lambda: found.append(portions.take(worker)), daemon=True)
    thread.start()
    thread.join(5)
    assert found, "no portion came"
    assert found[0] is not None
    return found[0]


def test_workers_take_portions_as_they_fall_idle_and_those_that_they_know() -> None:
    portions = Portions([1, 2], backup=False)
    portions.begin(evaluation(1, 4))
    order = [1, 2, 1, 1]
    for worker in order:
        portion = taken(portions, worker)
        portions.done(worker, portion, portion.index)
    assert [(index, worker) for index, worker, _ in portions.results()] == [(0, 1), (1, 2), (2, 1), (3, 1)]
    portions.begin(evaluation(2, 4))
    assert [taken(portions, worker).index for worker in (2, 1, 2)] == [1, 0, 2]
    portions.begin(evaluation(3, 4, batch=2))
    assert [taken(portions, worker).index for worker in (2, 1)] == [0, 1]


def test_a_portion_that_takes_long_is_given_twice_and_the_first_answer_counts() -> None:
    clock = Clock()
    portions = Portions([1, 2, 3], backup=True, clock=clock)
    portions.begin(evaluation(1, 2))
    slow, quick = taken(portions, 1), taken(portions, 2)
    clock.now = 1.0
    portions.done(2, quick, "quick")
    clock.now = 1.5
    again = taken(portions, 2)
    assert again == slow
    # Not to a third one.
    waits = threading.Thread(target=portions.take, args=(3,), daemon=True)
    waits.start()
    waits.join(0.1)
    assert waits.is_alive()
    portions.done(2, again, "second")
    portions.done(1, slow, "first")
    assert list(portions.results()) == [(0, 2, "second"), (1, 2, "quick")]
    assert portions.repeated == 1
    portions.close()
    waits.join(5)
    assert not waits.is_alive()


def test_an_answer_for_another_place_of_the_weights_does_not_count() -> None:
    portions = Portions([1, 2], backup=True)
    portions.begin(evaluation(1, 1))
    old = taken(portions, 1)
    portions.begin(evaluation(2, 1))
    portions.done(1, old, "old")
    portions.done(2, taken(portions, 2), "new")
    assert list(portions.results()) == [(0, 2, "new")]


def test_others_do_the_portions_of_a_worker_that_is_gone() -> None:
    portions = Portions([1, 2], backup=False)
    portions.begin(evaluation(1, 1))
    taken(portions, 1)
    portions.lost(1, RunError("it is gone"))
    assert portions.take(1) is None
    portion = taken(portions, 2)
    portions.done(2, portion, "done")
    assert list(portions.results()) == [(0, 2, "done")]
    portions.begin(evaluation(2, 1))
    portions.lost(2, RunError("it is gone, too"))
    with pytest.raises(RunError, match="too"):
        list(portions.results())


def test_what_it_can_not_do_is_said() -> None:
    lbfgs, own = registry.create("sandblaster", {}), registry.create("sandblaster", {"update": "optimizer"})
    assert (lbfgs.own_optimizer, lbfgs.synchronous) == ("L-BFGS, history 10", False)
    assert (own.own_optimizer, own.synchronous) == ("", True)
    assert "leave --accumulate out" in (lbfgs.skip_optimizer({"name": "SGD"}, 2) or "")
    assert lbfgs.skip_optimizer({"name": "Muon"}, 1) is None
    assert "Muon" in (own.skip_optimizer({"name": "Muon"}, 1) or "")
    assert "clip by value" in (own.skip_optimizer({"name": "SGD", "clipnorm": 1.0}, 1) or "")
    assert own.skip_optimizer({"name": "SGD", "clipvalue": 1.0}, 1) is None
    assert lbfgs.divides(1)
    assert not registry.create("sandblaster", {"portions": 1}).divides(1)


def test_the_others_do_the_work_of_a_remote_worker_that_died() -> None:
    strategy = registry.create("sandblaster", {})
    first, second, coordinator = Task("remote", 0), Task("remote", 1), Task("worker", 0)
    everyone = [first, second, coordinator]
    assert strategy.after_death(first, [second, coordinator], everyone) is Reaction.GO_ON
    assert strategy.after_death(second, [coordinator], everyone) is Reaction.END
    assert strategy.after_death(Task("ps", 0), everyone, everyone) is Reaction.END


def test_its_optimizer_is_in_the_spec() -> None:
    spec = make_spec("sandblaster:history=5", 2, learning_rate=0.3, lr_schedule="cosine", warmup_epochs=1.0)
    assert (spec.optimizer, spec.learning_rate) == ("own: L-BFGS, history 5", 1.0)
    assert (spec.lr_schedule, spec.warmup_epochs) == ("constant", 0.0)
    assert make_spec("sandblaster:update=optimizer", 2).optimizer == "adam"
    assert "leave --accumulate out" in (make_spec("sandblaster", 2, accumulate=2).skip() or "")


@pytest.fixture
def keep_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEEP_VARIABLE, "1")


def losses(folder: Path) -> list[float]:
    return [float(each) for each in journal.read(folder / "worker-0.jsonl").steps["loss"]]


def weights(folder: Path) -> list[np.ndarray]:
    return kept(folder)[-1]


@pytest.mark.slow
def test_a_run_is_scipys_minimisation(tmp_path: Path, beside_the_models: None, no_strays: None) -> None:
    """All examples in a batch; portions of unlike sizes, whose gradients go to two shards."""
    import softmax_regression
    from stratbench.harness.worker.workload import SpecWorkload

    work = {"model": "softmax_regression:model", "dataset": "mnist-12k", "global_batch": 9000, "steps": 15}
    spec = make_spec("sandblaster:portions=7,ps=2", 2, **work)
    workload = SpecWorkload(spec)
    start = [each.astype("f8") for each in workload.model().get_weights()]
    ((x, y),) = workload.in_order(workload.rows["train"], 9000)
    inputs = x.reshape(len(x), -1) / 255.0

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = theta[:-10].reshape(-1, 10), theta[-10:]
        logits = inputs @ kernel + bias
        top = logits.max(axis=1)
        value = (np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(len(y)), y]).mean()
        return float(value), np.concatenate([g.ravel() for g in softmax_regression.gradient([kernel, bias], x, y)])

    theirs, counts = by_scipy(loss, np.concatenate([each.ravel() for each in start]), 15)
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    ours = losses(tmp_path)
    # Both go their own way once a line search asks for another place.
    assert counts[10] == 11 + counts[1] - 2, "the problem no longer fits this test"
    np.testing.assert_allclose(ours[:10], theirs[:10], rtol=1e-4)
    trained = journal.read(tmp_path / "worker-0.jsonl").trained
    assert trained is not None
    assert 1.0 <= trained["figures"]["evaluations_per_step"] < 1.5


@pytest.mark.slow
def test_who_computes_a_portion_changes_no_bit(tmp_path: Path, keep_weights: None, no_strays: None) -> None:
    work = {"dataset": "mnist-12k", "global_batch": 240, "steps": 8}
    runs = {
        "two": make_spec("sandblaster:portions=6", 2, **work),
        "shards": make_spec("sandblaster:portions=4,backup=false", 3, **work),
        "killed": make_spec("sandblaster:portions=6", 2, inject=["kill:remote=1,step=3"], **work),
        "slow": make_spec("sandblaster:portions=6", 2, inject=["slow:remote=0,seconds=0.5"], **work),
        "paused": make_spec("sandblaster:portions=6", 2, inject=["pause:remote=0,step=3,seconds=1"], **work),
    }
    for name, spec in runs.items():
        outcome = launch(spec, tmp_path / name, reacts=True)
        assert outcome.status == "ok", outcome.reason
        if name == "killed":
            assert outcome.tasks["remote-1"] == "killed by SIGKILL"
    expected = weights(tmp_path / "two")
    for name in runs:
        for one, other in zip(weights(tmp_path / name), expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["ps=1", pytest.param("worker=0", marks=pytest.mark.exhaustive)])
def test_a_dead_shard_ends_the_run(killed: str, tmp_path: Path, no_strays: None) -> None:
    spec = make_spec("sandblaster:ps=2", 2, inject=[f"kill:{killed},step=3"])
    outcome = launch(spec, tmp_path, reacts=True)
    assert outcome.status == "failed"
    assert f"{killed.replace('=', '-')} was killed by SIGKILL" in outcome.reason


@pytest.mark.slow
def test_dead_remote_workers_end_the_run(tmp_path: Path, no_strays: None) -> None:
    spec = make_spec("sandblaster", 2, inject=["kill:remote=0,step=3", "kill:remote=1,step=5"])
    outcome = launch(spec, tmp_path, reacts=True)
    # On a busy machine both are found dead at once, and the reason names the first.
    assert outcome.status == "failed" and re.search("remote-[01] was killed by SIGKILL", outcome.reason)
    assert outcome.tasks["remote-0"] == outcome.tasks["remote-1"] == "killed by SIGKILL"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["norm_model:model", "dropout_model:model"])
def test_layers_with_a_state_of_their_own(
    model: str, tmp_path: Path, beside_the_models: None, keep_weights: None, no_strays: None
) -> None:
    """The loss of a batch falls, although a search for a lower one asks for it more than once."""
    spec = make_spec("sandblaster:portions=2", 2, model=model, dataset="mnist-12k", global_batch=3000, steps=9)
    outcome = launch(spec, tmp_path)
    assert outcome.status == "ok", outcome.reason
    found = losses(tmp_path)
    assert max(found[-3:]) < 0.7 * found[0]
    assert all(np.isfinite(each).all() for each in weights(tmp_path))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_slow_worker_costs_little(tmp_path: Path) -> None:
    """Every worker sleeps, as two cores compute for two only."""

    def seconds(options: str, slow: float) -> float:
        sleeps = [f"slow:remote={index},seconds={slow if index == 1 else 0.4}" for index in range(4)]
        spec = make_spec(f"sandblaster:update=optimizer,{options}", 4, inject=sleeps, global_batch=640, steps=14)
        folder = tmp_path / f"{options}-{slow}"
        outcome = launch(spec, folder)
        assert outcome.status == "ok", outcome.reason
        return float(np.median(journal.read(folder / "worker-0.jsonl").steps["step_seconds"][2:]))

    assert seconds("portions=8", 1.2) < 1.3 * seconds("portions=8", 0.4)
    alone = "portions=1,backup=false"
    assert seconds(alone, 1.2) > 2 * seconds(alone, 0.4)
