"""stratbench: the same Keras model under every way of distributing it, measured and explained."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results.tables.reading import Tables

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``stratbench.results`` and ``stratbench.errors``, imported when they are used."""
    if name in ("errors", "results"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__} has no attribute {name}")


def compare(
    model: str | Callable[..., Any],
    dataset: str | Callable[..., Any],
    *,
    strategies: str | Sequence[str],
    replicas: int | Sequence[int] = 1,
    **flags: Any,
) -> Tables:
    """Train the same Keras model by several strategies at several sizes, as ``stratbench compare`` does.

    Progress is shown on standard error. Runs that are ``ok`` already in the output folder are not run again. A strategy
    that can't run here, and a run that fails, has a row that says why. An interrupt ends the run, and keeps its row.

    >>> tables = stratbench.compare("train:model", "train:data", strategies=["single", "mirrored"], replicas=[1, 2],
    ...                             global_batch=128, epochs=3, output="results")  # doctest: +SKIP
    >>> tables.runs[["strategy", "replicas", "examples_per_second", "test_metric"]]  # doctest: +SKIP

    Args:
        model: ``"module:function"``, a function of a module, or the name of a model that comes along.
        dataset: the same, or another data set: ``stratbench list datasets``.
        strategies: names with options, as in ``"ps:sync=true"``; ``stratbench list strategies``.
        replicas: numbers of replicas for each strategy.
        **flags: all others of ``stratbench compare --help``, with ``_`` for ``-``; a list repeats one. ``output`` is
            the folder of the tables, by default ``stratbench-results``.

    Returns:
        The tables of `stratbench.results.load`, with the runs of this call.

    Raises:
        UsageError: an argument, the model or the data can't be used, in one line; nothing was run.
        RunError: results can't be written.
        KeyboardInterrupt: after an interrupt; what was measured is in the output folder.
    """
    from .harness import api

    return api.compare(model, dataset, strategies, replicas, flags)
