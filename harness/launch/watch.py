"""What the launcher knows about the tasks of a run: their journals, their last steps, how they died."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ...results.raw.journal import Follower
from ...strategies.base import Task
from ..plan.task import task_labels
from .processes import alive, describe_exit, find, killed_for_memory

LAST_LINES = 3
_CHATTER = re.compile(r"I\d{4} |E\d{4} .*(cuInit|CUDA)|WARNING: All log messages before absl|\[\d+\]<std")
"""What TensorFlow logs before its log level is set, and that it found no GPU."""

Listener = Callable[[str, dict[str, Any]], None]
"""Called with the label of a task and each new event of its journal."""


@dataclasses.dataclass(frozen=True)
class Death:
    """A process that ended too early: the label of its task or the name of its program, how it ended, its log."""

    name: str
    how: str
    log: Path


def program(task: Task) -> str:
    """Name of what the launcher starts: the label of the task, or the job launcher that starts its workers."""
    return Path(task.command[0]).name if task.command else task.label


class Watch:
    """Follows the journals of a run's tasks."""

    def __init__(self, tasks: list[Task], folder: Path, listen: Listener):
        self._folder = folder
        self._listen = listen
        self._followers = {label: Follower(folder / f"{label}.jsonl") for label in task_labels(tasks)}
        self.members: dict[str, psutil.Process] = {}
        self.failures: dict[str, str] = {}
        self.ready: set[str] = set()
        self.ended: set[str] = set()
        self.last_step: dict[str, int] = {}
        self._killed_for_memory = killed_for_memory()

    @property
    def labels(self) -> list[str]:
        """The labels of all tasks, in order."""
        return list(self._followers)

    def poll(self) -> bool:
        """Read the new events of all journals; True if there were any."""
        news = [(label, event) for label, follower in self._followers.items() for event in follower.poll()]
        # The first error of a run is the cause of the others.
        for label, event in sorted(news, key=lambda item: item[1]["time"]):
            self._take(label, event)
            self._listen(label, event)
        return bool(news)

    def _take(self, label: str, event: dict[str, Any]) -> None:
        match event["event"]:
            case "start":
                self._adopt(label, event)
            case "ready" | "serving":
                self.ready.add(label)
            case "steps":
                self.last_step[label] = event["rows"][-1][1]
            case "failed":
                self.failures.setdefault(label, event["error"])
            case "end":
                self.ended.add(label)

    def _adopt(self, label: str, start: dict[str, Any]) -> None:
        """Remember the process, not only its process id, which may be used again."""
        member = find(start)
        if member:
            self.members[label] = member

    def forget(self, label: str) -> None:
        """Forget the process of this task, which is dead. The next process of the task is found by its journal."""
        self.members.pop(label, None)
        self.failures.pop(label, None)

    def gone(self) -> list[str]:
        """Labels of the tasks whose process is dead and whose journal has no end."""
        missing = [label for label, member in self.members.items() if not alive(member)]
        if any(label not in self.ended for label in missing):
            self.poll()
        return [label for label in missing if label not in self.ended]

    def reported(self, task: Task) -> list[Death]:
        """Workers whose end the launcher of the job has printed, in the order of their deaths."""
        path = self._folder / f"{program(task)}.log"
        if not task.exit_patterns or not path.exists():
            return []
        text = path.read_text(errors="replace")
        found = [match for pattern in task.exit_patterns for match in re.finditer(pattern, text)]
        ends = [(match["index"], _exit_code(match)) for match in sorted(found, key=re.Match.start)]
        return [self.death(f"{task.role}-{index}", code) for index, code in ends if code]

    def death(self, name: str, code: int | None) -> Death:
        """How ``name`` ended. ``code`` is None if its exit code is unknown."""
        how = "lost without an exit code" if code is None else describe_exit(code)
        return Death(name, how, self._folder / f"{name}.log")

    def explain(self, deaths: list[Death]) -> str:
        """One line about the first task that was killed, else the first failure in a journal, else the first death."""
        killed = [death for death in deaths if death.how.startswith("killed") and death.name not in self.failures]
        if not killed and self.failures:
            label, why = next(iter(self.failures.items()))
            return f"{label}: {why}"
        # A process that aborts does so itself: often as another one, which was killed, is gone.
        death = min(killed or deaths, key=lambda one: "SIGABRT" in one.how)
        verb = "ended with" if death.how.startswith("exit") else "was"
        why = " (memory ran out)" if "SIGKILL" in death.how and killed_for_memory() > self._killed_for_memory else ""
        return f"{death.name} {verb} {death.how}{why}{self._when(death.name)}; its log ends: {_last_lines(death.log)}"

    def progress(self) -> str:
        """The last step of the run, for the end of a sentence."""
        return f" after step {max(self.last_step.values())}" if self.last_step else " before the first step"

    def _when(self, label: str) -> str:
        if not label.startswith("worker"):
            return ""
        step = self.last_step.get(label)
        return f" after step {step}" if step is not None else " before its first step"


def _exit_code(match: re.Match[str]) -> int:
    """The exit code as in `subprocess`: negative for a signal."""
    groups = match.groupdict()
    return -int(groups["signal"]) if "signal" in groups else int(groups["code"])


def _last_lines(log: Path) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _CHATTER.match(line)]
    return " | ".join(lines[-LAST_LINES:]) or "(nothing but start-up messages)"
