"""What a run's evaluations say: its losses and metrics, by Keras's names, and one main metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .checked import MOST_NAME_BYTES
from .journal import TaskLog

SPLITS = ("validation", "test")


def rows(log: TaskLog | None) -> Iterator[dict[str, Any]]:
    """The rows of the metrics table, from the journal of the task that evaluates."""
    for event in log.evaluations if log else ():
        for split in SPLITS:
            for name, value in event.get(split, {}).items():
                yield {"epoch": event["epoch"], "split": split, "metric": shortened(name), "value": value}


def shortened(name: str) -> str:
    """The name of a metric, cut to what a table takes."""
    short = name.encode(errors="replace")[:MOST_NAME_BYTES].decode(errors="ignore")
    return name if short == name else short[: -len("…".encode())] + "…"


def columns(event: Mapping[str, Any] | None, split: str) -> dict[str, Any]:
    """``<split>_loss``, ``<split>_accuracy`` and ``<split>_metric`` of an evaluation; None where it has none."""
    found = (event or {}).get(split, {})
    main = (event or {}).get("metric", "")
    accuracy = "accuracy" if "accuracy" in found else main if _is_accuracy(main) else ""
    return {
        f"{split}_loss": found.get("loss"),
        f"{split}_accuracy": found.get(accuracy),
        f"{split}_metric": found.get(main),
    }


def _is_accuracy(name: str) -> bool:
    return name == "acc" or name.endswith("accuracy")
