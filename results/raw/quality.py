"""What a run's evaluations say: its losses and metrics, by Keras's names, and one main metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .checked import MOST_NAME_BYTES
from .journal import TaskLog

SPLITS = ("train", "validation", "test")
TRAIN_STEP = "train_step"
"""In the place of a split: what a model's own ``train_step`` returned while it trained."""

ACCURACY = {"accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy"}
"""Names that Keras gives to the share of right answers. The share within the first k answers is not among them."""

PERPLEXITY = "perplexity"


def rows(logs: Sequence[TaskLog], evaluates: TaskLog | None) -> Iterator[dict[str, Any]]:
    """The rows of the metrics table.

    Args:
        evaluates: the journal of the task that does.
    """
    yield from _of_steps(logs)
    if not evaluates:
        return
    for event, seconds in zip(evaluates.evaluations, _seconds(evaluates), strict=True):
        when = {"epoch": event["epoch"], "step": event["step"], "seconds": seconds}
        for split in SPLITS:
            for name, value in event.get(split, {}).items():
                yield when | {"split": split, "metric": shortened(name), "value": value}


def _seconds(log: TaskLog) -> list[float]:
    """Of training until each evaluation: of its epochs that had ended, and of the steps of the one that had not."""
    import numpy as np

    ended = {event["epoch"]: event["seconds"] for event in log.epochs}
    numbers = np.unique(log.steps["epoch"])
    # NaN for those of which the time is not known: all after them are not, either.
    epochs = np.cumsum([0.0, *(np.nan if (each := ended.get(n)) is None else each for n in numbers.tolist())])
    steps = np.concatenate([[0.0], np.cumsum(log.steps["step_seconds"])])
    found = []
    for event in log.evaluations:
        begin, end = _places(log, event["epoch"])
        place = int(np.searchsorted(log.steps["step"], event["step"]))
        before, whole = int(np.searchsorted(numbers, event["epoch"])), place == end
        seconds = epochs[before + whole] + (0.0 if whole else steps[place] - steps[begin]) if begin < end else np.nan
        found.append(float(seconds))
    return found


def after_epochs(log: TaskLog) -> dict[int, dict[str, Any]]:
    """The evaluations that were made of the weights after an epoch's last step, by the epoch."""
    return {
        event["epoch"]: event
        for event in log.evaluations
        if event["step"] - 1 in log.steps["step"][slice(*_places(log, event["epoch"]))][-1:]
    }


def _places(log: TaskLog, epoch: int) -> tuple[int, int]:
    """Of an epoch's first step among all, and of the one after its last."""
    import numpy as np

    begin, end = np.searchsorted(log.steps["epoch"], [epoch, epoch + 1])
    return int(begin), int(end)


def _of_steps(logs: Sequence[TaskLog]) -> Iterator[dict[str, Any]]:
    """What a model's own ``train_step`` returned, as the mean over the tasks, weighted by their examples."""
    sums: dict[tuple[int, str], float] = {}
    weights: dict[tuple[int, str], float] = {}
    for log in logs:
        for event in log.epochs:
            examples = float(log.steps["examples"][log.steps["epoch"] == event["epoch"]].sum())
            for name, value in (event.get("logs") or {}).items():
                key = event["epoch"], name
                sums[key] = sums.get(key, 0.0) + value * examples
                weights[key] = weights.get(key, 0.0) + examples
    for (epoch, name), total in sorted(sums.items(), key=lambda each: each[0][0]):
        weight = weights[epoch, name]
        if weight:
            yield {"epoch": epoch, "split": TRAIN_STEP, "metric": shortened(name), "value": total / weight}


def shortened(name: str) -> str:
    """The name of a metric, cut to what a table takes."""
    short = name.encode(errors="replace")[:MOST_NAME_BYTES].decode(errors="ignore")
    return name if short == name else short[: -len("…".encode())] + "…"


def main_metric(names: Iterable[str]) -> str:
    """The name that stands for a run: perplexity, else accuracy, else the first metric, else a loss; empty for none."""
    names = list(names)
    metrics = [name for name in names if name != "loss" and not name.endswith("_loss")]
    if PERPLEXITY in metrics:
        return PERPLEXITY
    losses = sorted(names, key=lambda name: name != "loss")
    return next((name for name in metrics if name in ACCURACY), (metrics or losses or [""])[0])


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
