"""Run by ``horovodrun -np 2``: a sharded model beside the same model whole, on the same examples; fails by an assert.

Both processes read the same examples, so that the mean of their gradients is each one's own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf
from stratbench.strategies.collectives._sharding import ShardedModel

STEPS = 3
LAYERS = 5
"""With trained weights, counted once for each time that the model calls them."""


def build() -> keras.Model:
    """What is apt to go wrong: a layer called twice, a nested model, state, random numbers, a penalty, odd sizes."""
    keras.utils.set_random_seed(7)
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    twice = layers.Conv2D(3, 3, padding="same", activation="relu")
    x = layers.Conv2D(3, 3, padding="same", kernel_regularizer="l2")(image)
    x = layers.BatchNormalization()(twice(twice(x)))
    head = keras.Sequential([layers.Flatten(), layers.Dropout(0.5, seed=3), layers.Dense(5)])
    return keras.Model(image, head(x))


def train(model: Any, x: tf.Tensor, y: tf.Tensor) -> tuple[list[float], Counter[str]]:
    """Losses of STEPS steps of Adam, and how often each kind of operation is in a step's graph."""
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    cost = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        variables = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = cost(y, model(x, training=True)) + tf.add_n(model.losses)
        optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return loss

    concrete = step.get_concrete_function()
    functions = concrete.graph.as_graph_def().library.function
    names = [op.type for op in concrete.graph.get_operations()]
    return [float(concrete()) for _ in range(STEPS)], Counter(names + [n.op for f in functions for n in f.node_def])


def main() -> None:
    hvd.init()
    random = np.random.default_rng(1)
    x = tf.constant(random.normal(size=(6, 8, 8, 1)).astype("float32"))
    y = tf.constant(random.integers(5, size=6).astype("int32"))
    whole, cut = build(), build()
    trained = list(cut.trainable_variables)
    sharded = ShardedModel(cut, hvd)
    assert all(tf.size(v.value).numpy() == 0 for v in trained), "the whole weights are still held"
    held = sum(int(tf.size(v.value)) for v in sharded.trainable_variables)
    elements = sum(int(tf.size(v.value)) for v in whole.trainable_variables)
    assert elements / 2 <= held <= elements / 2 + len(trained), f"{held} of {elements} held"

    expected, _ = train(whole, x, y)
    losses, operations = train(sharded, x, y)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for ours, theirs in zip(sharded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # Gathered for the forward pass, forgotten, and gathered again for the backward pass.
    assert operations["HorovodAllgather"] == 2 * LAYERS, operations
    assert operations["HorovodReducescatter"] == LAYERS, operations
    hvd.shutdown()


if __name__ == "__main__":
    main()
