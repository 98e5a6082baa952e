"""The threads of TensorFlow's pools in a task, and how they wait."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.eager import context


def set_threads(replicas: int, cores_per_replica: int, exchanges: bool = False) -> None:
    """Give TensorFlow's pools the cores of this process's replicas; call before TensorFlow makes any device.

    Args:
        exchanges: whether the step has operations that exchange tensors while others compute. One thread alone would
            begin them only when it has nothing left to compute. See also `sleep_when_idle`.
    """
    tf.config.threading.set_intra_op_parallelism_threads(replicas * cores_per_replica)
    tf.config.threading.set_inter_op_parallelism_threads(max(replicas, cores_per_replica, 1 + exchanges))
    if exchanges:
        # `tf.config` has no function for this. Only a session takes a ConfigProto.
        context.context()._config = sleep_when_idle(tf.compat.v1.ConfigProto())


def sleep_when_idle(config: tf.compat.v1.ConfigProto) -> tf.compat.v1.ConfigProto:
    """Have TensorFlow's threads sleep as soon as they have no work. → config

    By default they first ask again and again whether there is some. On a process's only core, this keeps the core from
    the thread that computes, and from those that exchange.
    """
    config.experimental.disable_thread_spinning = True
    return config
