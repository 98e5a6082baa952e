"""What each task of a run holds, told by worker 0, which has placed it, to the tasks that serve."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping

from ..trainer import Memory, Workload

_HELD = "held.json"
_POLL_SECONDS = 0.05


def tell(workload: Workload, held: Mapping[str, Memory]) -> None:
    """Tell the tasks what they hold, by their labels."""
    path = workload.scratch() / _HELD
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({label: dataclasses.asdict(each) for label, each in held.items()}))
    fresh.replace(path)


def told(workload: Workload, label: str) -> Memory:
    """What the task of that label holds. Waits until worker 0 has told it."""
    path = workload.scratch() / _HELD
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    return Memory(**json.loads(path.read_text())[label])
