"""Whether rows that were to do the same work did it: from the same weights, with the same examples in each step.

What is compared is what the runs kept of it: digits of the weights, and of which example was in which step. Rows where
they differ are kept apart: neither is the other's base.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .bases import Row, key

COLUMNS = ("initial_weights", "final_weights", "data_order", "examples_repeated")

_ROUNDING = 0.05
"""Of a first update, at most: sums in another order, and 16 bits."""
_KINDS = {"initial_weights": "other weights at the start", "data_order": "other examples in its steps"}


def columns(ok: Sequence[Mapping[str, Any]]) -> Row:
    """`COLUMNS` of a row, from its ok runs: digits that differ are separated by spaces.

    The order is left out of runs that read fewer examples than were planned, as where a worker died.
    """
    whole = [run for run in ok if run["examples_read"] == run["examples_planned"]]
    repeated = [run["first_epoch_examples"] - run["first_epoch_distinct"] for run in whole]
    return {
        "initial_weights": _digits(ok, "initial_weights"),
        "final_weights": _digits(ok, "final_weights"),
        "data_order": _digits(whole, "data_order"),
        "examples_repeated": max(filter(math.isfinite, repeated), default=math.nan),
    }


def differences(row: Row, other: Row) -> list[str]:
    """In words, how the work of ``row`` was another one than that of ``other``, which was to be the same."""
    # Devices of different kinds may round the initial values in different ways.
    kinds = [kind for kind in _KINDS if kind != "initial_weights" or not row["gpus"]]
    found = [_KINDS[kind] for kind in kinds if row[kind] and other[kind] and row[kind] != other[kind]]
    return found + ([] if other["examples_repeated"] > 0 else _repeated(row))


def other_updates(rows: Sequence[Row]) -> list[tuple[Row, Row, float]]:
    """Rows whose first update was another one than that of ``single``, or else of the first of them.

    Only rows of one global batch are compared.

    Returns:
        Row, the one that it is compared with, and by which share it differs.
    """
    found = []
    for batch in dict.fromkeys(row["global_batch"] for row in rows):
        known = [row for row in rows if row["global_batch"] == batch and row["first_update"] > 0]
        base = next((row for row in known if row["strategy"] == "single"), known[0] if known else None)
        if base:
            shares = [(row, base, abs(row["first_update"] / base["first_update"] - 1)) for row in known]
            found += [each for each in shares if each[2] > _ROUNDING]
    return found


def _repeated(row: Row) -> list[str]:
    if not row["examples_repeated"] > 0:
        return []
    return [f"{row['examples_repeated']:,.0f} examples read again within an epoch"]


def apart(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Of each row, how it differs from what the others did; empty where it does not. No row is to repeat examples.

    Args:
        names: columns that are equal in rows that were to do the same work.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row, names), []).append(row)
    references = {work: _reference(group) for work, group in groups.items()}
    found = [(row, differences(row, references[key(row, names)])) for row in rows]
    # Also where there is nothing to compare it with.
    return [", ".join(dict.fromkeys([*words, *_repeated(row)])) for row, words in found]


def _reference(group: Sequence[Row]) -> Row:
    """``single``, or else a row that did what most did. One that repeats examples only if all do."""
    whole = [row for row in group if not row["examples_repeated"] > 0] or group
    counts = Counter(_work(row) for row in whole)

    def merit(row: Row) -> tuple[bool, bool, int]:
        return all(_work(row)), row["strategy"] == "single" and row["replicas"] == 1, counts[_work(row)]

    return max(whole, key=merit)


def _work(row: Row) -> tuple[str, ...]:
    return tuple(row[kind] for kind in _KINDS)


def _digits(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    return " ".join(sorted({run[name] for run in runs if run[name]}))
