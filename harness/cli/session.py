"""A command's runs from start to end: opens the tables, shows progress, handles Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from ..launch.run import WhyNot, open_store, run_all
from ..launch.starter import Starter
from ..plan.spec import RunSpec
from .progress import RunProgress

Row = dict[str, Any]

INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes, as in shells."""


def run_specs(specs: list[RunSpec], output: Path, starter: Starter, why_not: WhyNot) -> tuple[list[Row], int]:
    """Their rows of the runs table, and the exit code.

    The code is 1 if any run failed or none could run, 130 or 143 after Ctrl-C or SIGTERM.

    Args:
        why_not: a run is skipped, beside the reasons of its spec; empty if it is not.
    """
    # A record also has each step: those of a whole grid would take too much memory.
    rows: list[Row] = []
    console = Console(stderr=True)

    def warn(line: str) -> None:
        console.print(f"stratbench: {line}", highlight=False, markup=False, emoji=False, soft_wrap=True)

    with (
        open_store(output) as store,
        stopping() as stop,
        RunProgress(console, len(specs)) as progress,
    ):
        store.recover(warn)
        for spec, record in run_all(specs, store, stop.event, progress.begin, warn, starter, why_not):
            progress.end(spec, record)
            rows.append(record.run)
    if stop.signal is not None:
        return rows, INTERRUPTED[stop.signal]
    counts = [row["status"] for row in rows]
    bad = any(status in ("failed", "timeout") for status in counts) or (counts and "ok" not in counts)
    return rows, 1 if bad else 0


class Stop:
    """Which signal is to end the command, if one is."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.signal = signal.Signals(number)
        self.event.set()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM end the run, and its row is written before the program ends.

    Only a program's main thread gets signals: in another one, as a notebook may have, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop) for number in INTERRUPTED}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
