"""What a workload's rows answer, in words: what trains fastest, by how much, how sure that is, and at what price."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..analysis import bases, intervals
from ..analysis.bases import Row
from ..analysis.intervals import LEAST_RUNS
from . import words

_NOTICEABLE = 0.05
"""From this share of a step on, what is not computing is told."""
_NOTICEABLE_RATIO = 1.1
"""From this ratio on, it is told that computing itself is slower."""


def sentences(rows: Sequence[Row]) -> list[str]:
    """The answer for the rows of one workload, of `comparison.compared`: the main thing first."""
    timed = [row for row in rows if row["rates"]]
    if not timed:
        return ["No run is ok, so nothing can be said of what trains fastest."]
    fastest = max(timed, key=lambda row: row["examples_per_second"])
    if len(timed) == 1:
        return [f"Only {words.name(fastest)} has a rate, so there is nothing to compare it with."]
    base = _reference(fastest, timed)
    distributed = any(row["replicas"] > base["replicas"] for row in timed)
    said = [_headline(fastest, base, timed)]
    said += _rivals(fastest, [row for row in timed if row is not base])
    if fastest is not base:
        said += _quality(fastest, base)
        said += _price(fastest, timed)
        said += _as_good(fastest, base, timed)
    if fastest["disturbed"] or base["disturbed"]:
        said.append("Something else used the machine during some of these runs: repeat them on a quiet one.")
    if distributed and not _pays(fastest, base):
        said += _advice(timed, base)
    return said


def _reference(fastest: Row, timed: Sequence[Row]) -> Row:
    """The row that the fastest is compared with: its base, or the next one if it is the base of no other row here."""
    others = [row for row in timed if row is not fastest]
    base = bases.base_of(fastest, timed)
    if base is None or (base is fastest and all(bases.base_of(row, timed) is not fastest for row in others)):
        return max(others, key=lambda row: row["examples_per_second"])
    return base


def _pays(fastest: Row, base: Row) -> bool:
    return fastest is not base and not bases.speedup_of(fastest, base).low <= 1.0


def _headline(fastest: Row, base: Row, timed: Sequence[Row]) -> str:
    if fastest is base:
        spread = [bases.speedup_of(row, base) for row in timed if row["replicas"] > base["replicas"]]
        if base["ok"] < LEAST_RUNS:
            more = f", in {words.count(base['ok'], 'run')} each; that may be chance"
        elif any(not ratio.high < 1.0 for ratio in spread):
            more = ", but that may be chance"
        else:
            more = ": distributing does not pay here" if spread else ""
        return f"Nothing that was measured trains faster than {words.name(base)}{more}."
    ratio = bases.speedup_of(fastest, base)
    speedup = f"{ratio.value:.2f}× as fast as {words.name(base)}"
    if not ratio.known:
        runs = words.count(min(fastest["ok"], base["ok"]), "run")
        return f"{words.name(fastest)} had the highest rate, {speedup}, in {runs} each; that may be chance."
    interval = f"({words.interval(ratio.low, ratio.high, '.2f')})"
    if ratio.low <= 1.0:
        nothing = f"Nothing is shown to train faster than {words.name(base)}"
        return f"{nothing}: {words.name(fastest)} comes next, {speedup} {interval}."
    share = ""
    if fastest["replicas"] > base["replicas"]:
        efficiency = ratio.value * base["replicas"] / fastest["replicas"]
        share = f"; {efficiency:.0%} of what so many replicas would give without loss"
    return f"{words.name(fastest)} trains fastest: {speedup} {interval}{share}."


def _rivals(fastest: Row, timed: Sequence[Row]) -> list[str]:
    """Rows whose rate can't be told from the highest one."""
    ratios = [(row, bases.speedup_of(row, fastest)) for row in timed if row is not fastest]
    close = [(row, ratio) for row, ratio in ratios if ratio.known and not ratio.excludes(1.0)]
    if not close:
        return []
    told = ", ".join(
        f"{words.name(row)} ({words.interval(ratio.low, ratio.high, '.2f')} of its rate)" for row, ratio in close
    )
    return [f"Too close to it to tell them apart: {told}."]


def _quality(fastest: Row, base: Row) -> list[str]:
    """How its test metric compares with the base's."""
    if fastest["metric"] != base["metric"] or math.isnan(fastest["test_metric"]) or math.isnan(base["test_metric"]):
        return []
    named = f"test {fastest['metric']}"
    change = intervals.difference(*(bases.test_metrics(row) for row in (fastest, base)))
    if change.value == 0:
        return [f"Its {named} is the same, {fastest['test_metric']:.4g}."]
    figures = f"{fastest['test_metric']:.4g}, against {base['test_metric']:.4g} of {words.name(base)}"
    if not change.known:
        return [f"Its {named} is {figures}."]
    if change.excludes(0.0):
        return [f"Its {named} is {figures}: {change.value:+.2g} ({change.low:+.2g} to {change.high:+.2g})."]
    return [f"Its {named} is {figures}; that may be chance ({change.low:+.2g} to {change.high:+.2g})."]


def _price(fastest: Row, timed: Sequence[Row]) -> list[str]:
    """What a reader should know of it: stale gradients, and what of its step is not computing."""
    said = _lost(fastest, "its") + _slower_computing(fastest, timed)
    if fastest["staleness_mean"] > 0:
        said.append(f"It is asynchronous: its updates are {fastest['staleness_mean']:.2f} others late on average.")
    return said


def _slower_computing(row: Row, timed: Sequence[Row]) -> list[str]:
    """Whether its replicas together compute longer for an example than its base does."""
    base = bases.base_of(row, timed)
    if base is None or row["replicas"] <= base["replicas"] or not row["computing_ratio"] > _NOTICEABLE_RATIO:
        return []
    return [
        f"Computing an example takes {row['computing_ratio']:.2f}× as long as in {words.name(base)}; shared memory, "
        "small batches or repeated updates may be why."
    ]


def _lost(row: Row, whose: str) -> list[str]:
    """Where the row's step goes beside computing, if that is a noticeable share."""
    found = {part: row[f"{part}_share"] for part in ("communicating", "waiting", "input")}
    noticeable = [part for part, share in found.items() if share > _NOTICEABLE]
    if not noticeable:
        return []
    first, *others = (f"{words.PARTS[part]} takes {found[part]:.0%}" for part in noticeable)
    more = "".join(f", {each.replace(' takes', '')}" for each in others)
    return [f"{first[0].upper()}{first[1:]} of {whose} step{more}."]


def _as_good(fastest: Row, base: Row, timed: Sequence[Row]) -> list[str]:
    """The fastest of the rows that are as good as the base, where the fastest of all is shown to be worse."""
    # Of other metrics it is not known whether more is better.
    if (
        base["metric"] != "accuracy"
        or not intervals.difference(bases.test_metrics(fastest), bases.test_metrics(base)).high < 0
    ):
        return []
    as_good = [
        row for row in timed if not intervals.difference(bases.test_metrics(row), bases.test_metrics(base)).high < 0
    ]
    best = max(as_good, key=lambda row: row["examples_per_second"])
    speedup = bases.speedup_of(best, base).value
    return [f"Of those that are not shown to be less accurate, {words.name(best)} is the fastest: {speedup:.2f}×."]


def _advice(timed: Sequence[Row], base: Row) -> list[str]:
    best = max((row for row in timed if row["replicas"] > base["replicas"]), key=lambda row: row["examples_per_second"])
    step = min(row["step_seconds_median"] for row in timed) * 1000
    return [
        *_lost(best, f"{words.name(best)}'s"),
        *_slower_computing(best, timed),
        f"A step takes {step:.3g} ms, and an exchange is paid in each. Larger batches, --accumulate, or a model with "
        "more computing for each weight leave less of it; 'stratbench allreduce' tells what an exchange costs at "
        "least.",
    ]
