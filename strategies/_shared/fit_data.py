"""The examples of an epoch, as arguments of Keras's ``fit``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..trainer import Batch, Workload, examples_of


def arrays(workload: Workload, batches: Sequence[Batch], examples: dict[int, int]) -> dict[str, Any]:
    """Whole arrays, of which ``fit`` takes batches in order.

    Args:
        examples: gets the number of each batch's.
    """
    examples.update(enumerate(map(examples_of, batches)))
    whole = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    x, y, weights = _given(workload, whole, _array)
    return {"x": x, "y": y, "sample_weight": weights, "batch_size": workload.global_batch}


def stream(workload: Workload, batches: Iterable[Batch], examples: dict[int, int], count: int) -> dict[str, Any]:
    """A ``tf.data.Dataset`` of so many batches, each of which exists only while it is needed.

    Args:
        batches: iterated as often as Keras asks for it; under tf.distribute, it drops its first iterator.
        examples: gets the number of each batch's, before its step.
    """

    def given(batch: Batch) -> Any:
        return keras.utils.pack_x_y_sample_weight(*_given(workload, batch, _tensor))

    def each() -> Iterator[Any]:
        for place, batch in enumerate(batches):
            examples[place] = examples_of(batch)
            yield given(batch)

    first = given(workload.empty_batch)
    signature = keras.tree.map_structure(lambda like: tf.TensorSpec((None, *like.shape[1:]), like.dtype), first)
    dataset = tf.data.Dataset.from_generator(each, output_signature=signature)
    # Without a known end, Keras calls its callbacks for one step more.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return {"x": dataset.prefetch(tf.data.AUTOTUNE)}


def _given(workload: Workload, batch: Batch, convert: Callable[[Any], Any]) -> list[Any]:
    """x, y and sample weights; None for those that are not there."""
    parts = workload.fit_arguments(batch)
    return [None if each is None else keras.tree.map_structure(convert, each) for each in parts]


def _array(values: Any) -> Any:
    """As ``fit`` takes it: of text, it takes tensors alone."""
    array = np.asarray(values)
    return tf.constant(array) if array.dtype.kind == "S" else array


def _tensor(values: Any) -> tf.Tensor:
    """Of the type that ``fit`` makes of an array."""
    tensor = tf.convert_to_tensor(values)
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
