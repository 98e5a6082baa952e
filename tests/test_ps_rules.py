"""The update of every optimizer on a ps task is that of Keras's own `apply`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from stratbench.harness.plan import optimizers
from stratbench.strategies._shared.keras_rule import KerasRule
from stratbench.strategies._shared.update_rules import has_kernel, update_of
from stratbench.strategies._shared.whole_weights import skip_optimizers

v1 = tf.compat.v1
STEPS = 5
SETTINGS = [
    *optimizers.CLASSES,
    "adam:amsgrad=true",
    "adam:weight_decay=0.1",
    "adamw:weight_decay=0.1",
    "ftrl:l1_regularization_strength=0.01",
    "rmsprop:momentum=0.5,centered=true",
    "sgd:momentum=0.9,nesterov=true",
]
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(6, 4)).astype("float32")
GRADIENTS = RANDOM.normal(size=(STEPS, 6, 4)).astype("float32")
RATES = (0.01, 0.01, 0.02, 0.02, 0.005)


def make(settings: dict[str, Any]) -> keras.optimizers.Optimizer:
    settings = dict(settings)
    return getattr(keras.optimizers, settings.pop("name"))(**settings)


def by_keras(settings: dict[str, Any]) -> np.ndarray:
    weight, optimizer = keras.Variable(WEIGHT), make(settings)
    optimizer.build([weight])
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient)], [weight])
    return weight.numpy()


def in_a_graph(settings: dict[str, Any], lock: bool) -> list[np.ndarray]:
    """Two weights that start alike and share the learning rate."""
    rules = [None if has_kernel(settings) else KerasRule(make(settings), keras.Variable(WEIGHT)) for _ in range(2)]
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        rate = v1.get_variable("rate", initializer=0.0, use_resource=True)
        gradient = v1.placeholder(tf.float32, WEIGHT.shape)
        weights = [v1.get_variable(f"weight_{i}", initializer=WEIGHT, use_resource=True) for i in range(2)]
        updates = [
            update_of(weight, rate, settings, lock, rule)(gradient) for weight, rule in zip(weights, rules, strict=True)
        ]
        session.run(v1.global_variables_initializer())
        for values, number in zip(GRADIENTS, RATES, strict=True):
            rate.load(number, session)
            session.run(updates, {gradient: values})
        return session.run(weights)


@pytest.mark.parametrize("lock", [False, True])
@pytest.mark.parametrize("text", SETTINGS)
def test_it_is_keras_own(text: str, lock: bool) -> None:
    settings = optimizers.parse(text).settings | {"learning_rate": 0.5}
    expected = by_keras(settings)
    for weight in in_a_graph(settings, lock):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [text for text in SETTINGS if not skip_optimizers(optimizers.parse(text).settings)])
def test_pieces_are_updated_as_the_whole(text: str) -> None:
    """Of weights that are cut: not under the optimizers that need all of a weight."""
    settings = optimizers.parse(text).settings | {"learning_rate": 0.5}
    bounds = [(0, 9), (9, 24)]
    rules = [
        None if has_kernel(settings) else KerasRule(make(settings), keras.Variable(np.zeros(end - begin, "float32")))
        for begin, end in bounds
    ]
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        rate = v1.get_variable("rate", initializer=0.0, use_resource=True)
        gradient = v1.placeholder(tf.float32, 24)
        pieces = [
            v1.get_variable(f"piece_{begin}", initializer=WEIGHT.reshape(-1)[begin:end], use_resource=True)
            for begin, end in bounds
        ]
        updates = [
            update_of(piece, rate, settings, False, rule)(gradient[begin:end])
            for piece, rule, (begin, end) in zip(pieces, rules, bounds, strict=True)
        ]
        session.run(v1.global_variables_initializer())
        for values, number in zip(GRADIENTS, RATES, strict=True):
            rate.load(number, session)
            session.run(updates, {gradient: values.reshape(-1)})
        found = np.concatenate(session.run(pieces)).reshape(WEIGHT.shape)
    np.testing.assert_allclose(found, by_keras(settings), rtol=1e-5, atol=1e-6)


def test_every_optimizer_of_keras_is_known() -> None:
    classes = {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)
    }
    known = {*optimizers.CLASSES.values(), *optimizers.NOT_SUPPORTED}
    assert classes - {"Optimizer", "LossScaleOptimizer"} == known
