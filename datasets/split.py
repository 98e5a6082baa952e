"""Divides the rows into training, validation and test rows."""

import re
from decimal import Decimal
from fractions import Fraction

import numpy as np

from ..errors import UsageError
from .base import Info

PARTS = ("train", "validation", "test")
# Never the run's seed: all runs of all experiments must be evaluated on the same test examples.
SPLIT_SEED = 20_170_101
_CUT_FROM_TRAIN = Fraction(1, 10)
_WITHOUT_OWN_TEST = "80/10/10"
# Short enough for exact sums of Decimal.
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{0,12})?(e[01])?")
_SHOWN = 100


def parse_split(text: str) -> str:
    """Return a split's normal form: "default", or train/validation/test percentages such as "60/20/20".

    Fractions are accepted too: "0.6/0.2/0.2" is "60/20/20". Raises UsageError unless there are three positive
    numbers with the sum 100 (or 1).
    """
    if text == "default":
        return text
    parts = text.split("/")
    numbers = [Decimal(part) for part in parts if _NUMBER.fullmatch(part)]
    valid = len(parts) == len(numbers) == len(PARTS) and min(numbers) > 0
    if valid and sum(numbers) == 1:
        numbers = [number * 100 for number in numbers]
    if not valid or sum(numbers) != 100:
        rule = 'split must be "default" or three positive percentages that sum to 100, such as 60/20/20'
        raise UsageError(f"{rule}. Received: {text[:_SHOWN]!r}")
    return "/".join(f"{number.normalize():f}" for number in numbers)


def split_rows(info: Info, split: str) -> dict[str, np.ndarray]:
    """Assign rows to "train", "validation" and "test"; each value is an int64 array of distinct row numbers.

    "default" keeps the data set's own test and validation rows. If it has only one of these sets, a tenth of its
    training rows is used for the other; a data set with neither is split 80/10/10. Percentages are of all examples of
    all sets. Whole blocks of ``info.block_rows`` rows are assigned. The order of the blocks is a permutation that
    depends only on ``info``; rows ascend within a block. Raises UsageError if the split is malformed or a part would
    be empty.
    """
    split = parse_split(split)
    if split == "default" and info.train_examples is not None:
        parts = _own_sets(info, info.train_examples)
    else:
        shares = (_WITHOUT_OWN_TEST if split == "default" else split).split("/")
        train_share, validation_share = (Fraction(share) / 100 for share in shares[:2])
        parts = _cut(info.examples, info.block_rows, [train_share, train_share + validation_share])
    if not all(map(len, parts)):
        blocks = -(-info.examples // info.block_rows)
        rule = f"split {split} must leave at least one block of rows to each of {', '.join(PARTS)}"
        raise UsageError(f"{rule}. Received: {info.examples} examples in {blocks} blocks")
    return dict(zip(PARTS, parts, strict=True))


def _own_sets(info: Info, train_examples: int) -> list[np.ndarray]:
    """Training, validation and test rows of a data set with its own test or validation set."""
    missing = info.validation_examples is None or info.test_examples is None
    train, *cut = _cut(train_examples, info.block_rows, [1 - _CUT_FROM_TRAIN] if missing else [])
    start = train_examples
    parts = [train]
    for own in (info.validation_examples, info.test_examples):
        if own is None:
            parts.append(cut.pop())
        else:
            parts.append(np.arange(start, start + own, dtype=np.int64))
            start += own
    return parts


def _cut(examples: int, block_rows: int, bounds: list[Fraction]) -> list[np.ndarray]:
    """Permute the blocks of rows ``[0, examples)`` and cut them at ``bounds``, which are shares of all blocks."""
    blocks = np.random.default_rng(SPLIT_SEED).permutation(-(-examples // block_rows))
    cuts = [int(bound * len(blocks) + Fraction(1, 2)) for bound in bounds]
    parts = []
    for part in np.split(blocks, cuts):
        rows = (part[:, None] * block_rows + np.arange(block_rows)).ravel()
        parts.append(rows[rows < examples])
    return parts
