"""Gradients in buckets: which ones, in which order TensorFlow computes them, and that they are the same gradients."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from stratbench.strategies._shared.buckets import buckets, compute_in_order, exchange

KIB = 1 / 1024


def awkward() -> keras.Model:
    """A layer that is used twice, a skip, state, random numbers, a penalty, an unused weight's zero gradient."""
    keras.utils.set_random_seed(7)
    layers = keras.layers
    inputs = keras.Input((6,))
    twice = layers.Dense(6, activation="gelu", kernel_regularizer="l2")
    x = layers.Add()([inputs, twice(twice(inputs))])
    x = layers.Dropout(0.3, seed=3)(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.mark.parametrize(
    ("bucket_mib", "expected"),
    [
        (0.0, [[5], [4], [3], [2], [1], [0]]),
        ("all", [[5, 4, 3, 2, 1, 0]]),
        (KIB, [[5, 4], [3, 2], [1, 0]]),
        (5 * KIB, [[5, 4, 3, 2, 1, 0]]),
    ],
)
def test_buckets_have_at_least_their_size_and_the_last_layer_is_first(
    bucket_mib: float | Literal["all"], expected: list[list[int]]
) -> None:
    """Each layer has 4.125 KiB. After two of them, the third would be a bucket that is too small."""
    model = keras.Sequential([keras.Input((32,)), *(keras.layers.Dense(32) for _ in range(3))])
    assert buckets(model.trainable_variables, bucket_mib) == expected


def step(model: keras.Model, positions: list[list[int]], inspect: Any = None) -> list[np.ndarray]:
    """Gradients of one training step."""
    x = tf.constant(np.random.default_rng(1).normal(size=(8, 6)).astype("float32"))

    @tf.function(autograph=False)
    def gradients() -> list[tf.Tensor]:
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2) + tf.add_n(model.losses)
        found = tape.gradient(loss, variables)
        if positions:
            compute_in_order(loss, found, positions)
        if inspect:
            inspect(found)
        return found

    return [gradient.numpy() for gradient in gradients()]


@pytest.mark.parametrize("bucket_mib", [0.0, KIB / 8, "all"])
def test_an_order_changes_gradients_by_rounding_only(bucket_mib: float | Literal["all"]) -> None:
    positions = buckets(awkward().trainable_variables, bucket_mib)
    for ours, plain in zip(step(awkward(), positions), step(awkward(), []), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-7)


def test_each_gradient_waits_for_those_before_it() -> None:
    def before(op: tf.Operation) -> set[str]:
        found: set[str] = set()
        todo = [op]
        while todo:
            one = todo.pop()
            if one.name not in found:
                found.add(one.name)
                todo += [tensor.op for tensor in one.inputs] + list(one.control_inputs)
        return found

    waits: dict[bool, list[bool]] = {}

    def look(gradients: list[tf.Tensor]) -> None:
        last_first = gradients[::-1]
        waits[ordered] = [earlier.op.name in before(later.op) for earlier, later in pairwise(last_first)]

    for ordered in (False, True):
        model = awkward()
        step(model, buckets(model.trainable_variables, 0.0) if ordered else [], look)
    assert all(waits[True]) and not all(waits[False])


def test_an_exchange_gives_back_the_order_of_the_tensors() -> None:
    tensors = [tf.constant(float(number)) for number in range(4)]
    seen: list[list[float]] = []

    def double(bucket: list[tf.Tensor]) -> list[tf.Tensor]:
        seen.append([float(tensor) for tensor in bucket])
        return [2 * tensor for tensor in bucket]

    assert [float(tensor) for tensor in exchange(tensors, [[3, 2], [1], [0]], double)] == [0.0, 2.0, 4.0, 6.0]
    assert seen == [[3.0, 2.0], [1.0], [0.0]]
