"""The order in which a grid's repeats are made: in rounds, each with every spec once, balanced against drift."""

from __future__ import annotations

import random


def orders(specs: int, rounds: int, seed: int) -> list[list[int]]:
    """For each round, the specs' numbers in the order of their runs.

    A machine gets slower or faster over time, and a run may leave something to the next one: a warm cache, a hot
    processor. So each round has another row of a Latin square by Williams (1949, Australian Journal of Scientific
    Research A 2): over ``specs`` rounds every spec stands at every place once, and follows every other spec once; for
    an odd number of specs over twice as many rounds, each other spec twice. The first round is in the order of the
    grid, and the seed decides in which order the other rows come.
    """
    # 0, 1, n-1, 2, n-2, …: the differences of neighbours are all different.
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) % specs for place in range(specs)]
    square = [[(number + row) % specs for number in zigzag] for row in range(specs)]
    if specs % 2:
        square += [row[::-1] for row in square]
    # Renamed so that the first row is the grid's own order.
    names = {number: name for name, number in enumerate(square[0])}
    first, *others = [[names[number] for number in row] for row in square]
    random.Random(seed).shuffle(others)
    rows = [first, *others]
    return [rows[each % len(rows)] for each in range(rounds)]
