"""The two things that Keras has no common name for on all of its backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...strategies.trainer import Tensor


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, compiled where the backend compiles functions of tensors."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, reduce_retracing=True, autograph=False)


def after(call: Callable[[], None], x: Tensor) -> Tensor:
    """``x``, once ``call`` has returned. In compiled code it is called each time that the code runs."""
    import keras

    if keras.backend.backend() != "tensorflow":
        call()
        return x
    import tensorflow as tf

    with tf.control_dependencies([tf.numpy_function(call, [], [])]):
        return tf.identity(x)
