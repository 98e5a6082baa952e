"""Which rows tell how a model's quality depends on the global batch and on the rule of its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..analysis.bases import Row, key
from ..analysis.comparison import SPEC
from ..showing.workloads import Workload

_VARIED = (
    *("strategy", "options", "replicas", "cores_per_replica", "global_batch", "per_replica_batch"),
    *("learning_rate", "lr_scaling", "reference_batch", "warmup_epochs"),
)


@dataclass(frozen=True)
class Study:
    """Rows that train the same but for batches and learning rates, of one metric."""

    title: str
    metric: str
    rows: list[Row]


def studies(workloads: Sequence[Workload]) -> list[Study]:
    """Those of more than one global batch."""
    names = [name for name in SPEC if name not in _VARIED]
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in (row for workload in workloads for row in workload.rows if row["ok"] and not row["apart"]):
        found.setdefault(key(row, (*names, "metric")), []).append(row)
    return [
        Study(f"{rows[0]['metric']} of {rows[0]['model']} on {rows[0]['dataset']}", rows[0]["metric"], rows)
        for rows in found.values()
        if len({row["global_batch"] for row in rows}) > 1 and rows[0]["metric"]
    ]
