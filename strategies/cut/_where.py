"""Where a model is cut: as the user says, or so that the slowest part is fast and little crosses the cuts.

A cut at i is before call i. Two calls that use the same weights stay in one part.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Sequence
from math import inf

from ...errors import UsageError
from ._calls import Calls
from ._cost import Costs

SLACK = 0.1
"""Cuts whose slowest part takes at most so much longer than the best one's are as good: of these, the one that the
fewest bytes cross. Costs are measured, so that without slack the cut would change from run to run."""
BYTES_PER_SECOND = 1e9
"""Of what crosses. Assumed, not measured: a little less than a network of 10 Gbit/s."""


def places(calls: Calls, costs: Costs, parts: int) -> list[int]:
    """The cuts that give so many parts. Raises UsageError if there are none."""
    possible = _possible(calls)
    check(calls, parts)
    ends = [0, *possible, len(calls.calls)]
    total = [0.0, *itertools.accumulate(costs.seconds)]
    crossing = {place: _crossing(calls, costs, place) for place in possible}

    def seconds(first: int, end: int) -> float:
        # Forth, and its gradient back.
        return total[end] - total[first] + 2 * crossing.get(end, 0.0) / BYTES_PER_SECOND

    slowest, _ = _best(ends, parts, seconds, max)
    bound = slowest * (1 + SLACK)

    def sent(first: int, end: int) -> float:
        return crossing.get(end, 0.0) if seconds(first, end) <= bound else inf

    return _best(ends, parts, sent, lambda a, b: a + b)[1]


def check(calls: Calls, parts: int) -> None:
    """Raises UsageError if there are no cuts that give so many parts."""
    possible = _possible(calls)
    layers = sum(bool(call.name) for call in calls.calls)
    if layers < parts:
        raise UsageError(f"a model of {layers} layers can't be cut into {parts} parts; ask for fewer.")
    if len(possible) < parts - 1:
        raise UsageError(f"the model can only be cut into {len(possible) + 1} parts, not {parts}: {_shared(calls)}")


def named_places(calls: Calls, names: Sequence[str]) -> list[int]:
    """The cuts after the last calls of these layers. Raises UsageError if the model can't be cut there."""
    after = {call.name: place + 1 for place, call in enumerate(calls.calls) if call.name}
    for name in names:
        if name not in after:
            near = difflib.get_close_matches(name, after, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"option cut must name layers: {_listed(list(after))}. Received: '{name}'.{hint}")
    if len(set(names)) < len(names):
        raise UsageError(f"each layer must be named once in option cut. Received: {'+'.join(names)}.")
    found = sorted(after[name] for name in names)
    possible = set(_possible(calls))
    for place in found:
        if place == len(calls.calls):
            raise UsageError(f"nothing comes after layer {calls.calls[-1].name}, so the model can't be cut there.")
        if place not in possible:
            raise UsageError(f"the model can't be cut after layer {calls.calls[place - 1].name}: {_shared(calls)}")
    return found


def _possible(calls: Calls) -> list[int]:
    """All cuts that leave a named call in each part and no weight on both sides."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, call in enumerate(calls.calls):
        for variable in call.variables:
            first.setdefault(id(variable), place)
            last[id(variable)] = place
    spans = [(first[key], last[key]) for key in first if first[key] < last[key]]
    # A cut right after what has no name would leave nothing of the user's between two of them.
    return [
        place
        for place in range(1, len(calls.calls))
        if calls.calls[place - 1].name and not any(begin < place <= end for begin, end in spans)
    ]


def _shared(calls: Calls) -> str:
    """The layer that is called in several places, in a sentence."""
    seen: dict[int, str] = {}
    for call in calls.calls:
        for variable in call.variables:
            if id(variable) in seen:
                return f"layer {call.name} is used on both sides of a cut."
        seen |= {id(variable): call.name for variable in call.variables}
    return "it has too few layers."


def _crossing(calls: Calls, costs: Costs, place: int) -> float:
    """Bytes that are computed before a cut, or fed, and used after it."""
    after = {value for call in calls.calls[place:] for value in call.inputs}
    inside = {value for call in calls.calls[place:] for value in call.outputs}
    return float(sum(costs.bytes[value] for value in after - inside))


def _best(
    ends: Sequence[int],
    parts: int,
    cost: Callable[[int, int], float],
    join: Callable[[float, float], float],
) -> tuple[float, list[int]]:
    """(the least joint cost of ``parts`` parts that begin and end at ``ends``, where they are cut)."""
    known: list[tuple[float, list[int]]] = [(0.0, []), *[(inf, [])] * (len(ends) - 1)]
    for _ in range(parts):
        found = [(inf, list[int]())]
        for place, end in enumerate(ends[1:], 1):
            costs = [join(known[before][0], cost(ends[before], end)) for before in range(place)]
            before = costs.index(min(costs))
            found.append((costs[before], [*known[before][1], ends[before]]))
        known = found
    least, begins = known[-1]
    return least, begins[1:]


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
