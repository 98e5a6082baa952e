"""A command's runs from start to end: opens the tables, shows progress, handles Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from ...results.raw.record import Record
from ..launch.run import WhyNot, open_store, run_all
from ..launch.starter import Starter
from ..plan.spec import RunSpec
from .progress import RunProgress

INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes, as in shells."""


def run_specs(specs: list[RunSpec], output: Path, starter: Starter, why_not: WhyNot) -> tuple[list[Record], int]:
    """Records and exit code: 1 if any run failed or none could run, 130 or 143 after Ctrl-C or SIGTERM.

    Args:
        why_not: a run is skipped, beside the reasons of its spec; empty if it is not.
    """
    records: list[Record] = []
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
            records.append(record)
    if stop.signal is not None:
        return records, INTERRUPTED[stop.signal]
    counts = [record.run["status"] for record in records]
    bad = any(status in ("failed", "timeout") for status in counts) or (counts and "ok" not in counts)
    return records, 1 if bad else 0


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
