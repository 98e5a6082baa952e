"""What worker 0 tells the other tasks of a run, by files in a folder that all of them see."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..trainer import Memory, Workload

_HELD = "held"
_POLL_SECONDS = 0.05


def tell(workload: Workload, held: Mapping[str, Memory]) -> None:
    """Tell the tasks what they hold, by their labels. Worker 0 has placed it."""
    _write(workload, _HELD, {label: dataclasses.asdict(each) for label, each in held.items()})


def told(workload: Workload, label: str) -> Memory:
    """What the task of that label holds. Waits until worker 0 has told it."""
    return Memory(**_read(workload, _HELD)[label])


def agree(workload: Workload, name: str, leads: bool, find: Callable[[], Any]) -> Any:
    """What the task that ``leads`` finds, in all tasks: something that JSON can hold."""
    if leads:
        _write(workload, name, find())
    return _read(workload, name)


def _write(workload: Workload, name: str, value: Any) -> None:
    path = workload.scratch() / f"{name}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)


def _read(workload: Workload, name: str) -> Any:
    path = workload.scratch() / f"{name}.json"
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    return json.loads(path.read_text())
