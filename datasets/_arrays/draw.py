"""Draws examples that can be learnt: each has a hidden class, which its inputs show and its targets follow from."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from ..structure import map_structure
from .form import Form, Values

# In units of the noise. With ten classes, about one example in a hundred is nearer to the mean of another class.
_MEAN_LENGTH = 4.0
_CLEAR = 0.5
"""The same for one value, if classes are to be clear."""
_TOLD = 0.5
"""Share of ids that tell the hidden class."""
_FOLLOWS = 0.75
"""Share of tokens that follow from the one before."""
_TARGET_NOISE = 0.1


class Source:
    """All examples of a form.

    Args:
        hidden: number of hidden classes, all equally likely.
        seed: of tables, classes and noise.
        clear: whether the means of real values lie further apart where an example has many values, so that a model
            learns them within few steps.
    """

    def __init__(self, form: Form, hidden: int, seed: int, clear: bool):
        self.form, self.hidden, self._seed, self._clear = form, hidden, seed, clear

    def block(self, number: int, rows: int) -> tuple[Any, Any]:
        """(x, y) of the rows of one block, which has a seed of its own."""
        # + 1: for NumPy, [seed, 0] is the same as seed alone, which is used for the tables.
        random = np.random.default_rng([self._seed, number + 1])
        hidden = random.integers(self.hidden, size=rows)
        following: dict[tuple[int, ...], np.ndarray] = {}
        sequences = {each.shape for each in self.form.leaves if each.kind == "next"}

        def draw_input(each: Values, means: np.ndarray) -> np.ndarray:
            if each.below is None:
                return _real(each, means, hidden, random)
            if each.shape in sequences and each.shape not in following:
                tokens = _sequence(each, rows, random)
                following[each.shape] = tokens[..., 1:]
                return tokens[..., :-1].astype(each.dtype)
            return _ids(each, hidden, self.hidden, random)

        def draw_target(each: Values, values: np.ndarray) -> np.ndarray:
            if each.kind == "next":
                return following[each.shape].astype(each.dtype)
            if each.kind != "values":
                return _told(each, hidden)
            noise = random.standard_normal((rows, *each.shape), np.float32)
            return (values[hidden] + _TARGET_NOISE * noise).astype(each.dtype)

        x_tables, y_tables = self._tables
        x = map_structure(draw_input, self.form.x, x_tables)
        return x, map_structure(draw_target, self.form.y, y_tables)

    @cached_property
    def _tables(self) -> tuple[Any, Any]:
        """What real values are around: for each array, an array whose first axis counts the hidden classes."""
        random = np.random.default_rng(self._seed)
        x = map_structure(lambda each: _means(each, self.hidden, random, self._clear), self.form.x)
        return x, map_structure(lambda each: _values(each, self.hidden, random), self.form.y)


def _means(each: Values, hidden: int, random: np.random.Generator, clear: bool) -> np.ndarray:
    """Of real values, shape ``(hidden, values)``."""
    if each.below is not None:
        return np.empty(0)
    # Equal over patches of 4 x 4: means of white noise would disappear in pooling layers.
    shape = each.shape or (1,)
    coarse = [-(-size // 4) for size in shape[:-1]] + [shape[-1]]
    means = random.standard_normal((hidden, *coarse), np.float32)
    for axis, size in enumerate(shape[:-1], start=1):
        means = means.repeat(4, axis).take(np.arange(size), axis)
    means = means.reshape(hidden, -1)
    length = max(_MEAN_LENGTH, clear * _CLEAR * math.sqrt(means.shape[1]))
    return means * (length / np.linalg.norm(means, axis=1, keepdims=True))


def _values(each: Values, hidden: int, random: np.random.Generator) -> np.ndarray:
    """Of targets that are real values, shape ``(hidden, *shape)``."""
    return random.standard_normal((hidden, *each.shape), np.float32) if each.kind == "values" else np.empty(0)


def _real(each: Values, means: np.ndarray, hidden: np.ndarray, random: np.random.Generator) -> np.ndarray:
    # Uniform noise with standard deviation 1: normal noise takes three times as long.
    x = random.random((len(hidden), means.shape[1]), np.float32)
    x -= 0.5
    x *= math.sqrt(12)
    x += means[hidden]
    return x.reshape(len(hidden), *each.shape).astype(each.dtype, copy=False)


def _frequent(below: int, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Whole numbers of which small ones are frequent, as common words are: the density falls with the square root."""
    return (below * random.random(shape) ** 2).astype(np.int64)


def _ids(each: Values, hidden: np.ndarray, classes: int, random: np.random.Generator) -> np.ndarray:
    assert each.below is not None
    shape = (len(hidden), *each.shape)
    ids = _frequent(each.below, shape, random)
    telling = np.minimum(ids - ids % classes + _along(hidden, len(shape)), each.below - 1)
    return np.where(random.random(shape) < _TOLD, telling, ids).astype(each.dtype)


def _sequence(each: Values, rows: int, random: np.random.Generator) -> np.ndarray:
    """Tokens, one more than the shape has."""
    assert each.below is not None
    *others, length = each.shape
    tokens = _frequent(each.below, (rows, *others, length + 1), random)
    follows = random.random(tokens.shape) < _FOLLOWS
    for place in range(1, length + 1):
        after = (tokens[..., place - 1] * 31 + 7) % each.below
        tokens[..., place] = np.where(follows[..., place], after, tokens[..., place])
    return tokens


def _told(each: Values, hidden: np.ndarray) -> np.ndarray:
    """Targets that the hidden class alone decides, the same at all places of an example."""
    shape = (len(hidden), *each.shape)
    if each.kind == "one-hot":
        labels = np.broadcast_to(_along(hidden % shape[-1], len(shape) - 1), shape[:-1])
        return np.eye(shape[-1], dtype=each.dtype)[labels]
    values = _along(hidden % (each.below or 2), len(shape))
    if each.kind == "binary":
        # Not all alike, so that each value has something of its own to learn.
        values = (values + np.arange(math.prod(each.shape)).reshape(each.shape)) % 2
    return np.broadcast_to(values, shape).astype(each.dtype)


def _along(values: np.ndarray, dimensions: int) -> np.ndarray:
    """One value an example, to be broadcast over so many dimensions."""
    return values.reshape(-1, *[1] * (dimensions - 1))
