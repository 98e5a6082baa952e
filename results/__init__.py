"""Results: the files of a run, the tables built from them, and how they are compared and shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from .tables.reading import Tables


def load(path: str | os.PathLike[str]) -> Tables:
    """Read an output folder, or a results file, into pandas tables.

    Args:
        path: an output folder (its ``results.h5`` is read) or an ``.h5`` file.

    Returns:
        ``Tables`` with the DataFrames ``runs``, ``epochs``, ``metrics``, ``steps``, ``updates``, ``staleness`` and
        ``tasks``; columns as in ``schema``.

    Raises:
        ResultsError: the file is missing, not a results file, damaged, or written by a newer stratbench.
    """
    # Workers import this package for the journal. They must not spend time on importing pandas and h5py.
    from .tables.reading import load as load_tables

    return load_tables(path)


def speedup(tables: Tables) -> pd.DataFrame:
    """How much faster than its base each row trains, as in the table of ``stratbench show``.

    >>> table = stratbench.results.speedup(tables)
    >>> table.set_index(["strategy", "replicas"])[["base", "speedup", "speedup_low", "speedup_high"]].shape[1]
    4

    Returns:
        A row for each spec that has a base: what it is, ``runs`` (ok ones that it rests on), ``base``, ``scaling``
        (strong or weak), ``speedup``, and the ends of its 95 % interval, NaN under three runs.
    """
    from .analysis import frames

    return frames.relative(tables, "speedup")


def efficiency(tables: Tables) -> pd.DataFrame:
    """Speed-up divided by how many more replicas there are; otherwise as `speedup`.

    >>> table = stratbench.results.efficiency(tables)
    >>> bool((table.pivot_table("efficiency", "strategy", "replicas").min() > 0).all())
    True
    """
    from .analysis import frames

    return frames.relative(tables, "efficiency")


def time_to_quality(tables: Tables, target: str) -> pd.DataFrame:
    """When each ok run first was as good as a target, on the validation examples, and whether it stayed so.

    >>> table = stratbench.results.time_to_quality(tables, "accuracy=0.2")
    >>> seconds = table[table.reached].groupby(["strategy", "replicas"]).seconds.median()
    >>> bool((seconds > 0).all())
    True

    Args:
        target: ``"accuracy=0.97"``, or ``"loss=0.1"`` for at most that.

    Returns:
        A row for each ok run: what it is, ``reached``, ``kept``, ``epochs``, ``seconds`` of training, ``examples`` and
        ``traffic_bytes`` until it was reached first, and ``kept_seconds`` until it was reached for good.

    Raises:
        UsageError: not such a text, or no run has the metric.
    """
    from .analysis import frames

    return frames.time_to_quality(tables, target)


def split(tables: Tables) -> pd.DataFrame:
    """Where the seconds of a step go, for each task that took steps.

    >>> table = stratbench.results.split(tables)
    >>> parts = ["computing", "communicating", "waiting", "input", "rest"]
    >>> sums = table[[f"{part}_seconds" for part in parts]].sum(axis=1)
    >>> bool((abs(sums / table.step_seconds - 1) < 0.05).all())
    True

    Returns:
        A row for each task: what its run is, ``role`` and ``task``, ``step_seconds`` (the mean of its measured steps),
        and as much of it as each part takes, NaN where that is not known.
    """
    from .analysis import frames

    return frames.split(tables)
