"""In which order a part does its forward and backward passes.

``gpipe``: all forward passes, then all backward passes (Huang et al., *GPipe: Efficient Training of Giant Neural
Networks using Pipeline Parallelism*, NeurIPS 2019). ``1f1b``: part k begins with at most S − k − 1 forward passes; from
then on each one is followed by a backward pass, so that it keeps the activations of at most S − k micro-batches
(Narayanan et al., *PipeDream: Generalized Pipeline Parallelism for DNN Training*, SOSP 2019; with one update a step as
in Narayanan et al., *Memory-Efficient Pipeline-Parallel DNN Training*, ICML 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

FORWARD, BACKWARD = "forward", "backward"
Schedule = Literal["gpipe", "1f1b"]


class Pass(NamedTuple):
    """One pass of a part over a micro-batch."""

    kind: str
    micro_batch: int


def order(part: int, parts: int, micro_batches: int, schedule: Schedule) -> list[Pass]:
    """The passes of one part, one after the other."""
    forward = [Pass(FORWARD, number) for number in range(micro_batches)]
    backward = [Pass(BACKWARD, number) for number in range(micro_batches)]
    if schedule == "gpipe":
        return forward + backward
    first = min(micro_batches, parts - part - 1)
    steady = [each for pair in zip(forward[first:], backward, strict=False) for each in pair]
    return forward[:first] + steady + backward[micro_batches - first :]


def most_kept(passes: Sequence[Pass]) -> int:
    """Of how many micro-batches a part keeps the activations at the same time, at most."""
    now = most = 0
    for each in passes:
        now += 1 if each.kind == FORWARD else -1
        most = max(most, now)
    return most


def bubble(parts: int, micro_batches: int) -> float:
    """(S − 1) / (M + S − 1): the share of time in which a part waits, if all passes take the same time."""
    return (parts - 1) / (micro_batches + parts - 1)


def in_turn(parts: int, micro_batches: int, schedule: Schedule) -> Iterator[tuple[int, Pass]]:
    """(part, pass) of all parts, each after the passes that it needs: of all parts before it, or after it."""
    todo = [order(part, parts, micro_batches, schedule) for part in range(parts)]
    done: set[tuple[int, Pass]] = set()

    def ready(part: int, each: Pass) -> bool:
        before = range(part) if each.kind == FORWARD else range(part + 1, parts)
        return all((other, each) in done for other in before)

    while any(todo):
        for part, passes in enumerate(todo):
            while passes and ready(part, passes[0]):
                done.add((part, passes[0]))
                yield part, passes.pop(0)
