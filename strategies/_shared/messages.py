"""Messages between the processes of a run: each pair has one TCP connection, and nothing else is shared.

The three verbs are those of MPI: ``send``, ``receive``, and both at the same time (``exchange``, MPI's ``Sendrecv``). A
message is the bytes of one array. It has no header: both ends know its length.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ...errors import RunError

PEERS_VARIABLE = "STRATBENCH_PEERS"
"""``host:port`` of every rank, in order, separated by commas."""

_GREETING = struct.Struct("!10sI")
_WORD = b"stratbench"
_POLL_SECONDS = 0.01
_GREETING_SECONDS = 5.0


class Messages:
    """This process's connections to the others; `connected` makes them.

    Attributes:
        rank: of this process.
        size: how many processes there are.
        rounds: how many times it has sent, received, or both at once, so far.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket], labels: Sequence[str]):
        self.rank, self.size = rank, len(labels)
        self.rounds = 0
        self._connections, self._labels = connections, labels
        for each in connections.values():
            # Without it, a short message waits until the one before it has been acknowledged.
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)

    def send(self, to: int, data: np.ndarray) -> None:
        """Send the array, which is contiguous. It may be changed once this returns."""
        self._move((to, data), None)

    def receive(self, source: int, into: np.ndarray) -> None:
        """Fill the array, which is contiguous and as large as what the other process sends."""
        self._move(None, (source, into))

    def exchange(self, to: int, data: np.ndarray, source: int, into: np.ndarray) -> None:
        """Send and receive at the same time, so that all processes of a ring may do so at once."""
        self._move((to, data), (source, into))

    def waiting(self, sources: Sequence[int], seconds: float) -> list[int]:
        """Those of these processes that have sent something, as soon as one has; none after so many seconds."""
        ranks = {self._connections[source].fileno(): source for source in sources}
        poll = select.poll()
        for descriptor in ranks:
            poll.register(descriptor, select.POLLIN)
        return [ranks[descriptor] for descriptor, _ in poll.poll(seconds * 1000)]

    def _move(self, out: tuple[int, np.ndarray] | None, back: tuple[int, np.ndarray] | None) -> None:
        unsent, unfilled = (_bytes_of(each[1]) if each else memoryview(b"") for each in (out, back))
        self.rounds += 1
        waits = select.poll()
        while unsent or unfilled:
            moved = 0
            if out and unsent:
                moved += (done := self._some(out[0], unsent, receives=False))
                unsent = unsent[done:]
            if back and unfilled:
                moved += (done := self._some(back[0], unfilled, receives=True))
                unfilled = unfilled[done:]
            if not moved:
                self._wait(waits, out[0] if out and unsent else None, back[0] if back and unfilled else None)

    def _some(self, peer: int, data: memoryview, receives: bool) -> int:
        """Move as much as is possible without waiting. → bytes"""
        connection = self._connections[peer]
        try:
            done = connection.recv_into(data) if receives else connection.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise RunError(f"the connection to {self._labels[peer]} broke: {error.strerror}") from None
        if not done:
            raise RunError(f"{self._labels[peer]} has closed its connection")
        return done

    def _wait(self, waits: select.poll, to: int | None, source: int | None) -> None:
        """Until one of both connections can go on; they may be one and the same."""
        events: dict[socket.socket, int] = {}
        for peer, event in ((to, select.POLLOUT), (source, select.POLLIN)):
            if peer is not None:
                events[self._connections[peer]] = events.get(self._connections[peer], 0) | event
        for connection, wanted in events.items():
            waits.register(connection, wanted)
        waits.poll()
        for connection in events:
            waits.unregister(connection)


def _bytes_of(data: np.ndarray) -> memoryview:
    return data.reshape(-1).view(np.uint8).data


@contextmanager
def connected(
    rank: int,
    addresses: Sequence[str] | None = None,
    listener: socket.socket | None = None,
    labels: Sequence[str] = (),
) -> Iterator[Messages]:
    """Connections to all other processes; closed at the end. If one never comes, the launcher's time-out ends the run.

    Args:
        rank: of this process.
        addresses: ``host:port`` of all, by rank; by default those of the environment.
        listener: of this process's own address; by default it is made here. It is closed once all are connected.
        labels: of all, by rank, for errors; by default they are the workers.
    """
    addresses = addresses or os.environ[PEERS_VARIABLE].split(",")
    places = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in addresses)]
    connections: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        with listener or socket.create_server(places[rank], backlog=len(places)) as listening:
            for peer in range(rank):
                connections[peer] = stack.enter_context(_call(places[peer]))
                connections[peer].sendall(_GREETING.pack(_WORD, rank))
            while len(connections) < len(places) - 1:
                connection, _ = listening.accept()
                peer = _greeting(connection)
                if rank < peer < len(places) and peer not in connections:
                    connections[peer] = stack.enter_context(connection)
                else:
                    connection.close()
        yield Messages(rank, connections, labels or [f"worker-{peer}" for peer in range(len(places))])


def _call(place: tuple[str, int]) -> socket.socket:
    while True:
        try:
            return socket.create_connection(place)
        except ConnectionRefusedError:
            time.sleep(_POLL_SECONDS)


def _greeting(connection: socket.socket) -> int:
    """The rank of who calls; -1 for a program that is not one of us."""
    connection.settimeout(_GREETING_SECONDS)
    with contextlib.suppress(OSError):
        word, peer = _GREETING.unpack(connection.recv(_GREETING.size, socket.MSG_WAITALL))
        if word == _WORD:
            return int(peer)
    return -1
