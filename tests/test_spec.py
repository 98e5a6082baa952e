from __future__ import annotations

import itertools
from collections import Counter

import pytest
from stratbench.errors import UsageError
from stratbench.harness.plan import learning_rate, optimizers, rounds
from stratbench.harness.plan.experiment import Experiment
from stratbench.harness.plan.pairs import parse_options
from stratbench.harness.plan.spec import RunSpec
from stratbench.results.raw.record import run_id

WORK = {"dataset": "mnist-12k", "global_batch": 120, "cores_per_replica": 1}


def expand(*strategies: str, **changes: object) -> list[RunSpec]:
    return Experiment(strategies=list(strategies), **{**WORK, **changes}).expand()


def test_grid_runs_single_once_and_the_others_at_every_size() -> None:
    specs = expand("single", "mirrored", "ps:sync=true", replicas=[1, 2], repeats=2)
    assert [(s.strategy, s.replicas, s.repeat) for s in specs[:5]] == [
        ("single", 1, 0),
        ("mirrored", 1, 0),
        ("mirrored", 2, 0),
        ("ps", 1, 0),
        ("ps", 2, 0),
    ]
    assert len(specs) == 10
    assert len({s.run_id for s in specs}) == 10


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_rounds_are_balanced_against_drift(count: int) -> None:
    made = rounds.orders(count, 2 * count, seed=3)
    assert made[0] == list(range(count))
    assert all(sorted(order) == list(range(count)) for order in made)
    square = made[: count if count % 2 == 0 else 2 * count]
    times = len(square) // count
    for place in range(count):
        assert Counter(order[place] for order in square) == dict.fromkeys(range(count), times)
    follows = Counter(pair for order in square for pair in itertools.pairwise(order))
    every_other = [(one, other) for one in range(count) for other in range(count) if one != other]
    assert follows == dict.fromkeys(every_other, times)


def test_the_seed_decides_on_the_order_of_rounds() -> None:
    orders = {str(rounds.orders(8, 8, seed)) for seed in range(10)}
    assert len(orders) == 10 and rounds.orders(8, 8, 1) == rounds.orders(8, 8, 1)
    specs = expand("single", "mirrored", "ps", repeats=6)
    assert [s.strategy for s in specs[:3]] == ["single", "mirrored", "ps"]
    assert {s.strategy for s in specs[3::3]} == {"single", "mirrored", "ps"}
    assert [s.repeat for s in specs] == sorted(list(range(6)) * 3)


def test_strong_and_weak_scaling_set_both_batches() -> None:
    strong = expand("mirrored", replicas=[3])[0]
    weak = expand("mirrored", replicas=[3], global_batch=None, per_replica_batch=40)[0]
    assert (strong.global_batch, strong.per_replica_batch) == (120, 40)
    assert (weak.global_batch, weak.per_replica_batch, weak.reference_batch) == (120, 40, 40)


def test_replicas_get_equal_cores_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratbench.harness.plan.cores.usable", lambda: list(range(8)))
    specs = expand("single", "mirrored", replicas=[1, 2, 4], cores_per_replica=None)
    assert {s.cores_per_replica for s in specs} == {2}


def test_run_id_ignores_the_timeout_and_default_options_only() -> None:
    base = expand("ps")[0].run_id
    assert expand("ps", timeout=7.0)[0].run_id == base
    assert expand("ps:sync=false")[0].run_id == base
    assert expand("ps:sync=true")[0].run_id != base
    assert expand("ps", seed=2)[0].run_id != base


def test_options_reach_the_strategies_that_have_them() -> None:
    specs = expand("ps", "horovod", options={"sync": "true"})
    assert [s.options for s in specs] == [{"sync": True}, {}]


@pytest.mark.parametrize(
    ("strategies", "changes", "message"),
    [
        (["horvod"], {}, "Did you mean 'horovod'"),
        (["ps:synch=true"], {}, "Did you mean 'sync'"),
        (["ps:ps=0"], {}, "greater than or equal to 1. Received: '0'"),
        (["ps:sync=perhaps"], {}, "Received: 'perhaps'"),
        (["ps:sync"], {}, "key=value. Received: 'sync'"),
        (["mirrored"], {"options": {"sync": "true"}}, "strategy mirrored has the options steps_per_execution"),
        ([], {}, "at least one --strategy"),
        (["mirrored"], {"replicas": [0]}, "at least 1. Received: 0"),
        (["single"], {"replicas": [2]}, "at most 1 replica. Received: 2"),
        (
            ["mirrored"],
            {"replicas": [7]},
            "divisible by the replicas. Received: 120 for 7 replicas; 119 or 126",
        ),
        (
            ["mirrored"],
            {"per_replica_batch": 8},
            "exactly one of --global-batch and --per-replica-batch. Received: both",
        ),
        (["mirrored"], {"global_batch": None}, "Received: neither"),
        (["mirrored"], {"global_batch": 0}, "--global-batch must be greater than 0"),
        (["mirrored"], {"epochs": 1, "steps": 1}, "not both"),
        (["mirrored"], {"learning_rate": float("nan")}, "--learning-rate must be greater than 0"),
        (["mirrored"], {"dataset": "mnits"}, "Did you mean 'mnist'"),
        (["mirrored"], {"split": "60/20"}, "Received: "),
        (["mirrored"], {"warmup_epochs": -1}, "--warmup-epochs must be 0 or more"),
        (["mirrored"], {"optimizer": "addamw"}, "Received: 'addamw'. Did you mean 'adamw'?"),
        (["mirrored"], {"optimizer": "adam:learning_rate=1"}, "can't set learning_rate: give --learning-rate"),
        (["mirrored"], {"optimizer": "adam:use_ema=true"}, "can't set use_ema: it is not supported yet"),
        (["mirrored"], {"optimizer": "adam:"}, "NAME or NAME:key=value"),
        (["mirrored"], {"optimizer": "adam:epsilon=1,epsilon=2"}, "each key once"),
        (["mirrored"], {"optimizer": "adam:epsilon=small"}, "numbers below 1e30, true, false or null"),
        (["mirrored"], {"optimizer": "adam:epsilon=nan"}, "Received: 'adam:epsilon=nan'"),
        (["mirrored"], {"clip_norm": 0.0}, "--clip-norm must be greater than 0"),
        (["mirrored"], {"accumulate": 0}, "--accumulate must be greater than 0"),
        (["mirrored"], {"accumulate": 2, "last_batch": "keep"}, "--accumulate needs batches of one size"),
        (["mirrored"], {"optimizer": "adam:clipnorm=-1"}, "a number above 0 as clipnorm. Received: 'adam:clipnorm=-1'"),
        (["mirrored"], {"optimizer": "adam:gradient_accumulation_steps=1"}, "from 2 to 2147483647 as gradient_acc"),
        (["mirrored"], {"optimizer": "adam:gradient_accumulation_steps=2.5"}, "a whole number from 2 to"),
        (["mirrored"], {"lr_schedule": "cosin"}, "Received: 'cosin'. Did you mean 'cosine'?"),
        (["mirrored"], {"lr_schedule": "constant:end=1"}, "constant with nothing after it. Received: 'constant:end=1'"),
        (["mirrored"], {"lr_schedule": "cosine:end=2"}, "cosine[:end=E] with 0 ≤ E ≤ 1, the share"),
        (["mirrored"], {"lr_schedule": "cosine:"}, "Received: 'cosine:'"),
        (["mirrored"], {"lr_schedule": "cosine:end=0,end=1"}, "Received: 'cosine:end=0,end=1'"),
        (["mirrored"], {"lr_schedule": "exponential:end=0"}, "with 0 < E ≤ 1"),
        (["mirrored"], {"lr_schedule": "step:every=nan"}, "with 0 < EPOCHS ≤ 2147483647 and 0 < F < 1"),
        (["mirrored"], {"lr_schedule": "step:every=1,factor=1"}, "Received: 'step:every=1,factor=1'"),
        (["mirrored"], {"seed": -1}, "--seed"),
        (["mirrored"], {"global_batch": 20_000}, "training examples"),
    ],
)
def test_bad_input_is_one_line(strategies: list[str], changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(*strategies, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_is_called_what_the_user_wrote() -> None:
    (spec,) = expand("ps:sync=true", replicas=[2], inject=["slow:worker=0,seconds=0.05"])
    assert spec.title == "ps sync=true ×2 with slow:worker=0,seconds=0.05"


def test_options_need_a_key_and_a_value() -> None:
    assert parse_options(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(UsageError, match="key=value"):
        parse_options(["a"])


def test_learning_rate_scales_and_warms_up() -> None:
    assert learning_rate.factor("none", 512, 128) == 1
    assert learning_rate.factor("linear", 512, 128) == 4
    assert learning_rate.factor("sqrt", 512, 128) == 2
    schedule = learning_rate.Schedule(start=0.1, peak=0.4, warmup_steps=3)
    assert [round(schedule(step), 6) for step in range(5)] == [0.1, 0.2, 0.3, 0.4, 0.4]
    assert learning_rate.Schedule(0.1, 0.1, 0)(0) == 0.1


def test_schedules_fall_after_the_warm_up() -> None:
    def rates(text: str, warmup: int = 2, total: int = 8) -> list[float]:
        decay = learning_rate.parse(text)
        schedule = learning_rate.Schedule(0.5, 1.0, warmup, decay, total, steps_per_epoch=2)
        return [round(schedule(step), 6) for step in range(total)]

    assert rates("constant") == [0.5, 0.75, *[1.0] * 6]
    assert rates("cosine") == [0.5, 0.75, 1.0, 0.933013, 0.75, 0.5, 0.25, 0.066987]
    assert rates("cosine:end=0.5")[2:] == [1.0, 0.966506, 0.875, 0.75, 0.625, 0.533494]
    assert rates("exponential:end=0.01")[2:] == [1.0, 0.464159, 0.215443, 0.1, 0.046416, 0.021544]
    assert rates("step:every=1.5", warmup=0) == [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert rates("step:factor=0.5", warmup=0, total=6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    # All of the run is warm-up, as in a short trial of a long one.
    assert rates("cosine", warmup=10) == [round(0.5 + 0.05 * step, 6) for step in range(8)]


def test_schedules_are_keras_own() -> None:
    from keras.optimizers import schedules

    pairs = {
        "cosine:end=0.2": schedules.CosineDecay(0.3, 40, alpha=0.2),
        "exponential:end=0.05": schedules.ExponentialDecay(0.3, 40, 0.05),
        "step:every=2,factor=0.1": schedules.PiecewiseConstantDecay([9, 19, 29], [0.3, 0.03, 0.003, 0.0003]),
    }
    for text, theirs in pairs.items():
        ours = learning_rate.Schedule(0.3, 0.3, 0, learning_rate.parse(text), 40, steps_per_epoch=5)
        for step in range(40):
            assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5)


def test_a_schedule_is_another_run_and_none_is_the_run_that_it_was() -> None:
    plain, cosine = (expand("mirrored", lr_schedule=text)[0] for text in ("constant", "cosine:end=0"))
    assert cosine.lr_schedule == "cosine" and cosine.run_id != plain.run_id
    older = {name: value for name, value in plain.model_dump().items() if name != "lr_schedule"}
    assert RunSpec.model_validate(older).run_id == plain.run_id == run_id(older)


def test_clipping_and_accumulation_are_settings_of_the_optimizer() -> None:
    (spec,) = expand("mirrored", optimizer="adam:clipnorm=3", clip_norm=0.5, accumulate=4)
    assert spec.optimizer == "adam:global_clipnorm=0.5,gradient_accumulation_steps=4"
    assert optimizers.parse(spec.optimizer).accumulate == 4
    (plain,) = expand("mirrored", optimizer="adam:gradient_accumulation_steps=4", accumulate=1)
    assert plain.optimizer == "adam"


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("ps", "use sync=true, or mode=downpour,push=K"),
        ("ps:mode=ssp,staleness=2", "weights change within the steps of --accumulate"),
        ("ps:sync=true,backup=1", "backup workers may come late"),
        ("horovod:elastic=true", "half-summed gradients"),
    ],
)
def test_what_can_not_accumulate_says_why(strategy: str, reason: str) -> None:
    (spec,) = expand(strategy, replicas=[2], accumulate=4)
    assert reason in str(spec.skip())
    (plain,) = expand(strategy, replicas=[2])
    assert reason not in str(plain.skip())


def test_optimizers_have_settings_and_rates() -> None:
    (spec,) = expand("mirrored", optimizer="adamw:weight_decay=0.10, beta_1=0.8")
    assert (spec.optimizer, spec.learning_rate) == ("adamw:beta_1=0.8,weight_decay=0.1", 0.001)
    assert optimizers.parse("momentum").settings == {"name": "SGD", "momentum": 0.9}
    assert optimizers.parse("sgd:nesterov=TRUE,momentum=0.5").settings == {
        "name": "SGD",
        "momentum": 0.5,
        "nesterov": True,
    }
    assert [expand("mirrored", optimizer=name)[0].learning_rate for name in ("sgd", "lion")] == [0.1, 0.001]


def test_fsdp_skips_optimizers_that_need_whole_weights() -> None:
    assert "Lamb updates whole weights" in str(expand("fsdp", replicas=[2], optimizer="lamb")[0].skip())


@pytest.mark.parametrize(
    ("text", "dataset", "message"),
    [
        ("0", "synthetic", "must be CLASS=WEIGHT,… with weights from 0 to 1e30, each class once. Received: '0'"),
        ("0=1,0=2", "synthetic", "each class once"),
        ("0=nan", "synthetic", "Received: '0=nan'"),
        ("-1=2", "synthetic", "Received: '-1=2'"),
        ("0=1,10=2", "synthetic:classes=10", "classes from 0 to 9. Received: 10"),
    ],
)
def test_class_weights_that_can_not_be(text: str, dataset: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand("mirrored", class_weight=text, dataset=dataset)
    assert message in str(caught.value)


def test_precision_and_class_weights_are_other_runs() -> None:
    plain, *others = (
        expand("mirrored", **changes)[0]
        for changes in ({}, {"precision": "mixed_bfloat16"}, {"class_weight": "3=2, 1=0.50"})
    )
    assert others[1].class_weight == "1=0.5,3=2" and len({each.run_id for each in (plain, *others)}) == 3
    older = {key: value for key, value in plain.model_dump().items() if key not in ("precision", "class_weight")}
    assert run_id(older) == plain.run_id


def test_a_loop_of_its_own_takes_no_faults() -> None:
    (spec,) = expand("fit", inject=["kill:worker=0,step=1"])
    assert "fit has a loop of its own" in str(spec.skip())
    assert expand("fit")[0].skip() is None
