"""Where gradients of embedding tables may hold only the rows that a batch looks up, each once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from .clip import Clip

if TYPE_CHECKING:
    import keras

    from ..trainer import Workload

_LEAST_RATIO = 2
_ID_BYTES = 8


def updates_by_rows(settings: Mapping[str, Any]) -> bool:
    """Whether an optimizer leaves the rows of a weight as they are whose gradient is 0."""
    name, decay = settings["name"], settings.get("weight_decay")
    return not decay and (name == "Adagrad" or (name == "SGD" and not settings.get("momentum")))


def kept_as_rows(workload: Workload) -> bool:
    """Whether Keras's optimizer can be given rows: it updates by rows, and needs no whole gradient before."""
    settings = workload.optimizer_settings
    whole = workload.accumulate > 1 or workload.scales_loss or workload.jit or workload.own_step
    return updates_by_rows(settings) and not whole and not Clip.of(settings)


def embeddings(model: keras.Model) -> list[keras.layers.Embedding]:
    """The layers that look up rows, at any depth."""
    import keras

    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)]


def fewer(ids: int | None, table: keras.Variable) -> bool:
    """Whether so many rows are at most half of the table: otherwise all of it is hardly more to send."""
    return ids is not None and _LEAST_RATIO * ids <= table.shape[0]


def row_bytes(ids: int, table: keras.Variable | tf.Variable) -> int:
    """Of so many rows and their ids."""
    return ids * (math.prod(table.shape[1:]) * tf.as_dtype(table.dtype).size + _ID_BYTES)
