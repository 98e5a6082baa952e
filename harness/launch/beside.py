"""Measures what the machine does beside a run, from when all replicas are ready until all have trained."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from ...results.raw import machine
from ...strategies.base import Task
from ..plan.task import task_labels
from .watch import Listener


class Beside:
    """A listener that takes the two readings when the tasks' events tell that it is time, and passes the events on.

    Args:
        tasks: the run's.
        listen: told of all events as well.
        read: takes a reading.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        listen: Listener,
        read: Callable[[], machine.Reading | None] | None = None,
    ):
        strangers = machine.children()
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
        """Take note of a task's event."""
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
        """What was measured; the run's end stands for that of a training that was too short, or never ended."""
        if self._begin and not self._end:
            self._end = self._read()
        return machine.Beside(self._load_before, self._begin, self._end)
