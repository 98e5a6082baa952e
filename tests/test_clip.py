"""Clipping where Keras's optimizer does not do it gives what it gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from stratbench.strategies._shared.clip import Clip, unclipped

RANDOM = np.random.default_rng(0)
SHAPES = ((3, 4), (4,), (2, 2, 2), ())
SIZES = (5.0, 0.01, 1.0, 1.0)
GRADIENTS = [(size * RANDOM.normal(size=shape)).astype("float32") for size, shape in zip(SIZES, SHAPES, strict=True)]


def by_keras(**settings: float) -> list[np.ndarray]:
    """What plain gradient descent with the rate 1 takes from weights of 0."""
    weights = [keras.Variable(np.zeros(shape, "float32")) for shape in SHAPES]
    optimizer = keras.optimizers.SGD(1.0, **settings)
    optimizer.apply([tf.constant(each) for each in GRADIENTS], weights)
    return [-weight.numpy() for weight in weights]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clipnorm": 0.5},
        {"clipvalue": 0.3},
        {"global_clipnorm": 2.0},
        {"global_clipnorm": 1000.0},
        {"clipnorm": 99},
    ],
    ids=str,
)
def test_as_keras(settings: dict[str, float]) -> None:
    clip = Clip.of({"name": "SGD", **settings})
    assert bool(clip) == bool(settings)
    expected = by_keras(**settings)
    for ours, theirs in zip(clip([tf.constant(each) for each in GRADIENTS]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    # The norm of a weight's gradient is that of all its pieces.
    first, *others = map(tf.constant, GRADIENTS)
    one, two, *rest = clip([first[:1], first[1:], *others], [0, 0, 1, 2, 3])
    for ours, theirs in zip([tf.concat([one, two], 0), *rest], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}])
def test_nothing_becomes_of_no_gradient_and_nan_stays_nan(settings: dict[str, float]) -> None:
    clip = Clip.of(settings)
    zero, bad = clip([tf.zeros(3), tf.constant([np.nan, 1.0])])
    assert np.isnan(bad.numpy()).all()
    assert np.isfinite(zero.numpy()).all() == ("clipnorm" in settings)
    assert not clip([tf.zeros(3)])[0].numpy().any()


def test_an_optimizer_that_no_longer_clips() -> None:
    optimizer = unclipped(keras.optimizers.Adam(clipnorm=1.0))
    assert (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue) == (None, None, None)
