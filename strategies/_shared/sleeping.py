"""A task that is slowed down on purpose, by an operation that another one asks it to run.

TensorFlow keeps a process's Python functions under tokens, in order. What a serving process registers first can be
called by any graph that runs there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ...errors import RunError

_TOKEN = "pyfunc_0"


def register(sleep: Callable[[np.ndarray], np.ndarray]) -> tf.Graph:
    """Let operations by `asleep` call it in this process, as long as the result exists. Raises RunError."""
    graph = tf.Graph()
    with graph.as_default():
        made = tf.numpy_function(sleep, [tf.constant(0.0)], tf.float32)
    if made.op.get_attr("token").decode() != _TOKEN:
        raise RunError("this process has registered another Python function before, so it can't be slowed down")
    return graph


def asleep(seconds: tf.Tensor) -> tf.Tensor:
    """What the process that runs it has registered. → what that returns"""
    return tf.raw_ops.PyFunc(input=[seconds], token=_TOKEN, Tout=[tf.float32])[0]
