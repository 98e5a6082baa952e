"""Remote workers: tasks that compute what a coordinator, worker 0, gives them, and that take no steps."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Reaction, Task

REMOTE = "remote"
"""Their role."""


def others_do_its_work(task: Task, left: Sequence[Task]) -> Reaction:
    """See `Strategy.after_death`: the coordinator gives what a remote worker had to those that are left."""
    others = any(each.role == REMOTE for each in left)
    return Reaction.GO_ON if task.role == REMOTE and others else Reaction.END
