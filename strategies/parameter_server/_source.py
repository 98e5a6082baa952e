"""What a graph over ps tasks is made from: a Keras model, its values, and which ps task holds which part of them."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from .._shared.graph_model import keep_constants, rule_of
from .._shared.keras_rule import KerasRule
from .._shared.replica import release
from .._shared.whole_weights import skip_optimizers
from ..trainer import Workload
from ._lookup import Tables, tables_of
from ._shards import Shards


@dataclasses.dataclass(frozen=True)
class Source:
    """The Keras model, whose variables have no values any more, and these, which can only be read outside of a graph.

    Attributes:
        weights: in the order of ``model.weights``; none any more once the ps tasks have them.
        state: by the id of each non-trainable Keras variable.
        places: of the trained weights in ``model.weights``, in the order of ``model.trainable_variables``.
        tables: trained weights of which only rows are fetched, and pushed.
        shards: which ps task holds which weight, or which piece of it; in the order of ``model.weights``.
        rules: of each piece of a trained weight, in order; None for those whose update has a kernel.
    """

    model: keras.Model
    weights: list[np.ndarray]
    state: dict[int, np.ndarray]
    places: list[int]
    tables: Tables
    shards: Shards
    rules: list[KerasRule | None]

    @classmethod
    def of(cls, workload: Workload, servers: int = 1, by_rows: bool = False) -> Source:
        """Build the model and read the values; call it eagerly.

        Args:
            servers: ps tasks that hold the weights.
            by_rows: whether there may be `tables`.
        """
        model = workload.model()
        keep_constants(model)
        state = {id(v): v.numpy() for v in model.non_trainable_variables}
        place_of = {id(weight): place for place, weight in enumerate(model.weights)}
        places = [place_of[id(weight)] for weight in model.trainable_variables]
        tables = tables_of(workload, model) if by_rows else {}
        all_whole = skip_optimizers(workload.optimizer_settings) is not None
        whole = [
            place
            for index, (place, weight) in enumerate(zip(places, model.trainable_variables, strict=True))
            if all_whole or index in tables or weight.constraint is not None
        ]
        shards = Shards.of([weight.shape for weight in model.weights], servers, whole)
        rules = _rules(workload, model, shards.only(places))
        values = model.get_weights()
        # A graph reads values from the ps tasks.
        for variable in model.variables:
            release(variable)
        return cls(model, values, state, places, tables, shards, rules)


def _rules(workload: Workload, model: keras.Model, shards: Shards) -> list[KerasRule | None]:
    """See `Source.rules`. A piece of a weight is a weight of its own to Keras's optimizers."""
    rules = []
    for place, _, shape in shards:
        weight = model.trainable_variables[place]
        if place not in shards.cut_places:
            rules.append(rule_of(workload, weight))
            continue
        piece = keras.Variable(np.zeros(shape, weight.dtype), name=weight.name)
        rules.append(rule_of(workload, piece))
        release(piece)
    return rules
