"""Models with embedding tables, for `test_rows`. Each takes ids of shape (4,), below 400, and gives 3 scores."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

IDS, WIDTH, LENGTH, CLASSES = 400, 6, 4, 3


def _finished(ids: keras.KerasTensor, *vectors: Any) -> keras.Model:
    together = layers.Concatenate()([layers.Flatten()(each) for each in vectors])
    return keras.Model(ids, layers.Dense(CLASSES)(together))


def two_lookups() -> keras.Model:
    """One table, of which each example needs two parts; ids repeat."""
    ids, table = keras.Input((LENGTH,), dtype="int32"), layers.Embedding(IDS, WIDTH, name="table")
    return _finished(ids, table(ids[:, :3]), table(ids[:, 2:]))


def masked() -> keras.Model:
    """Id 0 is padding, behind which a recurrent layer does not look."""
    ids = keras.Input((LENGTH,), dtype="int32")
    return _finished(ids, layers.GRU(5)(layers.Embedding(IDS, WIDTH, mask_zero=True, name="table")(ids)))


def small() -> keras.Model:
    """A table that has fewer rows than two batches have ids, beside a large one."""
    ids = keras.Input((LENGTH,), dtype="int32")
    return _finished(ids, layers.Embedding(IDS, WIDTH, name="table")(ids), layers.Embedding(8, 2)(ids % 8))


def regularised() -> keras.Model:
    """All rows have a gradient."""
    ids = keras.Input((LENGTH,), dtype="int32")
    return _finished(ids, layers.Embedding(IDS, WIDTH, embeddings_regularizer="l2")(ids))


def tied() -> keras.Model:
    """The table is multiplied as a whole, too."""
    ids, table = keras.Input((LENGTH,), dtype="int32"), layers.ReversibleEmbedding(IDS, WIDTH)
    return _finished(ids, table(table(ids), reverse=True))


class Looping(keras.Model):
    """Looks up within a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = layers.Embedding(IDS, WIDTH), layers.Dense(CLASSES)

    def call(self, ids: Any) -> Any:
        """The sum over the positions, one after the other."""
        self.table(ids[:, 0])

        def add(place: Any, total: Any) -> Any:
            return total + self.table(keras.ops.take(ids, place, axis=1))

        return self.last(keras.ops.fori_loop(0, LENGTH, add, keras.ops.zeros((keras.ops.shape(ids)[0], WIDTH))))


def looping() -> keras.Model:
    """See `Looping`."""
    return Looping()
