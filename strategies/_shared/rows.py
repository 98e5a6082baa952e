"""Where gradients of embedding tables may hold only the rows that a batch looks up, each once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .clip import Clip

if TYPE_CHECKING:
    import keras


def updates_by_rows(settings: Mapping[str, Any]) -> bool:
    """Whether an optimizer leaves the rows of a weight as they are whose gradient is 0."""
    name, decay = settings["name"], settings.get("weight_decay")
    return not decay and (name == "Adagrad" or (name == "SGD" and not settings.get("momentum")))


def kept_as_rows(settings: Mapping[str, Any], accumulate: int) -> bool:
    """Whether Keras's optimizer can be given rows: it updates by rows, and needs no whole gradient before."""
    return updates_by_rows(settings) and accumulate == 1 and not Clip.of(settings)


def has_tables(model: keras.Model) -> bool:
    """Whether it has layers that look up rows."""
    import keras

    return any(isinstance(layer, keras.layers.Embedding) for layer in model._flatten_layers())
