"""How much work an example is: operations by TensorFlow's profiler, tokens, and an error where memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import launch, make_spec
from stratbench.datasets.base import Array, Info
from stratbench.harness.launch import watch
from stratbench.harness.plan import models
from stratbench.harness.worker import operations, wording
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.results.raw import journal, measure, quality
from stratbench.strategies.base import Task

SAID = (
    "memory ran out on CPU:0 with 64 examples a replica, for a tensor of shape [1048576,33554432]; "
    "use a smaller batch, or more replicas of the same global batch"
)


def test_a_dense_layer_multiplies_three_matrices() -> None:
    workload = SpecWorkload(make_spec(model="mlp-wide:units=256"))
    found = operations.flops_per_example(workload, workload.model())
    forward = [2 * 784 * 256, 2 * 256 * 256, 2 * 256 * 10]
    # The first layer's inputs have no gradient; biases, activations and the loss are little beside it.
    products = 3 * sum(forward) - forward[0]
    assert products < found < 1.05 * products


@pytest.mark.parametrize(
    ("equation", "shapes", "as_product"),
    [
        ("bij,bjk->bik", [(3, 5, 7), (3, 7, 11)], 2 * 3 * 5 * 7 * 11),
        ("...i,ij->...j", [(3, 5, 7), (7, 11)], 2 * 3 * 5 * 7 * 11),
        ("ab...,bc->a...c", [(3, 5, 7, 2), (5, 11)], 2 * 3 * 5 * 14 * 11),
    ],
)
def test_einsum_counts_as_the_product_that_it_is(equation: str, shapes: list[tuple[int, ...]], as_product: int) -> None:
    import tensorflow as tf

    specs = [tf.TensorSpec(shape) for shape in shapes]
    graph = tf.function(lambda a, b: tf.raw_ops.Einsum(inputs=[a, b], equation=equation)).get_concrete_function(*specs)
    assert operations._flops(graph.graph) == as_product


def test_what_the_profiler_does_not_see_is_not_guessed() -> None:
    import tensorflow as tf

    def loop(x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ x), (0, x))[1]

    assert operations._flops(tf.function(loop).get_concrete_function(tf.TensorSpec((4, 4))).graph) is None
    for size, expected in ((None, None), (4, 2 * 4**3)):
        product = tf.function(lambda x: x @ x).get_concrete_function(tf.TensorSpec((size, 4)))
        assert operations._flops(product.graph) == expected


def test_tokens_are_those_of_sequences_alone() -> None:
    def tokens(x: object) -> int | None:
        return operations.tokens_per_example(Info(8, 2, 10, x))

    ids = Array((64,), "uint16")
    assert tokens(ids) == 64 and tokens({"a": ids, "b": ids}) == 128
    assert tokens(Array((28, 28), "uint8")) is None and tokens(Array((), "int32")) is None
    assert tokens({"ids": ids, "numbers": Array((13,), "float32")}) is None


def test_a_run_says_how_much_it_computes_and_its_training_metrics(tmp_path: Path) -> None:
    small = "gpt-small:blocks=1,width=8,heads=1,vocabulary=32"
    file = tmp_path / "form.json"
    file.write_text(models.own(small).form().to_json())
    spec = make_spec(model=small, dataset="synthetic:examples=120", data_file=str(file), steps=4, global_batch=16)
    assert launch(spec, tmp_path / "run").status == "ok"
    log = journal.read(tmp_path / "run" / "worker-0.jsonl")
    row = measure.run([log], 0.0)
    assert row["tokens_per_second"] == pytest.approx(64 * row["examples_per_second"])
    assert row["flops_per_second"] == pytest.approx(row["flops_per_example"] * row["examples_per_second"])
    assert row["metric"] == "perplexity" and row["test_accuracy"] >= 0
    found = {(each["split"], each["metric"]): each["value"] for each in quality.rows([log], log)}
    assert found.keys() == {
        (split, name) for split in ("train", "validation", "test") for name in ("loss", "perplexity", "accuracy")
    }
    assert found["test", "perplexity"] == pytest.approx(2.718281828 ** found["test", "loss"], rel=1e-3)
    assert found["train", "loss"] != found["test", "loss"]


def test_memory_that_ran_out_is_said_with_the_device_and_the_batch() -> None:
    import tensorflow as tf

    text = (
        "OOM when allocating tensor with shape[1048576,33554432] and type float on "
        "/job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu"
    )
    assert wording.out_of_memory(tf.errors.ResourceExhaustedError(None, None, text), 64) == SAID
    assert wording.out_of_memory(ValueError(text), 64) is None


@pytest.mark.exhaustive
def test_tensorflow_says_it_so() -> None:
    """It takes ten seconds to give up."""
    import tensorflow as tf

    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.zeros([2**20, 2**25])
    assert wording.out_of_memory(caught.value, 64) == SAID


def test_a_process_that_the_kernel_killed_for_memory_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch.Watch([Task()], tmp_path, lambda label, event: None)
    assert "memory" not in seen.explain([seen.death("worker-0", -9)])
    before = watch.killed_for_memory()
    monkeypatch.setattr(watch, "killed_for_memory", lambda: before + 1)
    assert "killed by SIGKILL (memory ran out) before" in seen.explain([seen.death("worker-0", -9)])
    assert "memory" not in seen.explain([seen.death("worker-0", -15)])


def test_compiled_steps_have_the_same_operations() -> None:
    found = []
    for jit in ("off", "on"):
        workload = SpecWorkload(make_spec(jit=jit))
        found.append(operations.flops_per_example(workload, workload.model()))
        assert workload.jit == (jit == "on")
    assert found[0] == found[1] > 0
