"""When fsdp gathers, releases and exchanges: planned so that few buffers are alive at the same time.

A step has a phase for each unit of weights: 0 … n−1 in the forward pass, n−1 … 0 in the backward pass. A whole unit in
transit is a buffer of its size. In the backward pass, a phase holds two: weights and gradients, then the gradients as
they came and laid flat, then these and those that were received. This process's part of them stays until the update.
Source: Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, VLDB 2023, §3.3 and §3.4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Use:
    """How a step uses the weights of one unit.

    Attributes:
        size_bytes: of the whole unit.
        last: the last phase of the forward pass that uses it. The first one is that of the unit itself.
        backward: whether the backward pass uses the weights. It does not need those of the first layer.
    """

    size_bytes: int
    last: int
    backward: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step's order. Each list has an element a unit.

    Attributes:
        gather_after: the phase of the forward pass after which a unit is gathered; -1 for the step's start.
        kept: whether a unit stays whole from the forward to the backward pass.
        gather_again: the phase of the backward pass with which a unit is gathered again; None if it is not.
        exchanged: the gradients of all units from this one on are exchanged before the phase of the backward pass
            begins.
        peak_bytes: the most that is alive at the same time.
    """

    gather_after: list[int]
    kept: list[bool]
    gather_again: list[int | None]
    exchanged: list[int]
    peak_bytes: int


def plan(uses: Sequence[Use], replicas: int, budget_bytes: float) -> Plan:
    """As much at the same time as the budget allows. Where one phase alone needs more, the peak is higher.

    Args:
        uses: in the order of the units' first use.
        budget_bytes: for the buffers, and this process's part of the gradients.
    """
    own_parts = [sum(use.size_bytes for use in uses[phase:]) // replicas for phase in range(len(uses))]
    kept = _kept(uses, own_parts, budget_bytes)
    gather_after, forward_peak = _forward(uses, kept, budget_bytes)
    gather_again, exchanged, backward_peak = _backward(uses, own_parts, kept, budget_bytes)
    return Plan(gather_after, kept, gather_again, exchanged, max(forward_peak, backward_peak))


def _kept(uses: Sequence[Use], own_parts: Sequence[int], budget: float) -> list[bool]:
    """Units that need not be gathered again: the last one, and those before it that fit beside the later phases."""
    kept = [False] * len(uses)
    for unit in reversed(range(len(uses))):
        if not uses[unit].backward:
            continue
        kept[unit] = True
        later = range(uses[unit].last + 1, len(uses))
        kept[unit] = all(_phase_bytes(uses, p, _waiting(kept, p)) + own_parts[p] <= budget for p in later)
    return kept


def _forward(uses: Sequence[Use], kept: Sequence[bool], budget: float) -> tuple[list[int], int]:
    found, peak, after = [], 0, -1
    for unit in range(len(uses)):
        while (alive := _gathered_bytes(uses, kept, unit, after)) > budget and after < unit - 1:
            after += 1
        found.append(after)
        peak = max(peak, alive)
    return found, peak


def _gathered_bytes(uses: Sequence[Use], kept: Sequence[bool], unit: int, after: int) -> int:
    """Alive in the forward pass once ``unit`` is gathered, when phase ``after`` is over."""
    return sum(use.size_bytes for u, use in enumerate(uses[: unit + 1]) if kept[u] or use.last > after)


def _backward(
    uses: Sequence[Use], own_parts: Sequence[int], kept: Sequence[bool], budget: float
) -> tuple[list[int | None], list[int], int]:
    again: list[int | None] = [None] * len(uses)
    exchanged, peak, done = [0] * len(uses), 0, len(uses)
    for phase in reversed(range(len(uses))):
        for unit, use in enumerate(uses):
            if use.backward and not kept[unit] and again[unit] is None and use.last == phase:
                again[unit] = phase
        waiting = _waiting(kept, phase) | {u for u, begun in enumerate(again[:phase]) if begun is not None}
        own = _phase_bytes(uses, phase, waiting) + own_parts[phase]
        in_transit = [2 * use.size_bytes for use in uses[phase + 1 :]]
        while done > phase + 1 and own + sum(in_transit[: done - phase - 1]) > budget:
            done -= 1
        exchanged[phase] = done
        alive = own + sum(in_transit[: done - phase - 1])
        for unit in range(phase):
            use = uses[unit]
            next_one = use.backward and not kept[unit] and again[unit] is None and use.last == phase - 1
            if next_one and alive + use.size_bytes <= budget:
                again[unit] = phase
                alive += use.size_bytes
        peak = max(peak, alive)
    return again, exchanged, peak


def _waiting(kept: Sequence[bool], phase: int) -> set[int]:
    """Units that are kept for later phases of the backward pass than this one."""
    return {unit for unit in range(phase) if kept[unit]}


def _phase_bytes(uses: Sequence[Use], phase: int, waiting: set[int]) -> int:
    """Of a phase of the backward pass: two buffers of its unit, one of a unit that waits, gradients of one in use."""
    shared = [use.size_bytes for use in uses[:phase] if use.last >= phase]
    return 2 * uses[phase].size_bytes + sum(shared) + sum(uses[unit].size_bytes for unit in waiting)
