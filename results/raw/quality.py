"""What a run's evaluations say: its losses and metrics, by Keras's names, and one main metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .checked import MOST_NAME_BYTES
from .journal import TaskLog

SPLITS = ("train", "validation", "test")

ACCURACY = {"accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy"}
"""Names that Keras gives to the share of right answers. The share within the first k answers is not among them."""

PERPLEXITY = "perplexity"


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


def main_metric(names: Iterable[str]) -> str:
    """The name that stands for a run: perplexity, else accuracy, else the first metric, else the loss."""
    metrics = [name for name in names if name != "loss" and not name.endswith("_loss")]
    if PERPLEXITY in metrics:
        return PERPLEXITY
    return next((name for name in metrics if name in ACCURACY), metrics[0] if metrics else "loss")


def columns(event: Mapping[str, Any] | None, split: str) -> dict[str, Any]:
    """``<split>_loss``, ``<split>_accuracy`` and ``<split>_metric`` of an evaluation; None where it has none."""
    found = (event or {}).get(split, {})
    main = main_metric(found)
    return {
        f"{split}_loss": found.get("loss"),
        f"{split}_accuracy": next((value for name, value in found.items() if name in ACCURACY), None),
        f"{split}_metric": found.get(main),
    }


def metric(event: Mapping[str, Any] | None) -> str:
    """The name of an evaluation's main metric; empty without an evaluation."""
    return shortened(main_metric(event["validation"])) if event else ""
