"""Models cut into parts: where, in which order the parts compute, and that they train what one process does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import any_models
import cut_models
import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import DATASET, RATE, assert_same
from conftest import make_spec
from hypothesis import given
from hypothesis import strategies as some
from stratbench.errors import UsageError
from stratbench.harness.worker.trial import attempt
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.strategies._shared.replica import loss_and_gradients
from stratbench.strategies.base import Task
from stratbench.strategies.cut import _cluster, _copy, _driver, _where
from stratbench.strategies.cut._calls import Call, Calls, Value, calls_of
from stratbench.strategies.cut._cost import Costs
from stratbench.strategies.cut._driver import CutTrainer, Layout
from stratbench.strategies.cut._parts import cut
from stratbench.strategies.cut._schedule import BACKWARD, FORWARD, bubble, in_turn, most_kept, order
from stratbench.strategies.cut._traffic import bytes_of
from stratbench.strategies.registry import create

v1 = tf.compat.v1
STEPS = 6


class TestSchedule:
    @pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
    @pytest.mark.parametrize(("parts", "micro_batches"), [(1, 1), (2, 1), (2, 4), (4, 2), (4, 8)])
    def test_every_pass_is_done_once_after_what_it_needs(self, parts: int, micro_batches: int, schedule: Any) -> None:
        done = list(in_turn(parts, micro_batches, schedule))
        assert len(set(done)) == len(done) == 2 * parts * micro_batches
        place = {each: number for number, each in enumerate(done)}
        for part, each in done:
            before = part - 1 if each.kind == FORWARD else part + 1
            if 0 <= before < parts:
                assert place[before, each] < place[part, each]
            if each.kind == BACKWARD:
                assert place[part, each._replace(kind=FORWARD)] < place[part, each]

    def test_1f1b_keeps_fewer_activations(self) -> None:
        kept = {name: [most_kept(order(part, 4, 8, name)) for part in range(4)] for name in ("gpipe", "1f1b")}
        assert kept == {"gpipe": [8, 8, 8, 8], "1f1b": [4, 3, 2, 1]}

    def test_the_bubble(self) -> None:
        assert [bubble(parts, count) for parts, count in ((1, 4), (2, 1), (2, 4), (4, 2))] == [0, 0.5, 0.2, 0.6]


def chain(seconds: list[float], sizes: list[int]) -> tuple[Calls, Costs]:
    """Layers one after the other, whose outputs have so many bytes."""
    values = [Value() for _ in range(len(seconds) + 1)]
    calls = [
        Call(place, f"layer_{place}", lambda x: x, (values[place],), {}, (values[place + 1],))
        for place in range(len(seconds))
    ]
    return Calls(values[:1], calls, values[-1]), Costs(seconds, dict(zip(values, sizes, strict=True)), 0, 0)


class TestWhere:
    @given(some.data(), some.integers(1, 4))
    def test_no_other_cut_is_clearly_better(self, data: Any, parts: int) -> None:
        count = data.draw(some.integers(parts, 8))
        seconds = data.draw(some.lists(some.floats(0.001, 1), min_size=count, max_size=count))
        sizes = data.draw(some.lists(some.integers(1, 10**8), min_size=count + 1, max_size=count + 1))
        calls, costs = chain(seconds, sizes)

        def slowest(cuts: tuple[int, ...]) -> float:
            bounds = itertools.pairwise([0, *cuts, count])
            sent = [*[2 * sizes[place] / _where.BYTES_PER_SECOND for place in cuts], 0]
            return max(sum(seconds[a:b]) + more for (a, b), more in zip(bounds, sent, strict=True))

        every = list(itertools.combinations(range(1, count), parts - 1))
        bound = min(map(slowest, every)) * (1 + _where.SLACK)
        good = [each for each in every if slowest(each) <= bound * (1 + 1e-9)]
        found = tuple(_where.places(calls, costs, parts))
        assert found in good
        assert sum(sizes[place] for place in found) <= min(sum(sizes[place] for place in each) for each in good)

    def test_layers_are_named_in_any_order(self) -> None:
        calls, _ = chain([1.0] * 5, [1] * 6)
        assert _where.named_places(calls, ["layer_3", "layer_0"]) == [1, 4]

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["layer_9"], "Did you mean 'layer_"),
            (["layer_4"], "nothing comes after layer layer_4"),
            (["layer_1", "layer_1"], "each layer must be named once"),
        ],
    )
    def test_names_that_are_none(self, names: list[str], words: str) -> None:
        calls, _ = chain([1.0] * 5, [1] * 6)
        with pytest.raises(UsageError, match=words):
            _where.named_places(calls, names)


def work(model: str, data: Path, **changes: Any) -> SpecWorkload:
    """Of one of `cut_models`, or of `any_models`."""
    if hasattr(cut_models, model):
        settings: dict[str, Any] = {"model": f"cut_models:{model}", "dataset": DATASET}
    else:
        settings = {"model": f"any_models:{model}", "dataset": any_models.dataset(data, model)}
    settings |= {"optimizer": "momentum", "learning_rate": RATE["momentum"], "steps": STEPS} | changes
    return SpecWorkload(make_spec(**settings))


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside_the_models: None
) -> Callable[..., tuple[CutTrainer, list[float]]]:
    """Trains a cut model in this process: all parts are on one device."""
    monkeypatch.setattr(_driver, "device", lambda index: "/cpu:0")
    config = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=2)

    def run(workload: SpecWorkload, layout: Layout) -> tuple[CutTrainer, list[float]]:
        workload._folder, workload.replicas = tmp_path, layout.copies * layout.parts
        trainer = CutTrainer(_cluster.Node("", config), workload, layout)
        batches, schedule = workload.batches(1, 0).epoch(0), workload.schedule()
        return trainer, [trainer.step(next(batches), schedule(step)).loss for step in range(STEPS)]

    return run


def expected(workload: SpecWorkload, pieces: int = 1) -> tuple[list[np.ndarray], list[float]]:
    """The same by one model, which computes one micro-batch after the other."""
    model, optimizer, losses = workload.model(), workload.optimizer(), []
    optimizer.build(model.trainable_variables)
    schedule = workload.schedule()
    for step, batch in zip(range(STEPS), workload.batches(1, 0).epoch(0), strict=False):
        parts = [tf.nest.map_structure(lambda each, p=p: np.split(each, pieces)[p], batch) for p in range(pieces)]
        found = [loss_and_gradients(workload, model, part) for part in parts]
        optimizer.learning_rate = schedule(step)
        means = [sum(each) / pieces for each in zip(*[gradients for _, gradients in found], strict=True)]
        optimizer.apply(means, model.trainable_variables)
        losses.append(float(sum(loss for loss, _ in found)) / pieces)
    return model.get_weights(), losses


def exhaustive(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.exhaustive)


class TestSameWork:
    @pytest.mark.parametrize(
        ("model", "parts"),
        [
            ("residual", 3),
            ("dropped", 2),
            ("nested", 3),
            ("twins", 2),
            *itertools.product(["two_by_two", "half_trained", "half", "untargeted", "masked"], [2]),
            *itertools.starmap(exhaustive, [("residual", 2), ("dropped", 3), ("nested", 2), ("twins", 3)]),
            *[exhaustive(each, 2) for each in ("regression", "segmentation", "weighted", "binary", "autoencoder")],
        ],
    )
    def test_parts_train_what_the_whole_does(self, model: str, parts: int, data: Path, train: Any) -> None:
        trainer, losses = train(work(model, data), Layout(1, parts, [], 1, "gpipe"))
        weights, expected_losses = expected(work(model, data))
        assert_same(trainer.weights(), weights, 1e-5)
        assert losses == pytest.approx(expected_losses, rel=1e-5)

    @pytest.mark.parametrize(
        ("model", "schedule"),
        [
            ("residual", "1f1b"),
            ("nested", "gpipe"),
            *itertools.starmap(exhaustive, [("residual", "gpipe"), ("nested", "1f1b"), ("weighted", "gpipe")]),
            exhaustive("segmentation", "1f1b"),
        ],
    )
    def test_micro_batches_train_what_they_do_in_one_process(
        self, model: str, schedule: Any, data: Path, train: Any
    ) -> None:
        trainer, losses = train(work(model, data), Layout(1, 2, [], 4, schedule))
        weights, expected_losses = expected(work(model, data), pieces=4)
        assert_same(trainer.weights(), weights, 1e-5)
        assert losses == pytest.approx(expected_losses, rel=1e-5)

    def test_batch_statistics_make_micro_batches_another_computation(self, data: Path, train: Any) -> None:
        trainer, _ = train(work("residual", data), Layout(1, 2, [], 4, "gpipe"))
        with pytest.raises(AssertionError, match="differs by"):
            assert_same(trainer.weights(), expected(work("residual", data))[0], 1e-4)

    @pytest.mark.parametrize(
        "changes",
        [
            exhaustive({"optimizer": "adam", "learning_rate": 0.001}),
            {"optimizer": "adamw:weight_decay=0.1", "learning_rate": 0.001},
            {"optimizer": "sgd:global_clipnorm=0.05"},
            exhaustive({"lr_schedule": "cosine", "warmup_epochs": 0.01}),
        ],
    )
    def test_copies_of_parts(self, changes: dict[str, Any], data: Path, train: Any) -> None:
        trainer, losses = train(work("nested", data, **changes), Layout(2, 2, [], 2, "1f1b"))
        weights, expected_losses = expected(work("nested", data, **changes), pieces=4)
        assert_same(trainer.weights(), weights, 1e-4)
        assert losses == pytest.approx(expected_losses, rel=1e-4)

    def test_accumulation(self, data: Path, train: Any) -> None:
        accumulated = {"optimizer": "momentum:gradient_accumulation_steps=3"}
        trainer, _ = train(work("nested", data, **accumulated), Layout(1, 2, [], 2, "gpipe"))
        workload = work("nested", data)
        model, optimizer = workload.model(), workload.optimizer()
        optimizer.build(model.trainable_variables)
        batches = workload.batches(1, 0).epoch(0)
        for _ in range(STEPS // 3):
            found = [loss_and_gradients(workload, model, next(batches))[1] for _ in range(3)]
            optimizer.apply([sum(each) / 3 for each in zip(*found, strict=True)], model.trainable_variables)
        assert_same(trainer.weights(), model.get_weights(), 1e-5)

    def test_classes_have_weights(self, data: Path, train: Any) -> None:
        weighted = {"class_weight": "0=5,3=0.2"}
        trainer, losses = train(work("residual", data, **weighted), Layout(1, 2, [], 1, "gpipe"))
        weights, expected_losses = expected(work("residual", data, **weighted))
        assert_same(trainer.weights(), weights, 1e-5)
        assert losses == pytest.approx(expected_losses, rel=1e-5)

    def test_masks_cross_a_cut(self, data: Path, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a layer gives has its mask beside it, not in it."""

        def after_the_mask(calls: Calls, costs: Costs, parts: int) -> list[int]:
            return [1 + next(call.number for call in calls.calls if "mask" in call.kwargs)]

        monkeypatch.setattr(_driver, "places", after_the_mask)
        weights, _ = expected(work("masked", data))
        trainer, _ = train(work("masked", data), Layout(1, 2, [], 1, "gpipe"))
        assert_same(trainer.weights(), weights, 1e-5)
        monkeypatch.setattr(_copy, "get_keras_mask", lambda tensor: None)
        trainer, _ = train(work("masked", data), Layout(1, 2, [], 1, "gpipe"))
        with pytest.raises(AssertionError, match="differs by"):
            assert_same(trainer.weights(), weights, 1e-3)


class TestParts:
    def test_weights_are_in_one_part_each(self, data: Path, beside_the_models: None) -> None:
        model = work("residual", data).model()
        calls = calls_of(model)
        made = cut(model, calls, _where.named_places(calls, ["skipped", "sum"]))
        held = [id(v) for part in made.parts for v in (*part.trained, *part.fixed)]
        assert sorted(held) == sorted(id(v) for v in model.variables)
        assert [len(part.takes) for part in made.parts] == [1, 1, 1]
        assert made.parts[1].takes == made.parts[0].gives

    @pytest.mark.parametrize(
        ("model", "layout", "words"),
        [
            ("own", Layout(1, 2, [], 1, "gpipe"), "only functional and sequential models can be cut"),
            ("shared", Layout(1, 4, [], 1, "gpipe"), "layer twice is used on both sides of a cut"),
            ("shared", Layout(1, 2, ["between"], 1, "gpipe"), "layer twice is used on both sides of a cut"),
            ("dropped", Layout(1, 30, [], 1, "gpipe"), "a model of . layers can't be cut into 30 parts"),
            ("scored", Layout(1, 2, [], 1, "gpipe"), "a compute_loss of its own, which takes the whole model"),
        ],
    )
    def test_what_cant_be_cut(self, model: str, layout: Layout, words: str, data: Path, train: Any) -> None:
        with pytest.raises(UsageError, match=words):
            train(work(model, data), layout)

    def test_each_task_says_what_it_holds(self, data: Path, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[Any] = []
        monkeypatch.setattr(_driver, "tell", lambda workload, held: told.append(held))
        monkeypatch.setattr(_driver, "device", lambda index: f"/job:localhost/replica:0/task:0/cpu:{0}")
        trainer, _ = train(work("equal", data), Layout(1, 2, ["dense_3"], 4, "1f1b"))
        assert re.fullmatch(r"dense_3 \d+ %, last \d+ %", trainer.notes["cut"])
        assert trainer.notes["bubble_expected"] == 0.2
        assert 0 < trainer.notes["depth_seconds"] < trainer.notes["work_seconds"]
        assert 0 <= trainer.figures()["bubble"] < 1
        # One process has it all here, and half of the micro-batches' activations.
        assert told[0]["part-0"].weights_bytes == 4 * (8 * (784 * 784 + 784) + 7850)


class TestTraffic:
    def test_a_tensor_is_sent_once_to_each_task(self) -> None:
        with tf.Graph().as_default():
            with tf.device("/job:part/task:0"):
                x = v1.placeholder(tf.float32, (10,))
            with tf.device("/job:part/task:1"):
                y = tf.reduce_sum(x + 1) + tf.reduce_sum(x + 2)
            with tf.device("/job:part/task:2"):
                z = tf.identity(y)
            assert bytes_of(("part", 0), [y], ("part", 0)) == 10 * 4 + 4
            assert bytes_of(("part", 1), [z.op], ("part", 0)) == 10 * 4 + 4
            assert bytes_of(("part", 2), [z], ("part", 0)) == 4 + 4
            assert bytes_of(("part", 0), [z.op], ("part", 0)) == 40

    def test_an_unknown_shape(self) -> None:
        with tf.Graph().as_default():
            with tf.device("/job:part/task:0"):
                x = v1.placeholder(tf.float32, (None,))
            with tf.device("/job:part/task:1"):
                y = tf.reduce_sum(x)
            assert bytes_of(("part", 0), [y.op], ("part", 0)) is None


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "replicas", "words"),
        [
            ({"parts": 2}, 3, "ask for a multiple of 2"),
            ({"cut": "a+b"}, 4, "ask for a multiple of 3"),
            ({}, 4, None),
            ({"cut": "a,b"}, 6, None),
        ],
    )
    def test_replicas_are_copies_of_parts(self, options: dict[str, Any], replicas: int, words: str | None) -> None:
        found = create("model-parallel", options).skip(replicas)
        assert (found is None) == (words is None) and (words or "") in (found or "")

    def test_parts_that_contradict_the_cut(self) -> None:
        with pytest.raises(UsageError, match="must be 3, or left out"):
            create("pipeline", {"cut": "a+b", "parts": 2})

    def test_batches_that_micro_batches_cant_share(self) -> None:
        spec = make_spec("pipeline:micro_batches=5", 2)
        assert "a global batch of 48 can't be divided into 5 micro-batches" in (spec.skip() or "")
        assert "8 micro-batches of 3 copies" in (
            make_spec("pipeline:micro_batches=8,parts=1", 3, global_batch=60).skip() or ""
        )
        assert make_spec("pipeline:micro_batches=8,parts=1", 3).skip() is None

    def test_losses_that_need_all_examples(self) -> None:
        assert not create("model-parallel", {}).divides(3)
        assert not create("model-parallel", {"cut": "a"}).divides(2)
        assert create("model-parallel", {"cut": "a"}).divides(4)
        assert create("pipeline", {}).divides(1)
        assert create("pipeline", {}).skip_normaliser()

    def test_tasks(self) -> None:
        place = SimpleNamespace(host=lambda index: f"h{index}", address=lambda host: f"{host}:1")
        tasks = create("model-parallel", {}).tasks(3, place)  # type: ignore[arg-type]
        assert [(task.label, task.host, task.first_replica, task.replicas) for task in tasks] == [
            ("worker-0", "h0", 0, 1),
            ("part-1", "h1", 1, 1),
            ("part-2", "h2", 2, 1),
        ]
        assert isinstance(tasks[0], Task) and not tasks[0].serves and tasks[1].serves


def test_what_can_not_be_distributed_is_known_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names that layers have in a run, although a trial makes the model more than once."""
    (tmp_path / "bound_model.py").write_text(
        "import keras\n"
        "def model(shape, classes):\n"
        "    bound = keras.layers.Dense(classes, kernel_constraint='non_neg')\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), bound])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    references = ["model-parallel", "model-parallel:cut=flatten", "pipeline:cut=last", "fsdp", "sandblaster", "horovod"]
    specs = [make_spec(each, 2 if "=" in each else 3, model="bound_model:model") for each in references]
    keras.utils.clear_session()
    found = attempt(*specs)["unfit"]
    assert sorted(found) == sorted([specs[0].variant, *(each.variant for each in specs[2:5])])
    assert "2 layers can't be cut into 3 parts" in found["model-parallel ×3"]
    assert "Received: 'last'" in found["pipeline cut=last ×2"]
    assert "dense/kernel has a constraint" in found["fsdp ×3"]
    assert found["fsdp ×3"] == found["sandblaster ×3"]
