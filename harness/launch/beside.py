"""Measures other load on the machine during a run, from when all replicas are ready until all have trained."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ...results.raw import machine
from ...strategies.base import Task
from ..plan.task import task_labels
from .watch import Listener


class Beside:
    """A listener that takes two readings, when the tasks' events say so, and passes the events on.

    Args:
        tasks: the tasks of the run.
        listen: called with all events too.
        ours: process ids of children of this process that work for the run, although they started before it.
        read: takes a reading.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        listen: Listener,
        ours: Collection[int] = (),
        read: Callable[[], machine.Reading | None] | None = None,
    ):
        strangers = {child for child in machine.children() if child.pid not in ours}
        self._read = read or (lambda: machine.read(strangers))
        self._listen = listen
        labels = task_labels([task for task in tasks if not task.serves])
        self._due = {"ready": set(labels), "trained": set(labels)}
        self._load_before: float | None = None
        with contextlib.suppress(OSError, AttributeError):
            self._load_before = os.getloadavg()[0]
        self._begin: machine.Reading | None = None
        self._end: machine.Reading | None = None

    def listen(self, label: str, event: dict[str, Any]) -> None:
        """Handle an event of a task."""
        due = self._due.get(event["event"], set())
        if label in due:
            due.remove(label)
            if not due:
                self._take(event["event"])
        self._listen(label, event)

    def _take(self, name: str) -> None:
        reading = self._read()
        if name == "ready":
            self._begin = reading
        elif self._begin and reading and reading.at - self._begin.at >= machine.SHORTEST_SECONDS:
            self._end = reading

    def finish(self) -> machine.Beside:
        """What was measured. If training was too short, or never ended, it is measured until the end of the run."""
        if self._begin and not self._end:
            self._end = self._read()
        return machine.Beside(self._load_before, self._begin, self._end)
