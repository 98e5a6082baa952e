"""An algorithm as an operation of a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from .._shared.messages import Messages
from ._algorithms import ALGORITHMS
from ._shared_memory import SharedMemory


def algorithm_of(messages: Messages, name: str) -> Callable[[np.ndarray], None]:
    """What replaces a vector by the sum of all processes' vectors."""
    return SharedMemory(messages) if name == "shared-memory" else functools.partial(ALGORITHMS[name], messages)


class Reduce:
    """Means over all processes, in ``tf.function`` too.

    Args:
        algorithm: by its name in the strategy's options.
    """

    def __init__(self, messages: Messages, algorithm: str):
        self._size = messages.size
        self._sum = algorithm_of(messages, algorithm)

    def mean(self, value: tf.Tensor) -> tf.Tensor:
        """Of one tensor, over all processes."""
        found = tf.numpy_function(self._mean, [tf.reshape(value, [-1])], value.dtype)
        return tf.reshape(found, tf.shape(value))

    def means(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Of each tensor, with one all-reduce for all those of one type."""
        found: dict[int, tf.Tensor] = {}
        for dtype in dict.fromkeys(each.dtype for each in tensors):
            places = [place for place, each in enumerate(tensors) if each.dtype == dtype]
            vector = tf.concat([tf.reshape(tensors[place], [-1]) for place in places], axis=0)
            sizes = [tensors[place].shape.num_elements() for place in places]
            for place, piece in zip(places, tf.split(self.mean(vector), sizes), strict=True):
                found[place] = tf.reshape(piece, tensors[place].shape)
        return [found[place] for place in range(len(tensors))]

    def _mean(self, vector: np.ndarray) -> np.ndarray:
        # TensorFlow may use the memory that it gave again.
        total = vector.copy()
        self._sum(total)
        total /= np.asarray(self._size, total.dtype)
        return total
