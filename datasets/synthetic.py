"""Generated examples of any shape and number, to measure speed without a file."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import UsageError
from ._arrays.blocks import by_block
from .base import Array, Dataset, Info

_MAX_EXAMPLES = 100_000_000
_MAX_DIMENSIONS = 16  # NumPy's limit is 32, with the dimension of the examples
_MAX_VALUES = 2**24  # of one example: 64 MiB
_MAX_MEANS = 2**26  # values of all class means together: 256 MiB
_BLOCK_BYTES = 2**20
_KEPT_BYTES = 64 * 2**20
# In units of the noise. With ten classes, about one example in a hundred is nearer to the mean of another class.
_MEAN_LENGTH = 4.0


@dataclass(frozen=True)
class Synthetic(Dataset):
    """Every class has a mean of length 4 in a random direction. Examples are this mean plus noise with a standard
    deviation of 1 per value.

    Rows are generated in blocks, each from its own seed: the values of a row don't depend on which rows are read.
    """

    name = "synthetic"
    summary = "Generated float32 examples that can be learnt, one mean a class plus noise, any shape and number"
    licence = "none needed: generated data"

    shape: tuple[int, ...] = field(default=(28, 28, 1), metadata={"help": "shape of one example"})
    classes: int = field(default=10, metadata={"help": "number of classes, all equally likely"})
    examples: int = field(default=12_000, metadata={"help": "number of examples, split 80/10/10 by default"})
    seed: int = field(default=0, metadata={"help": "seed of means, labels and noise"})

    def __post_init__(self) -> None:
        values = math.prod(self.shape) if min(self.shape, default=0) > 0 else 0
        for what, value, low, high in (
            ("dimensions of one example of synthetic", len(self.shape), 1, _MAX_DIMENSIONS),
            ("values in one example of synthetic", values, 1, _MAX_VALUES),
            ("classes of synthetic", self.classes, 2, _MAX_MEANS // max(1, values)),
            ("examples of synthetic", self.examples, 1, _MAX_EXAMPLES),
            ("seed of synthetic", self.seed, 0, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise UsageError(f"{what} must be {low}..{high}. Received: {value}")

    def info(self) -> Info:
        """Return the values of the options."""
        x = Array(self.shape, "float32")
        return Info(None, None, self.examples, x, classes=self.classes, block_rows=self._block_rows)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Dataset.read`; ``x`` is float32. The first read keeps all examples, up to 64 MiB."""
        if self.examples * self._example_bytes > _KEPT_BYTES:
            return self._generate(rows)
        x, y = self._all
        return x[rows], y[rows]

    @property
    def _example_bytes(self) -> int:
        return math.prod(self.shape) * 4

    @property
    def _block_rows(self) -> int:
        # At least a hundred blocks, so that splits by whole blocks are close to their percentages.
        return max(1, min(_BLOCK_BYTES // self._example_bytes, self.examples // 100))

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        return self._generate(np.arange(self.examples))

    @cached_property
    def _means(self) -> np.ndarray:
        """All class means, shape ``(classes, values)``."""
        # Equal over patches of 4 x 4: means of white noise would disappear in pooling layers.
        coarse = [-(-size // 4) for size in self.shape[:-1]] + [self.shape[-1]]
        means = np.random.default_rng(self.seed).standard_normal((self.classes, *coarse), np.float32)
        for axis, size in enumerate(self.shape[:-1], start=1):
            means = means.repeat(4, axis).take(np.arange(size), axis)
        means = means.reshape(self.classes, -1)
        return means * (_MEAN_LENGTH / np.linalg.norm(means, axis=1, keepdims=True))

    def _generate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.empty((len(rows), math.prod(self.shape)), np.float32)
        y = np.empty(len(rows), np.int32)
        for block, places in by_block(rows, self._block_rows):
            block_x, block_y = self._block(block)
            chosen = rows[places] - block * self._block_rows
            x[places], y[places] = block_x[chosen], block_y[chosen]
        return x.reshape(-1, *self.shape), y

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        # + 1: for NumPy, [seed, 0] is the same as seed alone, which is used for the means.
        random = np.random.default_rng([self.seed, block + 1])
        y = random.integers(self.classes, size=self._block_rows)
        # Uniform noise with standard deviation 1: normal noise takes three times as long.
        x = random.random((self._block_rows, self._means.shape[1]), np.float32)
        x -= 0.5
        x *= math.sqrt(12)
        x += self._means[y]
        return x, y
