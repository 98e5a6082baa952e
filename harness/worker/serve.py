"""A task that takes no steps: it serves the workers until the launcher ends it."""

from __future__ import annotations

import dataclasses
import signal
import threading

from ...results.raw.journal import Journal
from ...strategies.trainer import Server
from . import usage

SAMPLE_SECONDS = 0.25
"""Connections are gone, with their counts, soon after the workers are: this much of the traffic may be missed."""


def serve(server: Server, journal: Journal) -> None:
    """Run the server's own work beside TensorFlow's until SIGTERM. Raises what that work raised."""
    ended = threading.Event()
    # TensorFlow's own ``server.join()`` would never return.
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    journal.event("serving", memory=server.memory and dataclasses.asdict(server.memory))
    errors: list[BaseException] = []
    work = threading.Thread(target=_work, args=(server, errors, ended), daemon=True, name="serve")
    work.start()
    used = usage.totals()
    while not ended.wait(SAMPLE_SECONDS):
        now = usage.totals()
        used = {name: _larger(used[name], now[name]) for name in used}
    if errors:
        raise errors[0]
    journal.event("end", **used)


def _work(server: Server, errors: list[BaseException], ended: threading.Event) -> None:
    try:
        server.serve()
    except BaseException as error:
        # Whatever it is belongs to the main thread, which reports it.
        errors.append(error)
        ended.set()


def _larger(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(before, now)
