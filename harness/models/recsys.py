"""A recommender of the kind of DLRM: Naumov et al., *Deep Learning Recommendation Model for Personalization and
Recommendation Systems*, 2019. Most of its weights are rows of tables, of which a batch needs few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...datasets.base import Array, described
from ...datasets.synthetic import Form, Values
from .base import Model, option

if TYPE_CHECKING:
    import keras

    from ...datasets.base import Info

_NUMBERS = 13
_HIDDEN = (64, 32)


@dataclass(frozen=True)
class Recsys(Model):
    """Numbers go through dense layers, ids through tables; all pairs of these vectors are multiplied."""

    name = "recsys"
    summary = "clicks predicted as by DLRM: x = {numbers, ids: one for each table}, tables of 1 M rows in all"

    rows: int = option(1_000_000, "rows of all tables together")
    tables: int = option(4, "tables, of which each example has one id")
    width: int = option(32, "values of a row")

    def form(self) -> Form:
        """See `Model.form`."""
        ids = Values((self.tables,), "int32", below=self._rows_of_one)
        return Form({"numbers": Values((_NUMBERS,)), "ids": ids}, Values((), "int32", "label", 2))

    @property
    def _rows_of_one(self) -> int:
        return -(-self.rows // self.tables)

    def check(self, info: Info) -> None:
        """See `Model.check`."""
        x = info.x
        fits = (
            isinstance(x, dict)
            and set(x) == {"numbers", "ids"}
            and all(isinstance(each, Array) and len(each.shape) == 1 for each in x.values())
        )
        if not fits or "int" not in x["ids"].dtype or x["ids"].shape != (self.tables,):
            what = f"examples with numbers, of shape (number,), and ids, integers of shape ({self.tables},)"
            raise self.needs(what, described(x))
        if info.classes != 2:
            raise self.needs("two classes", f"{info.classes} classes" if info.classes else info.not_classes)

    def build(self, info: Info) -> keras.Model:
        """See `Model.build`."""
        import keras
        from keras import layers, ops

        inputs = {name: keras.Input(each.shape, dtype=each.dtype, name=name) for name, each in info.x.items()}
        x = inputs["numbers"]
        for units in (*_HIDDEN, self.width):
            x = layers.Dense(units, activation="gelu")(x)
        vectors = [ops.expand_dims(x, 1)]
        for table in range(self.tables):
            embedding = layers.Embedding(self._rows_of_one, self.width, name=f"table_{table}")
            vectors.append(embedding(inputs["ids"][:, table : table + 1]))
        together = ops.concatenate(vectors, axis=1)
        products = layers.Flatten()(ops.matmul(together, ops.swapaxes(together, 1, 2)))
        x = ops.concatenate([x, products], axis=1)
        for units in _HIDDEN:
            x = layers.Dense(units, activation="gelu")(x)
        model = keras.Model(inputs, layers.Dense(1)(x), name=self.name)
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
        auc = keras.metrics.AUC(name="auc", from_logits=True)
        model.compile(optimizer=None, loss=keras.losses.BinaryCrossentropy(from_logits=True), metrics=[accuracy, auc])
        return model
