"""Run by ``horovodrun -np 2``: a sharded model beside the same model whole, on the same examples; fails by an assert.

Both processes read the same examples, so that the mean of their gradients is each one's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf
from stratbench.strategies.collectives._sharding import ShardedModel

STEPS = 3
EQUAL = 6
COST = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Work:
    """As much of a workload as a step needs."""

    def total_loss(self, model: keras.Model, batch: Any, mean: Any = None) -> tf.Tensor:
        loss = COST(batch[1], model(batch[0], training=True))
        return loss + tf.add_n(model.losses) if model.losses else loss


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


class Own(keras.Model):
    """A subclassed model that does not call its layers in the order in which it has them, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last = keras.layers.Dense(5)
        self.again = keras.layers.Dense(64, activation="tanh")
        self.recurrent = keras.layers.GRU(64)
        self.scale = self.add_weight(shape=(64,), initializer="ones", name="scale")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.again(keras.ops.reshape(x, (-1, 1, 64)))
        return self.last(self.again(self.recurrent(x)) * self.scale)


def own() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = Own()
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


def train_whole(model: keras.Model, batch: Any) -> list[float]:
    """Losses of STEPS steps of Adam."""
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        variables = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = COST(batch[1], model(batch[0], training=True))
            loss = loss + tf.add_n(model.losses) if model.losses else loss
        optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return loss

    return [float(step()) for _ in range(STEPS)]


def train_sharded(model: ShardedModel, batch: Any) -> tuple[list[float], Counter[str]]:
    """As `train_whole`, and how often each kind of operation is in a step's graph."""
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        loss, gradients = model.loss_and_gradients(Work(), batch)  # type: ignore[arg-type]
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    graph = step.get_concrete_function().graph
    return [float(step()) for _ in range(STEPS)], Counter(op.type for op in graph.get_operations())


def compare(make: Callable[[], keras.Model], release: bool, batch: Any) -> Counter[str]:
    """Train the model whole and sharded; both must give the same losses and weights."""
    whole, cut = make(), make()
    trained = list(cut.trainable_variables)
    sharded = ShardedModel(cut, hvd, release)
    assert all(tf.size(v.value).numpy() == 0 for v in trained), "the whole weights are still held"
    held = sum(int(tf.size(v.value)) for v in sharded.trainable_variables)
    elements = sum(int(tf.size(v.value)) for v in whole.trainable_variables)
    assert elements / 2 <= held <= elements / 2 + len(trained), f"{held} of {elements} held"
    expected = train_whole(whole, batch)
    losses, operations = train_sharded(sharded, batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for ours, theirs in zip(sharded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    return operations


def deep() -> keras.Model:
    """Layers of equal size, so that no two of them are one unit."""
    keras.utils.set_random_seed(7)
    dense = [keras.layers.Dense(64, activation="tanh") for _ in range(EQUAL)]
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *dense])


def main() -> None:
    hvd.init()
    random = np.random.default_rng(1)
    x = tf.constant(random.normal(size=(6, 8, 8, 1)).astype("float32"))
    y = tf.constant(random.integers(5, size=6).astype("int32"))
    # Units, and those that are gathered again. The backward pass does not need the weights of the first one, and those
    # of the last ones fit into the memory that is allowed.
    for make, units, again in ((build, 2, 1), (own, 3, 0), (deep, EQUAL, 2)):
        for release in (True, False):
            operations = compare(make, release, (x, y))
            counts = operations["HorovodAllgather"], operations["HorovodAlltoall"]
            assert counts == (units + again * release, units), (make.__name__, release, counts)
    hvd.shutdown()


if __name__ == "__main__":
    main()
