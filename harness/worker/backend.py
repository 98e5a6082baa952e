"""What Keras has no common name for on all of its backends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ...strategies.trainer import Structure, Tensor


def rates(schedule: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    """steps → what a learning rate schedule gives for each, float32. It is traced once for each number of steps."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return lambda steps: np.asarray([float(schedule(step)) for step in steps], "float32")
    import tensorflow as tf

    def rate(step: Tensor) -> Tensor:
        return tf.cast(schedule(step), tf.float32)

    every = tf.function(lambda steps: tf.map_fn(rate, steps, fn_output_signature=tf.float32), autograph=False)

    def compute(steps: np.ndarray) -> np.ndarray:
        with tf.device("CPU"):
            return every(tf.constant(steps)).numpy()

    def apart(steps: np.ndarray) -> np.ndarray:
        # A strategy may have made a graph of its own the default one, but only in its own thread.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(compute, steps).result()

    return apart


def one_batch(batch: Structure) -> Any:
    """What ``model.evaluate`` takes as this one batch. It takes a generator, too, but 0.05 s longer to begin."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return (each for each in [batch])
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch)


def stream(batches: Callable[[], Iterator[Structure]]) -> Any:
    """What ``model.evaluate`` takes as these batches."""
    import keras

    first = next(batches())
    if isinstance(first, tuple):
        return batches()
    if keras.backend.backend() != "tensorflow":
        return ((x,) for x in batches())
    import tensorflow as tf

    # A generator could not give examples without targets as ``fit`` gives them to a model's own step: not in a tuple.
    signature = tf.nest.map_structure(lambda each: tf.TensorSpec((None, *each.shape[1:]), each.dtype), first)
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def gpu_peak_bytes() -> int | None:
    """The most memory that tensors have had on one of this process's GPUs; None without GPUs, or if it is not known."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    names = [device.name for device in tf.config.list_logical_devices("GPU")]
    return max((tf.config.experimental.get_memory_info(name)["peak"] for name in names), default=None)


def build() -> str:
    """From what the loaded TensorFlow was built; empty without it."""
    if "tensorflow" not in sys.modules:
        return ""
    import tensorflow as tf

    said = tf.sysconfig.get_build_info()
    cuda = f", CUDA {said['cuda_version']}" if said.get("cuda_version") else ""
    return f"{tf.version.GIT_VERSION}, compiler {tf.version.COMPILER_VERSION}{cuda}"


def after(call: Callable[[], None], x: Tensor) -> Tensor:
    """``x``, once ``call`` has returned, which is called when ``x`` is there.

    In compiled code it is called each time that the code runs.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        call()
        return x
    import tensorflow as tf

    with tf.control_dependencies([x]):
        called = tf.numpy_function(call, [], [])
    with tf.control_dependencies([called]):
        return tf.identity(x)
