"""Replicas that take turns in one process leave one another's layers as they were."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf
from stratbench.strategies._shared.turns import kept

pytestmark = pytest.mark.slow


class Layer(keras.layers.Layer):
    """Keeps what ``compute_loss`` of a model may use."""

    def call(self, x: Any) -> Any:
        self.add_loss(tf.reduce_sum(x))
        self.seen, self.parts = x, {"half": [x / 2]}
        return x


def test_what_a_layer_holds_is_that_of_its_replica() -> None:
    layer = Layer()
    model = keras.Sequential([keras.Input((1,)), layer])
    model(tf.constant([[1.0]]))
    weights = list(model.weights)

    with kept(model):
        model(tf.constant([[7.0]]))
        layer.later = tf.constant(3.0)
        layer.times = 5
    assert [float(loss) for loss in model.losses] == [1.0]
    assert float(layer.seen[0, 0]) == 1.0 and float(layer.parts["half"][0][0, 0]) == 0.5
    # What is no tensor stays as it is: it may have been made for all.
    assert not hasattr(layer, "later") and layer.times == 5
    assert model.weights == weights


def test_losses_that_another_replica_adds_last_are_its_own() -> None:
    layer = Layer()
    model = keras.Sequential([keras.Input((1,)), layer])
    model(tf.constant([[1.0]]))
    with kept(model):
        layer.add_loss(tf.constant(9.0))
    assert [float(loss) for loss in model.losses] == [1.0]
