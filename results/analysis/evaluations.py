"""How far a run was when its weights were evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

PROGRESS = ("epochs", "seconds", "examples", "traffic_bytes")


def of_run(run: Mapping[Any, Any], values: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """A row for each evaluation, in order: ``epoch``, ``step``, ``value``, and how much of the run was done by then:

    - ``epochs``, with the part of one that had not ended, and ``seconds`` of training;
    - ``examples`` and ``traffic_bytes`` of all workers: of an epoch that had not ended, in proportion to its steps.

    Args:
        run: its row of the runs table.
        values: its rows of the metrics table, for one metric on the validation examples. Rows of older versions, which
            have no ``step``, are of whole epochs.
        epochs: its rows of the epochs table.
    """
    own = epochs.sort_values("epoch")
    length = _steps_per_epoch(run) or run["steps_done"] / max(len(own), 1)
    ends = np.minimum(np.arange(1, len(own) + 1) * length, run["steps_done"])
    whole = pd.DataFrame({"step": ends, "seconds": own["seconds"].cumsum(skipna=False).to_numpy()}, own["epoch"])
    found = values[["epoch", "step", "seconds", "value"]].set_index("epoch", drop=False)
    older = found["step"].isna()
    found[["step", "seconds"]] = found[["step", "seconds"]].mask(older, whole.reindex(found.index))
    found = found.sort_values("step", ignore_index=True)
    traffic = own["traffic_bytes_measured"].cumsum(skipna=False)
    return found.assign(
        epochs=found["step"] / length,
        examples=run["examples_done"] * found["step"] / run["steps_done"],
        traffic_bytes=np.interp(found["step"], [0, *ends], [0.0, *traffic]),
    )


def _steps_per_epoch(run: Mapping[Any, Any]) -> int:
    """0 if it is not known, as of older versions."""
    if math.isnan(run["train_examples"]):
        return 0
    whole, rest = divmod(int(run["train_examples"]), int(run["global_batch"]))
    return whole + (rest > 0 and run["last_batch"] == "keep")
