"""A command's runs from start to end: opens the tables, shows progress, handles Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from ...results.raw.record import without_repeat
from ..launch.estimating import estimate
from ..launch.run import WhyNot, open_store, run_all
from ..launch.starter import Starter
from ..plan.spec import RunSpec
from .progress import RunProgress, working
from .time_left import words

Row = dict[str, Any]

INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes, as in shells."""


def run_specs(
    specs: list[RunSpec], output: Path, starter: Starter, why_not: WhyNot, estimated: bool = False
) -> tuple[list[Row], int]:
    """Their rows of the runs table, and the exit code.

    The code is 1 if any run failed or none could run, 130 or 143 after Ctrl-C or SIGTERM.

    Args:
        why_not: a run is skipped, beside the reasons of its spec; empty if it is not.
        estimated: tell before, by a short run of each, how long all will take.
    """
    # A record also has each step: those of a whole grid would take too much memory.
    rows: list[Row] = []
    console = Console(stderr=True)

    def warn(line: str) -> None:
        console.print(f"stratbench: {line}", highlight=False, markup=False, emoji=False, soft_wrap=True)

    with (
        open_store(output) as store,
        stopping() as stop,
        ExitStack() as stack,
    ):
        store.recover(warn)
        estimates = _estimates(specs, starter, why_not, stop, console, warn) if estimated and specs else {}
        progress = stack.enter_context(RunProgress(console, specs, estimates))
        for spec, record in run_all(specs, store, stop.event, progress.begin, warn, starter, why_not):
            progress.end(spec, record)
            rows.append(record.run)
    if stop.signal is not None:
        return rows, INTERRUPTED[stop.signal]
    counts = [row["status"] for row in rows]
    bad = any(status in ("failed", "timeout") for status in counts) or (counts and "ok" not in counts)
    return rows, 1 if bad else 0


def _estimates(
    specs: list[RunSpec],
    starter: Starter,
    why_not: WhyNot,
    stop: Stop,
    console: Console,
    warn: Callable[[str], None],
) -> dict[str, float]:
    """Seconds of each run, by its name without the repeat; told in a line."""
    each = {without_repeat(spec.run_id): spec for spec in reversed(specs)}
    with working(console, "estimating") as show:
        found = estimate(list(each.values())[::-1], starter, why_not, stop.event, show)
    estimates = {without_repeat(name): seconds for name, seconds in found.items()}
    if stop.signal is None:
        total = sum(estimates[without_repeat(spec.run_id)] for spec in specs)
        until = datetime.now() + timedelta(seconds=total)
        broken = sum(not seconds for seconds in found.values())
        apart = f"; {broken} of {len(found)} rows can't run here, or fail" if broken else ""
        warn(f"{len(specs)} run{'' if len(specs) == 1 else 's'}, about {words(total)}, until {until:%H:%M}{apart}")
    return estimates


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
