"""What ``mpirun`` starts for each rank: see `stratbench.strategies.collectives._mpi`. It needs only Python itself."""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path

_PREFIXES = ("OMPI_", "OPAL_", "PMIX_", "PRTE_")


def hold(folder: Path) -> int:
    """Rank 0's end of a pipe: while it is open, the programs of all ranks live. Returns its descriptor."""
    os.mkfifo(folder / "held", 0o600)
    return os.open(folder / "held", os.O_RDWR)


def path(folder: Path, rank: int) -> Path:
    """Where a rank's variables are."""
    return folder / f"rank-{rank}.json"


def main(folder: Path) -> None:
    """Hand over the variables, and wait until nobody holds the pipe."""
    # Opened without waiting: rank 0 may be gone already.
    held = os.open(folder / "held", os.O_RDONLY | os.O_NONBLOCK)
    own = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
    place = path(folder, int(own["OMPI_COMM_WORLD_RANK"]))
    part = place.with_suffix(".part")
    part.write_text(json.dumps(own))
    part.rename(place)
    try:
        os.read(held, 1)
    except BlockingIOError:
        select.select([held], [], [])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
