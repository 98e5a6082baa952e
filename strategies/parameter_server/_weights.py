"""A model's weights on the ps tasks, and what updates them there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from .._shared.clip import Clip
from .._shared.update_rules import Gradient, Update, update_of
from ..trainer import Workload
from ._shards import Shards
from ._source import Source
from ._variables import on_server, server_of, shared_variable

v1 = tf.compat.v1


@dataclasses.dataclass(frozen=True)
class Shared:
    """The model's weights on ps tasks, in pieces, their updates, and the learning rate of these.

    Attributes:
        weights: the pieces of ``model.weights``, in order.
        shards: of these.
        trained: the pieces of ``model.trainable_variables``, in order.
        trained_shards: of these.
        places: where each of `trained` is in `weights`.
        tables: by their places in ``model.trainable_variables``: see `Source.tables`.
        updates: one for each of `trained`.
        clip: of the gradients, before they are applied.
        learning_rate: placeholder of `set_learning_rate`. The ps tasks keep the rate, so a step does not send it.
    """

    weights: list[tf.Variable]
    shards: Shards
    trained: list[tf.Variable]
    trained_shards: Shards
    places: list[int]
    tables: dict[int, tf.Variable]
    updates: list[Update]
    clip: Clip
    learning_rate: tf.Tensor
    set_learning_rate: tf.Operation

    def move(self, moved: Mapping[int, tf.Tensor]) -> list[tf.Operation]:
        """Assign new values to weights that are not trained, by their places in ``model.weights``."""
        places = sorted(moved)
        values = self.shards.only(places).cut([moved[place] for place in places])
        pieces = [piece for piece, (place, *_) in zip(self.weights, self.shards, strict=True) if place in moved]
        return [piece.assign(value, read_value=False) for piece, value in zip(pieces, values, strict=True)]

    def apply(self, gradients: Sequence[Gradient]) -> list[tf.Operation]:
        """Update every piece of a trained weight by its gradient, which is on the same ps task."""
        # The rows that a gradient leaves out are 0: they change no norm.
        values = self.clip(
            [each.values if isinstance(each, tf.IndexedSlices) else each for each in gradients],
            [place for place, *_ in self.trained_shards],
        )
        clipped = [
            tf.IndexedSlices(each, whole.indices, whole.dense_shape) if isinstance(whole, tf.IndexedSlices) else each
            for whole, each in zip(gradients, values, strict=True)
        ]
        return [update(gradient) for update, gradient in zip(self.updates, clipped, strict=True)]


def share(workload: Workload, source: Source, worker: int | None = None, lock: bool = False) -> Shared:
    """Define the variables on the ps tasks; every task's graph has the same ones.

    Args:
        worker: whose updates these are, with its own learning rate; None for a rate that all workers share.
        lock: whether an update locks its variable. Without a lock, two updates may overwrite parts of each other
            (Hogwild).
    """
    known = source.model.weights
    weights = [
        # Numbered, as layers of two models within the model may have the same names.
        shared_variable(
            f"{number}/{known[place].path}", piece.server, shape, known[place].dtype, known[place].trainable
        )
        for number, (place, piece, shape) in enumerate(source.shards)
    ]
    pieces_of: dict[int, list[int]] = {}
    for number, (place, *_) in enumerate(source.shards):
        pieces_of.setdefault(place, []).append(number)
    places = [number for place in source.places for number in pieces_of[place]]
    rates = {server: _rate(worker, server) for server in sorted({server_of(weight.device) for weight in weights})}
    learning_rate = v1.placeholder(tf.float32, (), name="learning_rate")
    trained = [weights[number] for number in places]
    return Shared(
        weights=weights,
        shards=source.shards,
        trained=trained,
        trained_shards=source.shards.only(source.places),
        places=places,
        tables={index: weights[pieces_of[source.places[index]][0]] for index in source.tables},
        updates=[
            update_of(piece, rates[server_of(piece.device)], workload.optimizer_settings, lock, rule)
            for piece, rule in zip(trained, source.rules, strict=True)
        ],
        clip=Clip.of(workload.optimizer_settings),
        learning_rate=learning_rate,
        set_learning_rate=tf.group(*[each.assign(learning_rate, read_value=False) for each in rates.values()]),
    )


def _rate(worker: int | None, server: int) -> tf.Variable:
    if worker is None:
        return shared_variable(f"learning_rate_{server}", server, (), tf.float32)
    with tf.device(on_server(server)):
        return v1.get_variable(
            f"learning_rate_{server}_of_{worker}",
            (),
            tf.float32,
            v1.zeros_initializer(),
            use_resource=True,
            trainable=False,
            # It is this worker's: no other one initialises it, or waits for it.
            collections=[v1.GraphKeys.LOCAL_VARIABLES],
        )
