"""The algorithms of all-reduce, between threads and between processes: sums, bytes and rounds."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import launch, make_spec
from stratbench.errors import RunError
from stratbench.results.raw import exchange, journal
from stratbench.strategies._shared.messages import Messages, connected
from stratbench.strategies.reductions import _algorithms as algorithms
from stratbench.strategies.reductions._shared_memory import SharedMemory

NAMES = [*algorithms.ALGORITHMS]
SIZES = [1, 2, 3, 4, 5, 7, 8]


class Threads:
    """A channel between threads that counts bytes, and rounds by a logical clock: one message at a time each way."""

    def __init__(self, rank: int, size: int, boxes: dict[tuple[int, int], queue.Queue]):
        self.rank, self.size, self._boxes = rank, size, boxes
        self.clock = self.bytes = 0

    def send(self, to: int, data: np.ndarray) -> None:
        self.clock += 1
        self._put(to, data)

    def receive(self, source: int, into: np.ndarray) -> None:
        self.clock = max(self.clock + 1, self._take(source, into))

    def exchange(self, to: int, data: np.ndarray, source: int, into: np.ndarray) -> None:
        self.clock += 1
        self._put(to, data)
        self.clock = max(self.clock, self._take(source, into))

    def _put(self, to: int, data: np.ndarray) -> None:
        self.bytes += data.nbytes
        self._boxes[self.rank, to].put((self.clock, data.copy()))

    def _take(self, source: int, into: np.ndarray) -> int:
        clock, data = self._boxes[source, self.rank].get(timeout=10)
        into[:] = data
        return clock


def at_once(act: Callable[[int], object], size: int) -> None:
    """Call it for every rank, each in a thread; raises what any of them raised."""
    errors: list[BaseException] = []

    def guarded(rank: int) -> None:
        try:
            act(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(rank,), daemon=True) for rank in range(size)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert not any(each.is_alive() for each in threads), "a process waits for ever"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_sums_bytes_and_rounds_are_those_of_the_formula(name: str, size: int) -> None:
    boxes = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
    channels = [Threads(rank, size, boxes) for rank in range(size)]
    length = 840  # Every size divides it.
    vectors = np.random.default_rng(0).normal(size=(size, length))
    expected = vectors.sum(axis=0)
    at_once(lambda rank: algorithms.ALGORITHMS[name](channels[rank], vectors[rank]), size)
    np.testing.assert_allclose(vectors[0], expected)
    assert (vectors == vectors[0]).all(), "the processes have different sums"
    sent, rounds = algorithms.EXPECTED[name](size)
    assert sum(each.bytes for each in channels) == sent * vectors[0].nbytes
    assert max(each.clock for each in channels) == rounds


@pytest.mark.parametrize("length", [0, 1, 2, 5, 7])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_that_are_shorter_than_the_processes_are_many(name: str, length: int) -> None:
    size = 6
    boxes = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
    vectors = [np.full(length, rank, np.float32) for rank in range(size)]
    at_once(lambda rank: algorithms.ALGORITHMS[name](Threads(rank, size, boxes), vectors[rank]), size)
    assert all((each == 15).all() for each in vectors)


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_messages_larger_than_a_buffer_go_both_ways_at_once(size: int) -> None:
    addresses = free_addresses(size)
    found = np.zeros((size, 3_000_000), np.float32)

    def act(rank: int) -> None:
        with connected(rank, addresses) as messages:
            data = np.full(found.shape[1], rank, np.float32)
            messages.exchange((rank + 1) % size, data, (rank - 1) % size, found[rank])
            assert messages.rounds == 1

    at_once(act, size)
    assert [set(each) for each in found] == [{(rank - 1) % size} for rank in range(size)]


def test_another_program_that_calls_is_sent_away() -> None:
    addresses = free_addresses(2)
    host, port = addresses[0].split(":")
    values = [np.array([5]), np.array([0])]

    def act(rank: int) -> None:
        if rank:
            _call_as_a_stranger(host, int(port))
        with connected(rank, addresses) as messages:
            algorithms.broadcast(messages, values[rank])

    at_once(act, 2)
    assert values[1] == 5


def _call_as_a_stranger(host: str, port: int) -> None:
    while True:
        try:
            with socket.create_connection((host, port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    assert stranger.recv(1) == b""
                return
        except ConnectionRefusedError:
            time.sleep(0.01)


def test_a_peer_that_is_gone_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        other = socket.create_connection(listening.getsockname())
        mine, _ = listening.accept()
    messages = Messages(0, {3: mine}, [f"worker-{rank}" for rank in range(4)])
    other.close()
    with mine, pytest.raises(RunError, match="worker-3 has closed its connection"):
        messages.receive(3, np.zeros(4))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shared_memory_sums_vectors_that_grow(size: int) -> None:
    """Threads share the descriptor as processes do, by its number in /proc."""
    boxes = {(a, b): queue.Queue() for a in range(size) for b in range(size)}

    def act(rank: int) -> None:
        reduce = SharedMemory(Threads(rank, size, boxes))
        for length in (1, 60, 60, 7, 50_000, 3):
            vector = np.full(length, rank + 1.0)
            reduce(vector)
            assert (vector == size * (size + 1) / 2).all()

    at_once(act, size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "central"])
def test_what_a_run_sends_is_what_the_formula_says(name: str, tmp_path: Path, no_strays: None) -> None:
    outcome = launch(make_spec(f"allreduce:algorithm={name}", 3), tmp_path)
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(tmp_path / f"worker-{rank}.jsonl") for rank in range(3)]
    (epoch,) = exchange.traffic(logs).values()
    assert epoch["traffic_bytes_measured"] == pytest.approx(epoch["traffic_bytes_expected"], rel=0.03)


@pytest.mark.slow
def test_shared_memory_sends_nearly_nothing(tmp_path: Path, no_strays: None) -> None:
    outcome = launch(make_spec("allreduce:algorithm=shared-memory", 2), tmp_path)
    assert outcome.status == "ok", outcome.reason
    logs = [journal.read(tmp_path / f"worker-{rank}.jsonl") for rank in range(2)]
    (epoch,) = exchange.traffic(logs).values()
    assert epoch["traffic_bytes_measured"] < 10_000
