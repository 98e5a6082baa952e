"""Which steps a restoration of the ps tasks undid, also of a worker that died before or meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from stratbench.strategies.parameter_server._ledger import Ledger


def ledger(folder: Path, *rows: tuple[int, int]) -> Ledger:
    """With updates, each (number, step)."""
    made = Ledger(folder, 1)
    for number, step in rows:
        made.note(number, step)
    return made


def restorations(*kept: int) -> np.ndarray:
    return np.array(kept, np.int64)


def test_updates_from_the_kept_number_on_are_undone_once(tmp_path: Path) -> None:
    made = ledger(tmp_path, (0, 0), (2, 1), (5, 2), (6, 3))
    assert made.undo(restorations()) == 0
    assert made.undo(restorations(5)) == 2
    # The counter goes on from 5: a new update has a number that an undone one had.
    made.note(5, 4)
    assert made.undo(restorations(5)) == 0
    assert made.undo(restorations(5, 0)) == 3


def test_several_restorations_at_once_undo_what_the_earliest_did_not_keep(tmp_path: Path) -> None:
    assert ledger(tmp_path, (0, 0), (1, 1), (2, 2), (3, 3)).undo(restorations(1, 3)) == 3


def test_the_next_process_of_a_worker_knows_the_updates_of_the_one_before(tmp_path: Path) -> None:
    ledger(tmp_path, (0, 0), (1, 1), (2, 2), (3, 3))
    again = Ledger(tmp_path, 1)
    assert again.seen() == 0
    # It repeats step 3, which its journal does not have: this one is not lost.
    assert again.undo(restorations(1), before=3) == 2
    assert Ledger(tmp_path, 1).seen() == 1
    assert Ledger(tmp_path, 1).undo(restorations(1)) == 0


def test_a_step_that_was_done_twice_is_lost_when_both_its_updates_are(tmp_path: Path) -> None:
    made = ledger(tmp_path, (0, 0), (1, 1), (4, 1), (5, 2), (7, 2))
    assert made.undo(restorations(4)) == 1


def test_a_row_that_a_kill_has_torn_is_left_out(tmp_path: Path) -> None:
    ledger(tmp_path, (0, 0), (3, 1))
    with (tmp_path / "updates-1").open("ab") as file:
        file.write(b"\x04\x00\x00")
    assert Ledger(tmp_path, 1).undo(restorations(1)) == 1
