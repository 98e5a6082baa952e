"""All-reduce through memory that the processes of one host share; messages only tell when to go on.

Each process copies its vector into its slot, adds up one N-th of all slots, and copies the sum out. Between these, all
wait for all. Source: as MPICH's and Gloo's reductions within a host; Graham & Shipman, *MPI Support for Multi-core
Architectures: Optimized Shared Memory Collectives*, EuroPVM/MPI 2008.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from ...errors import RunError
from ._algorithms import Channel, barrier, broadcast


class SharedMemory:
    """An all-reduce as those of `stratbench.strategies.reductions._algorithms`; the sum is in place of the vector."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._slots = np.empty((2, channel.size, 0), np.uint8)
        self._turn = 0

    def __call__(self, vector: np.ndarray) -> None:
        """Replace the vector by the sum of all."""
        rank, size = self._channel.rank, self._channel.size
        # A process may begin the next sum while another still reads this one, so that sums take turns in two places.
        slots = self._room(vector.nbytes)[self._turn, :, : vector.nbytes].view(vector.dtype)
        self._turn = 1 - self._turn
        slots[rank] = vector
        barrier(self._channel)
        own = slice(len(vector) * rank // size, len(vector) * (rank + 1) // size)
        for other in range(1, size):
            slots[0, own] += slots[other, own]
        barrier(self._channel)
        vector[:] = slots[0]

    def _room(self, nbytes: int) -> np.ndarray:
        """2 × N slots, each of so many bytes at least. All processes call it with the same number."""
        if nbytes > self._slots.shape[2]:
            each = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            shape = 2, self._channel.size, each
            memory = _shared(self._channel, 2 * self._channel.size * each)
            self._slots = np.frombuffer(memory, np.uint8).reshape(shape)
        return self._slots


def _shared(channel: Channel, nbytes: int) -> mmap.mmap:
    """New memory of all processes. It has no name, so that nothing is left when they end, however they do.

    Raises RunError where they are not on one host, or have no Linux.
    """
    place = np.zeros(2, np.int64)
    descriptor = -1
    if channel.rank == 0:
        descriptor = os.memfd_create("stratbench")
        os.ftruncate(descriptor, nbytes)
        place[:] = os.getpid(), descriptor
    broadcast(channel, place)
    try:
        if channel.rank:
            descriptor = os.open(f"/proc/{place[0]}/fd/{place[1]}", os.O_RDWR)
        memory = mmap.mmap(descriptor, nbytes)
    except OSError as error:
        raise RunError(f"algorithm=shared-memory needs all processes on one host: {error.strerror}") from None
    barrier(channel)
    os.close(descriptor)
    return memory
