"""Which ps task holds what: parts of equal size, for which a tensor is cut where it must be.

The tensors lie end to end, each as one line of elements, and are cut into as many equal parts as there are ps tasks. So
all tasks have the same to hold, to send and to update, and at most one tensor for each of them is cut. Each piece is a
variable of its own, with its own order of updates.
Source: Dean et al., *Large Scale Distributed Deep Networks*, NIPS 2012, section 4.1: the servers' shards apply updates
independently of one another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Piece(NamedTuple):
    """Elements ``begin`` to ``end`` of a tensor's line, on that ps task."""

    server: int
    begin: int
    end: int


class Shards:
    """The pieces of some tensors.

    Args:
        shapes: of the tensors.
        pieces: of each tensor, in order. A tensor of one piece keeps its shape; others are cut into lines.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], pieces: Sequence[Sequence[Piece]]):
        self._shapes, self._pieces = [tuple(shape) for shape in shapes], pieces

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], servers: int, whole: Collection[int] = ()) -> Shards:
        """Deal the tensors out to so many ps tasks.

        Args:
            whole: places of tensors that must not be cut. They are dealt first, largest first.
        """
        sizes = [math.prod(shape) for shape in shapes]
        loads = [0] * servers
        pieces: list[list[Piece]] = [[] for _ in sizes]
        for place in sorted(whole, key=lambda place: -sizes[place]):
            server = loads.index(min(loads))
            loads[server] += sizes[place]
            pieces[place] = [Piece(server, 0, sizes[place])]
        others = [place for place in range(len(sizes)) if place not in whole]
        rooms = _rooms(loads, sum(sizes[place] for place in others))
        server = 0
        for place in others:
            begin = 0
            while begin < sizes[place] or not pieces[place]:
                while not rooms[server] and server + 1 < servers:
                    server += 1
                end = min(sizes[place], begin + rooms[server])
                pieces[place].append(Piece(server, begin, end))
                rooms[server] -= end - begin
                begin = end
        return cls(shapes, pieces)

    def only(self, places: Sequence[int]) -> Shards:
        """Of these tensors, in this order."""
        return Shards([self._shapes[place] for place in places], [self._pieces[place] for place in places])

    def __iter__(self) -> Iterator[tuple[int, Piece, tuple[int, ...]]]:
        """(place of the tensor, piece of it, shape of the piece), in order."""
        for place, (shape, pieces) in enumerate(zip(self._shapes, self._pieces, strict=True)):
            for piece in pieces:
                yield place, piece, shape if len(pieces) == 1 else (piece.end - piece.begin,)

    @property
    def cut_places(self) -> set[int]:
        """Of the tensors of several pieces."""
        return {place for place, pieces in enumerate(self._pieces) if len(pieces) > 1}

    def cut(self, tensors: Sequence[Any]) -> list[Any]:
        """The pieces of the tensors, or of arrays, in order."""
        found: list[Any] = []
        for tensor, pieces in zip(tensors, self._pieces, strict=True):
            if len(pieces) == 1:
                found.append(tensor)
                continue
            if isinstance(tensor, np.ndarray):
                line = tensor.reshape(-1)
                found += [line[piece.begin : piece.end] for piece in pieces]
                continue
            with tf.device(tensor.device):
                line = tf.reshape(tensor, [-1])
                found += [line[piece.begin : piece.end] for piece in pieces]
        return found

    def join(self, pieces: Sequence[tf.Tensor], devices: Sequence[str] | None = None) -> list[tf.Tensor]:
        """The tensors whose pieces these are, in the order of `cut`.

        Args:
            devices: where each tensor is put together; by default in the present device.
        """
        following, found = iter(pieces), []
        for place, (shape, known) in enumerate(zip(self._shapes, self._pieces, strict=True)):
            here = list(itertools.islice(following, len(known)))
            with tf.device(devices[place] if devices else ""):
                found.append(here[0] if len(known) == 1 else tf.reshape(tf.concat(here, 0), shape))
        return found


def _rooms(loads: Sequence[int], rest: int) -> list[int]:
    """How much of the rest each task takes, so that the fullest one has as little as possible."""
    order = sorted(range(len(loads)), key=lambda server: loads[server])
    for count in range(1, len(order) + 1):
        level, left = divmod(sum(loads[server] for server in order[:count]) + rest, count)
        if count == len(order) or level < loads[order[count]]:
            break
    rooms = [0] * len(loads)
    for number, server in enumerate(order[:count]):
        rooms[server] = level - loads[server] + (number < left)
    return rooms
