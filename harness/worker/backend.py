"""What Keras has no common name for on all of its backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...strategies.trainer import Tensor


def after(call: Callable[[], None], x: Tensor) -> Tensor:
    """``x``, once ``call`` has returned. In compiled code it is called each time that the code runs."""
    import keras

    if keras.backend.backend() != "tensorflow":
        call()
        return x
    import tensorflow as tf

    with tf.control_dependencies([tf.numpy_function(call, [], [])]):
        return tf.identity(x)
