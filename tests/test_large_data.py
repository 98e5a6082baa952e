"""Data that is too large to be kept in memory: the same work for every process, and for Keras's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import any_models
import numpy as np
import pytest
from conformance import RATE, TOLERANCE, assert_same, keep_weights, weights  # noqa: F401
from stratbench.datasets import batches
from stratbench.results.raw import journal

WINDOW_BYTES = 4096
"""That of `small_windows`, which can't be imported here: it changes the module."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("beside_the_models")]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in ("weighted", "untargeted") else [pytest.mark.exhaustive])
        for case in ("two_by_two", "weighted", "untargeted", "rare", "masked")
    ],
)
def test_every_loop_takes_the_same_batches(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_strays: None
) -> None:
    work: dict[str, Any] = {
        "model": f"small_windows:{case}",
        "dataset": any_models.dataset(data, case),
        "optimizer": "momentum",
        "learning_rate": RATE["momentum"],
    } | any_models.OWN.get(case, {})
    kept = weights("single", 1, folder=tmp_path / "kept", **work | {"model": f"any_models:{case}"})
    # As `small_windows` does there: what the processes read is compared with what is read here.
    for name in ("KEPT_BYTES", "WINDOW_BYTES"):
        monkeypatch.setattr(batches, name, WINDOW_BYTES)
    expected = weights("single", 1, folder=tmp_path / "single", **work)
    with pytest.raises(AssertionError, match="differs by"):
        # Otherwise the windows would not show in the order of examples.
        assert_same(kept, expected, TOLERANCE["momentum"])
    for name, replicas in (("fit", 1), ("fit:distribute=mirrored", 2), ("multiworker", 2)):
        if case == "masked" and name.startswith("fit:"):
            continue
        folder = tmp_path / f"{name.partition(':')[0]}-{replicas}"
        assert_same(weights(name, replicas, folder=folder, **work), expected, TOLERANCE["momentum"])
        if name.startswith("fit"):
            ours, theirs = (journal.read(each / "worker-0.jsonl").steps for each in (folder, tmp_path / "single"))
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert np.array_equal(ours["examples"], theirs["examples"])
