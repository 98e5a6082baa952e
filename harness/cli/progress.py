"""The progress of runs: a bar on a terminal or in a notebook, else one line per run."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ...results.raw.journal import STEP_FIELDS
from ...results.raw.quality import main_metric
from ...results.raw.record import Record
from ...results.reductions.words import size_words
from ..launch.watch import Listener
from ..plan.reduction import ReductionSpec
from ..plan.spec import RunSpec
from .time_left import TimeLeft, words

_LINE_SECONDS = 60.0


def _has_widgets(console: Console) -> bool:
    """Whether it is a notebook's that can draw a bar: with ipywidgets, by which rich does it."""
    return console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


@contextmanager
def working(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that shows how far some work is: on a terminal in place, else in a line a minute."""
    with ExitStack() as stack:
        status = console.status("")
        told = time.monotonic()

        def show(words: str) -> None:
            nonlocal told
            text = Text(f"{what}: {words}")
            if console.is_terminal:
                status.update(text)
                stack.enter_context(status)
            elif time.monotonic() - told > _LINE_SECONDS:
                told = time.monotonic()
                console.print(text, soft_wrap=True)

        yield show


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not (console.is_terminal or _has_widgets(console)),
    )


class ReductionProgress:
    """One bar over all cases of all transports; one line for each transport that ended."""

    def __init__(self, console: Console, specs: Sequence[ReductionSpec]):
        self._console = console
        self._progress = _bar(console)
        self._total = sum(len(spec.cases) for spec in specs)
        self._ended = 0

    def __enter__(self) -> Self:
        """Start to draw."""
        self._task = self._progress.add_task("all-reduce", total=self._total, note="starting")
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def begin(self, spec: ReductionSpec) -> Listener:
        """A transport starts. Returns a listener for the events of its journals."""
        self._progress.update(self._task, description=f"{spec.title} ×{spec.replicas}", note="starting")

        def listen(label: str, event: dict[str, Any]) -> None:
            if label == "worker-0" and event["event"] == "reduced":
                done = event["case"] + 1
                note = size_words(spec.cases[event["case"]].size_bytes)
                self._progress.update(self._task, completed=self._ended + done, note=note)

        return listen

    def end(self, spec: ReductionSpec, row: Mapping[str, Any]) -> None:
        """A transport is over: print one line that stays."""
        self._ended += len(spec.cases)
        self._progress.update(self._task, completed=self._ended)
        text = f"{spec.title} ×{spec.replicas}: {row['status']}"
        text += f", {row['reason']}" if row["reason"] else ""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class RunProgress:
    """Shows the current run. All output goes to ``console``, which should be standard error.

    Args:
        estimates: seconds of runs, as `TimeLeft` takes them.
    """

    def __init__(self, console: Console, specs: Sequence[RunSpec], estimates: Mapping[str, float]):
        self._console = console
        self._total = len(specs)
        self._left = TimeLeft(specs, estimates)
        self._done = 0
        self._progress = _bar(console)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Start to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def begin(self, spec: RunSpec) -> Listener:
        """A run starts. Returns a listener for the events of its journals."""
        self._done += 1
        # Rank 0's "ready" event holds the number of steps.
        self._task = self._progress.add_task(self._title(spec), total=spec.steps, note="starting")

        def listen(label: str, event: dict[str, Any]) -> None:
            if label == "worker-0" and self._task is not None:
                self._show(self._task, event)

        return listen

    def _show(self, task: TaskID, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                self._progress.update(task, total=event.get("total_steps"), note="training")
            case "steps":
                last = dict(zip(STEP_FIELDS, event["rows"][-1], strict=True))
                note = "training" if last["loss"] is None else f"loss {last['loss']:.4f}"
                self._progress.update(task, completed=last["step"] + 1, note=note)
            case "evaluation":
                if name := main_metric(event["validation"]):
                    self._progress.update(task, note=f"validation {name} {event['validation'][name]:.4g}")

    def _title(self, spec: RunSpec) -> str:
        return f"{self._done}/{self._total} {spec.title}" if self._total > 1 else spec.title

    def end(self, spec: RunSpec, record: Record) -> None:
        """A run is over: print one line that stays."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        row = record.run
        text = f"{self._title(spec)}: {row['status']}"
        if row["status"] == "ok":
            quality = f"test {row['metric']} {row['test_metric']:.4g}, " if row["metric"] else ""
            rate = row["examples_per_second"]
            told = "too few steps for a rate" if math.isnan(rate) else f"{rate:,.0f} examples/s"
            text += f", {told}, {quality}{row['total_seconds']:.1f} s with {row['startup_seconds']:.1f} s start-up"
        else:
            text += f", {row['reason']}"
        self._left.ended(spec, row["total_seconds"])
        left = self._left.seconds()
        if self._done < self._total and left is not None:
            text += f"; about {words(left)} left"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
