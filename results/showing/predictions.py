"""Predicted steps, as tables on a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ..analysis.prediction import Prediction, Series
from . import plain, words
from .table import SHOWN, empty

_HEADERS = (
    "repli-\ncas",
    "global\nbatch",
    "step\nms",
    "95 % of\nruns",
    "examples\nper second",
    "effi-\nciency",
    "comp/comm/\nwait, %",
    "epoch\ns",
)
_COST = "cost of\nan epoch"


def render(title: str, found: Sequence[Series], price: float | None, console: Console) -> None:
    """Print a workload: a row for each strategy and number of replicas, and what its figures are worth."""
    console.print(title, style="bold", markup=False, emoji=False)
    rows = [each for series in found for each in series.predictions]
    if rows:
        table = empty((*_HEADERS, *(() if price is None else (_COST,))))
        table.add_column("", no_wrap=True)
        for each in rows:
            cost = () if price is None else (words.number(each.cost(price), ".3g"),)
            table.add_row(words.strategy(each.row), *_cells(each), *cost, each.kind)
        console.print(table, markup=False)
    for line in _answers(rows, price):
        console.print(line, markup=False, emoji=False)
    for line in _captions(found, rows):
        console.print(line, style="dim", markup=False, emoji=False)
    console.print()


def to_json(found: Sequence[tuple[str, Sequence[Series]]], price: float | None) -> str:
    """A list with an object for each strategy and its work; ``workload`` is its title."""
    return plain.dump([_series(title, series, price) for title, several in found for series in several])


def _series(title: str, series: Series, price: float | None) -> dict[str, Any]:
    return {
        "workload": title,
        "strategy": series.row["strategy"],
        "options": series.row["options"],
        "why_not": series.why_not,
        "left_out": list(series.left_out),
        "sizes": [_size(each, price) for each in series.predictions],
        "checks": [
            {"replicas": check.replicas, "error": check.error, "within": check.within} for check in series.checks
        ],
    }


def _size(each: Prediction, price: float | None) -> dict[str, Any]:
    figures = {
        "replicas": each.replicas,
        "kind": each.kind,
        "scaling": each.scaling,
        "global_batch": each.global_batch,
        "step_seconds": each.step_seconds.value,
        "step_seconds_low": each.step_seconds.low,
        "step_seconds_high": each.step_seconds.high,
        "examples_per_second": each.rate,
        "efficiency": each.efficiency,
        **{f"{part}_share": share for part, share in each.shares.items()},
        "epoch_seconds": each.epoch_seconds,
    }
    return plain.cells(figures | ({} if price is None else {"epoch_cost": each.cost(price)}))


def _cells(each: Prediction) -> list[str]:
    """The figures, in the order of the headers."""
    step, form = each.step_seconds, _milliseconds(each.step_seconds.value)
    doubt = "" if step.known else "~"
    return [
        str(each.replicas),
        f"{each.global_batch:.0f}",
        doubt + words.number(step.value * 1000, form),
        words.interval(step.low * 1000, step.high * 1000, form),
        doubt + words.rate(each.rate),
        doubt + words.number(each.efficiency, ".0%"),
        "/".join(f"{100 * each.shares[part]:.0f}" for part in SHOWN),
        words.number(each.epoch_seconds, ".3g"),
    ]


def _milliseconds(seconds: float) -> str:
    return ".1f" if seconds < 1 else ",.0f"


def _answers(rows: Sequence[Prediction], price: float | None) -> list[str]:
    """For each number of replicas that was not measured, what trains fastest; then what an epoch costs least with."""
    lines = []
    for replicas in sorted({each.replicas for each in rows if each.kind != "measured"}):
        several = sorted((each for each in rows if each.replicas == replicas), key=lambda each: -each.rate)
        best, *others = several
        if not others:
            continue
        close = [each for each in others if not _is_slower(each, best)]
        unsure = f"; not told apart from it: {_names(close)}" if close else ""
        lines.append(f"×{replicas}: {words.strategy(best.row)} has the highest rate{unsure}")
    priced = [each for each in rows if price is not None and not math.isnan(each.epoch_seconds)]
    if priced and price is not None:
        cheapest = min(priced, key=lambda each: each.cost(price))
        name = f"{words.strategy(cheapest.row)} ×{cheapest.replicas}"
        lines.append(f"An epoch costs least with {name}, {cheapest.cost(price):.3g}")
    return lines


def _is_slower(each: Prediction, best: Prediction) -> bool:
    """Beyond both intervals, in seconds an example; never without intervals."""
    return each.step_seconds.low / each.global_batch > best.step_seconds.high / best.global_batch


def _names(rows: Sequence[Prediction]) -> str:
    return ", ".join(words.strategy(each.row) for each in rows)


def _captions(found: Sequence[Series], rows: Sequence[Prediction]) -> list[str]:
    """What the figures mean, and what they are worth."""
    lines = []
    if rows:
        lines.append(
            "95 % of runs: where a further run would be, by the spread of the rounds and each way to explain them"
        )
        lines.append("efficiency against the fewest replicas that were measured, of the same strategy")
        lines.append("comp/comm/wait: % of a step in computing, communicating, waiting for others")
    if any(each.kind == "extrapolated" for each in rows):
        lines.append("extrapolated: beyond what was measured; nothing checks it")
    if any(not each.step_seconds.known for each in rows):
        lines.append("~ rests on fewer than 3 rounds: no interval; compare --repeats 3 or more gives one")
    if any(math.isnan(each.epoch_seconds) for each in rows):
        lines.append("the seconds of an epoch are not known, as older runs don't tell the number of examples")
    lines += _beyond(rows)
    lines += dict.fromkeys(each for series in found for each in series.left_out)
    lines += _checks(found)
    lines += [f"{words.strategy(each.row)} can't be predicted: {each.why_not}" for each in found if each.why_not]
    return lines


def _checks(found: Sequence[Series]) -> list[str]:
    """Each measured size, predicted from the others; and whose predictions nothing checks."""
    lines = []
    for series in found:
        name = words.strategy(series.row)
        lines += [_check(name, check.replicas, check.error, check.within) for check in series.checks]
    few = dict.fromkeys(words.strategy(each.row) for each in found if each.predictions and not each.checks)
    if few:
        lines.append(f"not checked, as there are runs of fewer than three sizes: {', '.join(few)}")
    return lines


def _check(name: str, replicas: int, error: float, within: bool | None) -> str:
    told = "" if within is None else f", {'inside' if within else 'outside'} the interval"
    how = "long" if error > 0 else "short"
    return f"{name} ×{replicas}, predicted from the other sizes: {abs(error):.0%} too {how}{told}"


def _beyond(rows: Sequence[Prediction]) -> list[str]:
    """That the machine has fewer cores than some sizes need."""
    for each in rows:
        have, need = each.row["cores_available"], each.replicas * each.row["cores_per_replica"]
        if each.kind != "measured" and need > have:
            return [f"as if each replica had its cores, also where there are more than this machine's {have}"]
    return []
