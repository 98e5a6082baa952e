"""What a user's model says beside its layers: used, named as unused, or refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Write, make_spec
from stratbench.errors import UsageError
from stratbench.harness.worker import trial, wording
from stratbench.harness.worker.workload import SpecWorkload

# TensorFlow takes seconds to load, and the suite in which this is the first to do so says so.
pytestmark = pytest.mark.slow


HEAD = """
import keras
from keras import layers, losses, metrics, optimizers

def layered(shape, classes, **last):
    return keras.Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(classes, **last)])

class Base(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(classes)

    def call(self, x):
        return self.dense(self.flatten(x))
"""


def compiled(arguments: str) -> str:
    return (
        "def without_decay(*names):\n    optimizer = optimizers.AdamW()\n"
        "    optimizer.exclude_from_weight_decay(var_names=names)\n    return optimizer\n"
        "def make(shape, classes):\n    model = layered(shape, classes)\n"
        f"    model.compile({arguments})\n    return model"
    )


UNUSED = {
    "loss='sparse_categorical_crossentropy'": "",
    "metrics=['accuracy']": "",
    "'adam', metrics=['acc', metrics.SparseCategoricalAccuracy()]": "",
    "optimizer=optimizers.Adam(0.001)": "",
    "optimizer=optimizers.Adam(0.0001)": "optimizer Adam(learning_rate=0.0001)",
    "optimizers.Adam(clipnorm=1.0)": "optimizer Adam(learning_rate=0.001, clipnorm=1.0)",
    "'rmsprop'": "optimizer RMSprop(learning_rate=0.001)",
    "optimizers.SGD(optimizers.schedules.CosineDecay(0.1, 10))": "optimizer SGD(learning_rate=CosineDecay)",
    "optimizers.AdamW(weight_decay=0.5)": "optimizer AdamW(learning_rate=0.001, weight_decay=0.5)",
    "'adam', jit_compile=True": "",
    "optimizers.LossScaleOptimizer(optimizers.Adam(0.001))": "",
    "optimizers.LossScaleOptimizer(optimizers.Adam(0.01))": "optimizer Adam(learning_rate=0.01)",
    "'adam', run_eagerly=True": "run_eagerly=True",
    "'adam', steps_per_execution=4": "steps_per_execution=4",
    "'adam', metrics=['accuracy', 'sparse_top_k_categorical_accuracy']": "",
    "'sgd', metrics=[metrics.SparseTopKCategoricalAccuracy(3)], run_eagerly=True": (
        "optimizer SGD(learning_rate=0.01); run_eagerly=True"
    ),
}


@pytest.mark.parametrize("arguments", UNUSED)
def test_what_compile_says_and_is_not_used_is_named(arguments: str, write: Write) -> None:
    assert trial.attempt(make_spec(model=write(compiled(arguments))))["unused"] == UNUSED[arguments]


def test_the_optimizer_that_the_run_uses_is_no_difference(write: Write) -> None:
    reference = write(compiled("optimizers.SGD(0.05, momentum=0.9)"))
    assert trial.attempt(make_spec(model=reference, optimizer="momentum", learning_rate=0.05))["unused"] == ""
    assert trial.attempt(make_spec(model=reference, optimizer="momentum"))["unused"] != ""


OWN = {
    "'adam'": ("adam", 0.001),
    "'sgd'": ("sgd", 0.01),
    "loss='mse'": ("rmsprop", 0.001),
    "optimizers.SGD(0.3, momentum=0.9)": ("momentum", 0.3),
    "optimizers.SGD(0.3, momentum=0.9, nesterov=True)": ("momentum:nesterov=true", 0.3),
    "optimizers.SGD(0.3, momentum=0.5)": ("sgd:momentum=0.5", 0.3),
    "optimizers.AdamW(3e-4, weight_decay=0.02)": ("adamw:weight_decay=0.02", 3e-4),
    "optimizers.Adam(0.1, beta_1=0.8, amsgrad=True)": ("adam:amsgrad=true,beta_1=0.8", 0.1),
    "optimizers.Lion(weight_decay=None)": ("lion", 0.001),
    "optimizers.AdamW(clipnorm=1.0)": ("adamw:clipnorm=1.0", 0.001),
    "optimizers.SGD(global_clipnorm=2, gradient_accumulation_steps=4)": (
        "sgd:global_clipnorm=2,gradient_accumulation_steps=4",
        0.01,
    ),
}


@pytest.mark.parametrize("arguments", OWN)
def test_the_optimizer_of_a_model_in_the_words_of_the_command_line(arguments: str, write: Write) -> None:
    import keras
    from stratbench.harness.plan import optimizers

    reference = write(compiled(arguments))
    found = trial.attempt(make_spec(model=reference))
    assert (found["optimizer"], found["learning_rate"]) == OWN[arguments]
    # It makes the same one again.
    spec = make_spec(model=reference, optimizer=found["optimizer"], learning_rate=found["learning_rate"])
    assert "optimizer" not in trial.attempt(spec)["unused"]
    assert hasattr(keras.optimizers, optimizers.parse(found["optimizer"]).settings["name"])


@pytest.mark.parametrize("metrics", ["None", "['accuracy']"])
def test_what_was_changed_after_compile_counts(metrics: str, write: Write) -> None:
    """With a metric and without one, which is added."""
    make = compiled(f"'sgd', metrics={metrics}").replace("return model", "model.optimizer.learning_rate = 0.5")
    assert trial.attempt(make_spec(model=write(f"{make}\n    return model")))["learning_rate"] == 0.5


@pytest.mark.parametrize(("strategy", "unused"), [("horovod", "synchronized=True of norm"), ("mirrored", "")])
def test_statistics_of_all_replicas_where_there_are_none(strategy: str, unused: str, write: Write) -> None:
    norm = "layers.BatchNormalization(synchronized=True, name='norm')"
    reference = write(compiled("'sgd'").replace("model.compile", f"model.add({norm})\n    model.compile"))
    for replicas in (1, 2):
        spec = make_spec(strategy, replicas, model=reference, optimizer="sgd", learning_rate=0.01)
        assert trial.attempt(spec)["unused"] == (unused if replicas > 1 else "")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("optimizers.SGD(use_ema=True)", "Received: SGD with use_ema=true, which is not supported yet."),
        ("optimizers.SGD(lambda: 0.1)", "SGD with a function as its learning rate; use a number, or a Learn"),
        ("type('Mine', (optimizers.SGD,), {})(0.1)", "Received: Mine, which is not one of Adadelta, "),
        ("without_decay('bias')", "Received: AdamW with exclude_from_weight_decay, which is not supported yet."),
    ],
)
def test_an_optimizer_that_is_not_supported_is_named(arguments: str, problem: str, write: Write) -> None:
    reference = write(compiled(arguments))
    text = trial.attempt(make_spec(model=reference))["problem"]
    assert (
        text.startswith(f"model {reference} must be compiled with an optimizer that can be used.") and problem in text
    )


SCHEDULES = {
    "optimizers.schedules.CosineDecay(0.1, 10)": (
        "CosineDecay(initial_learning_rate=0.1, decay_steps=10)",
        [0.1 * (1 + np.cos(np.pi * step / 10)) / 2 for step in range(10)] + [0.0] * 10,
    ),
    "optimizers.schedules.PiecewiseConstantDecay([3, 6], [0.3, 0.2, 0.1])": (
        "PiecewiseConstantDecay(boundaries=[3, 6], values=[0.3, 0.2, 0.1])",
        [0.3] * 4 + [0.2] * 3 + [0.1] * 13,
    ),
    "Mine()": ("Mine()", [0.1 * step for step in range(20)]),
}
MINE = """
class Mine(optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 * keras.ops.cast(step, "float32")

"""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_of_a_model_is_followed_step_by_step(schedule: str, write: Write) -> None:
    words, rates = SCHEDULES[schedule]
    reference = write(MINE + compiled(f"optimizers.SGD({schedule})"))
    found = trial.attempt(make_spec(model=reference))
    assert found["schedule"] == words and "schedule" not in found["unused"]
    # The first rate, or the largest where that is 0.
    assert found["learning_rate"] == pytest.approx(rates[0] or max(rates))
    work = {"optimizer": "sgd", "learning_rate": found["learning_rate"], "compiled_schedule": f"compiled {words}"}
    followed = make_spec(model=reference, **work)
    assert trial.attempt(followed)["unused"] == ""
    assert trial.attempt(make_spec(model=reference, optimizer="sgd"))["unused"].startswith("optimizer SGD(learning_r")
    workload = SpecWorkload(followed)
    workload.model()
    assert [workload.schedule()(step) for step in range(20)] == pytest.approx(rates, abs=1e-7)
    # Keras itself gives the same.
    theirs = workload.model().optimizer
    theirs.build([])
    for step in (0, 4, 19):
        theirs.iterations.assign(step)
        assert float(theirs.learning_rate) == pytest.approx(rates[step], abs=1e-7)


def test_a_schedule_of_a_long_run_goes_on(write: Write) -> None:
    work = {"optimizer": "sgd", "learning_rate": 0.1, "compiled_schedule": "compiled Mine()"}
    workload = SpecWorkload(make_spec(model=write(MINE + compiled("optimizers.SGD(Mine())")), **work))
    workload.model()
    schedule = workload.schedule()
    assert [schedule(step) for step in (511, 512, 5000, 0)] == pytest.approx([51.1, 51.2, 500.0, 0.0])


def test_a_schedule_is_scaled_and_warmed_up(write: Write) -> None:
    reference = write(compiled("optimizers.SGD(optimizers.schedules.CosineDecay(0.1, 10))"))
    work = {"lr_scaling": "linear", "reference_batch": 24, "warmup_epochs": 0.2, "compiled_schedule": "compiled Cosine"}
    workload = SpecWorkload(make_spec(model=reference, learning_rate=0.1, **work))
    workload.model()
    plain = [0.1 * (1 + np.cos(np.pi * step / 10)) / 2 for step in range(10)]
    factors = [1, 1.25, 1.5, 1.75, 2, 2, 2, 2, 2, 2]
    assert round(0.2 * workload.steps_per_epoch) == 4
    assert [workload.schedule()(step) for step in range(10)] == pytest.approx(np.multiply(plain, factors), abs=1e-7)


@pytest.mark.parametrize(
    ("body", "problem"),
    [("raise ValueError('no rate')", "whose schedule fails: ValueError: no rate"), ("return 0.0", "is 0 in all steps")],
)
def test_a_schedule_that_gives_no_rate_is_named(body: str, problem: str, write: Write) -> None:
    mine = MINE.replace('return 0.1 * keras.ops.cast(step, "float32")', body)
    assert problem in trial.attempt(make_spec(model=write(mine + compiled("optimizers.SGD(Mine())"))))["problem"]


def test_a_model_that_is_not_compiled_has_no_optimizer(write: Write) -> None:
    found = trial.attempt(make_spec(model=write("def make(shape, classes): return layered(shape, classes)")))
    assert "optimizer" not in found and "problem" not in found


def method(name: str, parameters: str) -> str:
    return (
        f"class Mine(Base):\n    def {name}({parameters}):\n        return super().{name}(*args, **kwargs)\n"
        "def make(shape, classes):\n    model = Mine(classes)\n    model.compile('adam')\n    return model"
    )


REFUSED = {
    "make_train_function": (method("make_train_function", "self, *args, **kwargs"), "make_train_function to Keras"),
    "fit": (method("fit", "self, *args, **kwargs"), "Mine.fit"),
    "train_step of the object": (
        "def make(shape, classes):\n    model = Base(classes)\n    model.train_step = lambda data: {}\n"
        "    return model",
        "must apply its gradients by optimizers that are attributes of the model. Received: no call of apply or",
    ),
    "weights of another type": (
        "def make(shape, classes): return layered(shape, classes, dtype='float16')",
        "must have float32 weights: others are not supported yet. Received: ",
    ),
    "two inputs": (
        "def make(shape, classes):\n    a, b = keras.Input(shape), keras.Input(shape)\n"
        "    return keras.Model([a, b], layers.Dense(classes)(layers.Flatten()(layers.Add()([a, b]))))",
        "must accept examples of shape (28, 28, 1) and type float32: ValueError: Layer",
    ),
    "two outputs without a loss": (
        "class Mine(Base):\n    def call(self, x):\n        return {'one': super().call(x), 'two': x}\n"
        "def make(shape, classes): return Mine(classes)",
        "or be compiled with a loss. Received: (None, 10), (None, 28, 28, 1), and no loss",
    ),
    "too few scores": (
        "def make(shape, classes):\n    model = layered(shape, classes - 1)\n"
        "    model.compile(loss='sparse_categorical_crossentropy')\n    return model",
        "must have a score for each of the 10 classes. Received: the output shape (None, 9)",
    ),
    "targets of another shape": (
        "def make(shape, classes):\n    model = layered(shape, 3)\n    model.compile(loss='mse')\n    return model",
        "can't be trained: ",
    ),
    "a loss that fails": (
        "def bad(y, predictions): raise ValueError('no such loss')\n" + compiled("loss=bad"),
        "can't be trained: ValueError: no such loss",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_work_is_refused_by_name(case: str, write: Write) -> None:
    text, message = REFUSED[case]
    reference = write(text)
    with pytest.raises(UsageError) as caught:
        trial.attempt(make_spec(model=reference))
    assert message in str(caught.value) and reference in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


NORMALISED = {
    "a mask": (
        "class Masked(layers.Layer):\n    supports_masking = True\n    def compute_mask(self, x, mask=None):\n"
        "        return keras.ops.any(x != 0, axis=-1)\n    def call(self, x):\n        return x\n"
        "def make(shape, classes): return keras.Sequential([layered(shape, classes), Masked()])"
    ),
    "a class that is ignored": compiled("loss=losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=3)"),
}


@pytest.mark.parametrize("case", NORMALISED)
def test_means_over_what_a_mask_leaves_are_combined(case: str, write: Write) -> None:
    found = trial.attempt(make_spec(model=write(NORMALISED[case])))
    assert (found["alone"], found["normalised"]) == ("", True)


def test_a_mask_of_the_users_own_is_not_known(write: Write) -> None:
    reference = write(
        "def own(y, predictions):\n    some = keras.ops.cast(y < 3, 'float32')\n"
        "    loss = losses.sparse_categorical_crossentropy(y, predictions, from_logits=True)\n"
        "    return keras.ops.sum(loss * some) / (1e-3 + keras.ops.sum(some))\n" + compiled("loss=own")
    )
    found = trial.attempt(make_spec(model=reference))
    assert "not a mean over examples" in found["alone"] and not found["normalised"]


ALONE = {
    "a sum": (compiled("loss=losses.SparseCategoricalCrossentropy(reduction='sum')"), "not a mean over examples"),
    "add_loss by the sum": (
        "class Add(layers.Layer):\n    def call(self, x):\n        self.add_loss(keras.ops.sum(keras.ops.abs(x)))\n"
        "        return x\n"
        "def make(shape, classes):\n"
        "    return keras.Sequential([layers.Input(shape), Add(), layers.Flatten(), layers.Dense(classes)])",
        "not a mean over examples",
    ),
    "pairs of examples": (
        "def pairs(y, scores):\n    near = 0.01 * keras.ops.matmul(scores, keras.ops.transpose(scores))\n"
        "    return keras.ops.logsumexp(near, axis=-1)\n" + compiled("loss=pairs"),
        "not a mean over examples",
    ),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_loss_that_several_replicas_would_change_is_named(case: str, write: Write) -> None:
    text, message = ALONE[case]
    assert message in trial.attempt(make_spec(model=write(text)))["alone"]


@pytest.mark.parametrize(
    ("reduction", "normalised"), [("sum_over_batch_size", False), ("mean_with_sample_weight", True)]
)
@pytest.mark.parametrize("rows", [4, 7, 100])
def test_sample_weights_that_are_alike_at_first(
    rows: int, reduction: str, normalised: bool, write: Write, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"], file["y"] = np.random.default_rng(0).random((rows, 4)), np.arange(rows) % 2
        file["w"] = np.where(np.arange(rows) < 50, 1.0, 2.0)
    loss = f"losses.SparseCategoricalCrossentropy(from_logits=True, reduction={reduction!r})"
    reference = write(compiled(f"loss={loss}"))
    dataset = f"hdf5:{tmp_path / 'data.h5'},sample_weight=w"
    found = trial.attempt(make_spec(model=reference, dataset=dataset, split="50/25/25", global_batch=1))
    assert (found["alone"], found["normalised"]) == ("", normalised)


def test_a_loss_that_is_no_number_is_left_to_the_run(write: Write) -> None:
    reference = write(
        "def nothing(y, scores): return keras.ops.mean(scores, axis=-1) * float('nan')\n" + compiled("loss=nothing")
    )
    assert trial.attempt(make_spec(model=reference))["alone"] == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb", "a"),
        ("Graph execution error:\n\nDetected at node x\n\tIncompatible shapes: [8]\n", "Incompatible shapes: [8]"),
        (
            "{{function_node __wrapped__Mul_device_/job:a}} Incompatible [8] vs. [2] [Op:Mul] name: ",
            "Incompatible [8] vs. [2]",
        ),
        ("Exception encountered when calling X.call().\n\n\x1b[1mInvalid input\x1b[0m\n\nmore", "Invalid input"),
        ("", ""),
    ],
)
def test_what_a_message_says_in_one_line(text: str, line: str) -> None:
    assert wording.telling_line(text) == line
    assert wording.one_line(ValueError(text)) == (f"ValueError: {line}" if line else "ValueError")


def test_random_numbers_in_evaluation_are_no_difference(write: Write) -> None:
    reference = write(
        "class Noise(layers.Layer):\n    def __init__(self):\n        super().__init__()\n"
        "        self.seed = keras.random.SeedGenerator(1)\n"
        "    def call(self, x):\n        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)\n"
        "def make(shape, classes): return keras.Sequential([layered(shape, classes), Noise()])"
    )
    assert trial.attempt(make_spec(model=reference))["alone"] == ""


@pytest.mark.parametrize(
    "text",
    [
        "def make(shape, classes): return layered(shape, classes, kernel_regularizer='l2')",
        "def make(shape, classes): return layered(shape, classes, activity_regularizer='l2')",
        "class Add(layers.Layer):\n    def call(self, x):\n        self.add_loss(keras.ops.mean(x))\n        return x\n"
        "def make(shape, classes):\n"
        "    return keras.Sequential([layers.Input(shape), Add(), layers.Flatten(), layers.Dense(classes)])",
        "def make(shape, classes): return layered(shape, classes, dtype='mixed_bfloat16')",
        "def make(shape, classes):\n"
        "    return keras.Sequential([layered(shape, classes), layers.Activation('softmax', dtype='float16')])",
    ],
)
def test_regularisers_losses_that_are_means_and_other_float_types_are_taken(text: str, write: Write) -> None:
    assert trial.attempt(make_spec(model=write(text))) == {
        "same": False,
        "unfit": {},
        "unused": "",
        "unused_by_own": "",
        "alone": "",
        "normalised": False,
        "scales_loss": False,
        "own_step": False,
        "own_optimizers": "",
        "own_schedule": "",
        "loss": "",
        "unevaluated": "",
    }
