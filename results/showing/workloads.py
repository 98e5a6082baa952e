"""Rows of a comparison by workload: those that may be compared are shown together, with a title."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from ..analysis.bases import Row, machine_name
from ..analysis.comparison import compared
from . import words


@dataclass(frozen=True)
class Workload:
    """The rows of `comparison.compared` that train the same on machines of one kind."""

    title: str
    rows: list[Row]


def workloads(runs: pd.DataFrame, across_faults: bool = False) -> list[Workload]:
    """The comparison of ``runs`` (the runs table), by workload.

    Runs with injected faults are workloads of their own, unless they are compared ``across_faults``; so are those that
    did another work than they were to do. A title names what tells it from the others: the model's or the data set's
    file where it was changed between runs, and the machine where there are several.
    """
    found: dict[tuple[str, tuple[str, str], str], list[Row]] = {}
    for row in compared(runs, across_faults):
        faults = f" · with {row['inject']}" if row["inject"] and not across_faults else ""
        files = (row["model_digest"], row["data_digest"])
        apart = f" · apart, as it had {row['apart']}" if row["apart"] else ""
        found.setdefault((words.title(row) + faults + apart, files, machine_name(row)), []).append(row)
    machines = {machine for *_, machine in found}
    made = []
    for (title, files, machine), rows in found.items():
        if len({other for same, other, _ in found if same == title}) > 1:
            # The same names, but a file was changed between the runs.
            named = zip(("model", "data"), files, strict=True)
            title += "".join(f" · {kind} file {digest[:6]}" for kind, digest in named if digest)
        if len(machines) > 1:
            title += f" · on {machine}"
        names = Counter(map(words.name, rows))
        for row in rows:
            row["named_by_batch"] = names[words.name(row)] > 1
        made.append(Workload(title, rows))
    return made
