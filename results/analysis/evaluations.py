"""How far runs were when their weights were evaluated."""

from __future__ import annotations

import numpy as np
import pandas as pd

PROGRESS = ("epochs", "seconds", "examples", "traffic_bytes")
_RUN = ("run_id", "train_examples", "global_batch", "last_batch", "steps_done", "examples_done")


def main(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of the metrics table with each run's main metric on the validation examples."""
    return metrics[metrics["split"] == "validation"].merge(runs[["run_id", "metric"]], on=["run_id", "metric"])


def of_runs(runs: pd.DataFrame, values: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """A row for each evaluation, by run and in order: ``run_id``, ``epoch``, ``step``, ``value``, and by then

    - ``epochs``, with the part of one that had not ended, and ``seconds`` of training;
    - ``examples`` and ``traffic_bytes`` of all workers: of an epoch that had not ended, in proportion to its steps.

    Args:
        runs: some rows of the runs table.
        values: rows of the metrics table, one metric on the validation examples for each run. Those of older versions,
            which have no ``step``, are of whole epochs.
        epochs: the epochs table.
    """
    known = runs[list(_RUN)].merge(epochs.groupby("run_id").size().rename("count"), on="run_id")
    known["length"] = _steps_per_epoch(known)
    own = epochs.merge(known[["run_id", "length", "steps_done"]], on="run_id").sort_values(["run_id", "epoch"])
    each = own.groupby("run_id")
    own["end"] = np.minimum((each.cumcount() + 1) * own["length"], own["steps_done"])
    own["clock"] = each["seconds"].cumsum(skipna=False)
    own["traffic"] = each["traffic_bytes_measured"].cumsum(skipna=False)
    own[["begin", "before"]] = own.groupby("run_id")[["end", "traffic"]].shift(fill_value=0.0)

    found = values[["run_id", "epoch", "step", "seconds", "value"]].merge(known, on="run_id")
    moments = ["run_id", "epoch", "begin", "end", "clock", "before", "traffic"]
    found = found.merge(own[moments], on=["run_id", "epoch"], how="left")
    older = found["step"].isna()
    found["step"], found["seconds"] = (
        found[new].mask(older, found[old]) for new, old in (("step", "end"), ("seconds", "clock"))
    )
    share = (found["step"] - found["begin"]) / (found["end"] - found["begin"])
    found = found.assign(
        epochs=found["step"] / found["length"],
        examples=found["examples_done"] * found["step"] / found["steps_done"],
        traffic_bytes=found["before"] + share * (found["traffic"] - found["before"]),
    )
    return found[["run_id", "epoch", "step", "value", *PROGRESS]].sort_values(["run_id", "step"], ignore_index=True)


def _steps_per_epoch(known: pd.DataFrame) -> pd.Series:
    """Of each run; of older versions, which don't tell the number of examples, on average over its epochs."""
    batches = known["train_examples"] / known["global_batch"]
    whole = np.where(known["last_batch"] == "keep", np.ceil(batches), np.floor(batches))
    return pd.Series(whole, known.index).fillna(known["steps_done"] / known["count"])
