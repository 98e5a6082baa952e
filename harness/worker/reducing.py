"""One process of a measured all-reduce: ``python -P -m stratbench.harness.worker.reducing FOLDER``.

It journals each case's seconds to ``FOLDER/<role>-<index>.jsonl``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError
from ...results.raw.journal import Follower
from ...strategies.trainer import Server
from ..plan import reduction
from . import main as worker
from . import usage

if TYPE_CHECKING:
    from ...results.raw.journal import Journal
    from ...strategies.base import Task
    from ...strategies.transport import Transport

_POLL_SECONDS = 0.01


def main() -> None:
    """Reduce as the task that the environment names."""
    worker.main(reduction.read, _work)


def _work(spec: reduction.ReductionSpec, task: Task, folder: Path, journal: Journal, first_step: int) -> None:
    from .serve import serve

    with spec.create_strategy().transport(task, spec) as transport, worker.told(journal, spec):
        if isinstance(transport, Server):
            serve(transport, journal)
            return
        journal.event("ready")
        for number, case in enumerate(spec.cases):
            journal.event("reduced", case=number, **measure(transport, case, spec))
        journal.event("trained")
        used = usage.totals()
        _wait_for_all(spec, folder)
    journal.event("end", **used)


def _wait_for_all(spec: reduction.ReductionSpec, folder: Path) -> None:
    """Until all have their last sum. TensorFlow's collectives fail where a process ends that has its own already.

    If one never has it, its death or the launcher's time-out ends this process.
    """
    journals = [Follower(folder / f"{label}.jsonl") for label in spec.workers()]
    while journals := [each for each in journals if not any(event["event"] == "trained" for event in each.poll())]:
        time.sleep(_POLL_SECONDS)


def measure(transport: Transport, case: reduction.Case, spec: reduction.ReductionSpec) -> dict[str, Any]:
    """Reduce as often as the case says, after warm-ups.

    Returns:
        ``seconds`` of each reduction, the ``moved_bytes`` that this process sent and received in one of them, by the
        kernel (None where it does not tell), and its ``rounds`` in one (None where a library does it).

    Raises:
        RunError: a sum was wrong.
    """
    tensors = [np.full(shape, transport.rank + 1, np.float32) for shape in case.shapes]
    reduce = transport.prepare(tensors)
    total = transport.rank + 1 if spec.copies else spec.replicas * (spec.replicas + 1) / 2
    for _ in range(reduction.WARMUPS):
        _check(reduce(), total, spec.title)
    rounds, moved = transport.rounds, usage.tcp_bytes()
    seconds = []
    for _ in range(case.iterations):
        begin = time.perf_counter()
        reduce()
        seconds.append(time.perf_counter() - begin)
    now = usage.tcp_bytes()
    return {
        "seconds": seconds,
        "moved_bytes": (sum(now) - sum(moved)) / case.iterations if now and moved else None,
        "rounds": None if rounds is None else ((transport.rounds or 0) - rounds) / case.iterations,
    }


def _check(found: Sequence[Any], expected: float, title: str) -> None:
    """Figures of an all-reduce that gives another sum are worth nothing."""
    for tensor in found:
        values = np.asarray(tensor)
        if not (values == expected).all():
            wrong = values[values != expected].flat[0]
            raise RunError(f"{title} must give the sum of all processes' values. Received: {wrong} for {expected:g}.")


if __name__ == "__main__":
    main()
