"""All-reduce by five algorithms, each written in messages from one process to another.

All processes call the same function with a vector of the same length, and each is left with the sum of all vectors in
place of its own: the same bits everywhere. N is the number of processes, S the bytes of a vector. `EXPECTED` has what
each algorithm sends, all processes together, and how many messages follow one another.

Source: Thakur, Rabenseifner & Gropp, *Optimization of Collective Communication Operations in MPICH*, 2005; for the ring
also Patarasuk & Yuan, *Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations*, 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np


class Channel(Protocol):
    """What an algorithm needs of `stratbench.strategies._shared.messages.Messages`."""

    rank: int
    size: int

    def send(self, to: int, data: np.ndarray) -> None:
        """Send an array."""

    def receive(self, source: int, into: np.ndarray) -> None:
        """Fill an array."""

    def exchange(self, to: int, data: np.ndarray, source: int, into: np.ndarray) -> None:
        """Send one array and fill another at the same time."""


AllReduce = Callable[[Channel, np.ndarray], None]


def ring(channel: Channel, vector: np.ndarray) -> None:
    """N − 1 steps pass partial sums on to the right neighbour, then N − 1 steps the sums. Every link is always busy."""
    rank, size = channel.rank, channel.size
    pieces = np.array_split(vector, size)
    arrived = np.empty_like(pieces[0])
    right, left = (rank + 1) % size, (rank - 1) % size
    for step in range(size - 1):
        given, taken = pieces[(rank - step) % size], pieces[(rank - step - 1) % size]
        space = arrived[: len(taken)]
        channel.exchange(right, given, left, space)
        taken += space
    for step in range(size - 1):
        channel.exchange(right, pieces[(rank + 1 - step) % size], left, pieces[(rank - step) % size])


def tree(channel: Channel, vector: np.ndarray) -> None:
    """Sums go up a binomial tree to rank 0, then the sum goes down the same tree: ⌈log₂ N⌉ levels each way."""
    rank, arrived = channel.rank, np.empty_like(vector)
    for distance in _levels(channel.size):
        if rank & distance:
            channel.send(rank - distance, vector)
            break
        if rank + distance < channel.size:
            channel.receive(rank + distance, arrived)
            vector += arrived
    broadcast(channel, vector)


def broadcast(channel: Channel, data: np.ndarray) -> None:
    """Rank 0's array to all, down a binomial tree."""
    rank, below = channel.rank, []
    for distance in _levels(channel.size):
        if rank & distance:
            channel.receive(rank - distance, data)
            break
        if rank + distance < channel.size:
            below.append(rank + distance)
    for child in reversed(below):
        channel.send(child, data)


def barrier(channel: Channel) -> None:
    """Returns when all processes have called it: in step k, each tells the one at distance 2ᵏ. ⌈log₂ N⌉ steps.

    Source: Hensgen, Finkel & Manber, *Two Algorithms for Barrier Synchronization*, 1988.
    """
    told, heard = np.zeros(1, np.uint8), np.empty(1, np.uint8)
    for distance in _levels(channel.size):
        channel.exchange(
            (channel.rank + distance) % channel.size, told, (channel.rank - distance) % channel.size, heard
        )


def _levels(size: int) -> Iterator[int]:
    """1, 2, 4, …: less than ``size``."""
    return (1 << level for level in range((size - 1).bit_length()))


def central(channel: Channel, vector: np.ndarray) -> None:
    """All send to rank 0, which adds up and sends the sum to each: its link carries everything, one after the other."""
    if channel.rank:
        channel.send(0, vector)
        channel.receive(0, vector)
        return
    arrived = np.empty_like(vector)
    for other in range(1, channel.size):
        channel.receive(other, arrived)
        vector += arrived
    for other in range(1, channel.size):
        channel.send(other, vector)


def butterfly(channel: Channel, vector: np.ndarray) -> None:
    """Recursive doubling: in step k, whole vectors are exchanged with the process at distance 2ᵏ. log₂ N steps."""
    with_power_of_two(channel, vector, _double)


def rabenseifner(channel: Channel, vector: np.ndarray) -> None:
    """Recursive halving, which leaves each process with the sum of one N-th, then recursive doubling of these parts.

    As many steps as two butterflies, and no more bytes than a ring.
    """
    with_power_of_two(channel, vector, _halve_and_double)


class _Folded:
    """The processes that go on, numbered anew, as a channel."""

    def __init__(self, channel: Channel, members: list[int]):
        self.rank, self.size = members.index(channel.rank), len(members)
        self._channel, self._members = channel, members

    def send(self, to: int, data: np.ndarray) -> None:
        self._channel.send(self._members[to], data)

    def receive(self, source: int, into: np.ndarray) -> None:
        self._channel.receive(self._members[source], into)

    def exchange(self, to: int, data: np.ndarray, source: int, into: np.ndarray) -> None:
        self._channel.exchange(self._members[to], data, self._members[source], into)


def with_power_of_two(channel: Channel, vector: np.ndarray, reduce: AllReduce) -> None:
    """With P = 2ᵏ ≤ N: of the first 2(N − P) processes, every second one gives its vector to the next and waits."""
    rank, extra = channel.rank, channel.size - power_of_two(channel.size)
    if rank < 2 * extra and rank % 2 == 0:
        channel.send(rank + 1, vector)
        channel.receive(rank + 1, vector)
        return
    if rank < 2 * extra:
        arrived = np.empty_like(vector)
        channel.receive(rank - 1, arrived)
        vector += arrived
    members = [*range(1, 2 * extra, 2), *range(2 * extra, channel.size)]
    reduce(_Folded(channel, members), vector)
    if rank < 2 * extra:
        channel.send(rank - 1, vector)


def power_of_two(size: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (size.bit_length() - 1)


def _double(channel: Channel, vector: np.ndarray) -> None:
    arrived = np.empty_like(vector)
    for distance in _levels(channel.size):
        peer = channel.rank ^ distance
        channel.exchange(peer, vector, peer, arrived)
        vector += arrived


def _halve_and_double(channel: Channel, vector: np.ndarray) -> None:
    arrived = np.empty(-(-len(vector) // 2), vector.dtype)
    own = slice(0, len(vector))
    steps = []
    for distance in reversed(list(_levels(channel.size))):
        peer, upper = channel.rank ^ distance, bool(channel.rank & distance)
        middle = (own.start + own.stop) // 2
        halves = slice(own.start, middle), slice(middle, own.stop)
        own, given = halves[upper], halves[not upper]
        space = arrived[: own.stop - own.start]
        channel.exchange(peer, vector[given], peer, space)
        vector[own] += space
        steps.append((peer, own, given))
    for peer, mine, theirs in reversed(steps):
        channel.exchange(peer, vector[mine], peer, vector[theirs])


ALGORITHMS: Mapping[str, AllReduce] = {
    "ring": ring,
    "tree": tree,
    "butterfly": butterfly,
    "rabenseifner": rabenseifner,
    "central": central,
}


def _folded(size: int, sent: float, rounds: int) -> tuple[float, int]:
    """With what `with_power_of_two` adds to bytes and rounds."""
    extra = size - power_of_two(size)
    return sent + 2 * extra, rounds + 2 * bool(extra)


EXPECTED: Mapping[str, Callable[[int], tuple[float, int]]] = {
    "ring": lambda n: (2 * (n - 1), 2 * (n - 1)),
    "tree": lambda n: (2 * (n - 1), 2 * (n - 1).bit_length()),
    "butterfly": lambda n: _folded(n, power_of_two(n) * (n.bit_length() - 1), n.bit_length() - 1),
    "rabenseifner": lambda n: _folded(n, 2 * (power_of_two(n) - 1), 2 * (n.bit_length() - 1)),
    "central": lambda n: (2 * (n - 1), 2 * (n - 1)),
    "shared-memory": lambda n: (0, 2 * (n - 1).bit_length()),
}
"""N → what all processes send, as a multiple of S, and the rounds: messages of which each waits for the one before."""

LONGEST: Mapping[str, Callable[[int], float]] = {
    "ring": lambda n: 2 * (n - 1) / n,
    "tree": lambda n: 2 * (n - 1).bit_length(),
    "butterfly": lambda n: n.bit_length() - 1 + 2 * (n != power_of_two(n)),
    "rabenseifner": lambda n: 2 * (power_of_two(n) - 1) / power_of_two(n) + 2 * (n != power_of_two(n)),
    "central": lambda n: 2 * (n - 1),
}
"""N → what passes through the busiest process one after the other, as a multiple of S."""

BESIDE = {"ring": 0.5, "tree": 1.0, "butterfly": 1.0, "rabenseifner": 0.5, "central": 1.0, "shared-memory": 2.0}
"""What a process holds beside its vector, at most, as a multiple of S."""
