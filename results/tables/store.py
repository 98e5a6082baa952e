"""An output folder: the tables of all its runs, kept in HDF5 and CSV."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import h5py

from ...errors import NewerResultsError, ResultsError
from ..column import Columns
from ..raw import run_folder
from ..raw.files import TEMPORARY, Staging, file_kind, shown, why
from ..raw.record import NAME as RECORD_NAME
from ..raw.record import Record
from ..schema import TABLES
from . import csv_tables, hdf5
from .lock import FolderLock

HDF5_NAME = "results.h5"

State = tuple[str, str]
"""Of a run: its status, and when it was started."""


class Store:
    """Writes the tables of one output folder, which it locks until ``close`` or the end of ``with``.

    Each run's ``record.json`` is the source. The caller saves it before ``add``. ``results.h5`` is built from the
    records, and the CSV tables are copies of its tables. All files are replaced together, after all are on disk: after
    a kill or on a full disk, the old files are still there.

    Args:
        folder: the output folder; created if it doesn't exist.

    Raises:
        ResultsError: the folder isn't writable or another process uses it; or something with the name of a table is
            damaged, not stratbench's, or not a file.
        NewerResultsError: ``results.h5`` is newer than this program.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = why(error) if isinstance(error, OSError) else "no folder can have this name"
            raise ResultsError(
                f"The output folder must be writable. Received: {shown(folder)}: {reason}. Choose another --output."
            ) from error
        self._lock = FolderLock(self.folder)
        try:
            self._check_names()
            self._runs, self._digests = self._read_old()
            self._remove_leftovers()
        except BaseException:
            self.close()
            raise

    def _check_names(self) -> None:
        """Check before hours of training that nothing else has the names of the tables."""
        for name in (HDF5_NAME, *map(csv_tables.name, TABLES)):
            for path in (self.folder / name, self.folder / (name + TEMPORARY)):
                if os.path.lexists(path) and not path.is_file():
                    raise ResultsError(
                        f"The tables' names must be free or files. Received: {shown(path)}, which is something else. "
                        "Move it away or choose another --output."
                    )

    def _remove_leftovers(self) -> None:
        for name in (HDF5_NAME, *map(csv_tables.name, TABLES)):
            (self.folder / (name + TEMPORARY)).unlink(missing_ok=True)

    def _read_old(self) -> tuple[dict[str, State], dict[str, str]]:
        """The runs in the tables, and the digest that each CSV table should have."""
        if not self._hdf5.exists():
            self._check_csv_is_ours(TABLES)
            return {}, {}
        with hdf5.reading(self._hdf5) as file, hdf5.guard(self._hdf5):
            if names := hdf5.unknown(file):
                raise NewerResultsError(
                    f"{shown(self._hdf5)} holds {', '.join(map(shown, names[:3]))}, which this stratbench does not "
                    "know and would lose. Upgrade stratbench or choose another --output."
                )
            digests = hdf5.csv_digests(file)
            # Those of a file from before a table was added.
            self._check_csv_is_ours(TABLES.keys() - digests.keys())
            return _states(file), digests

    def _check_csv_is_ours(self, tables: Collection[str]) -> None:
        for path in (self.folder / csv_tables.name(table) for table in sorted(tables)):
            try:
                foreign = csv_tables.is_foreign(path)
            except OSError as error:
                raise ResultsError(f"The tables must be readable. Received: {shown(path)}: {why(error)}") from error
            if foreign:
                raise ResultsError(
                    f"{shown(path)} is not stratbench's and would be replaced. Move it away or choose another --output."
                )

    @property
    def _hdf5(self) -> Path:
        return self.folder / HDF5_NAME

    def runs(self) -> dict[str, str]:
        """Run id → status of every run in the tables, in the order of the tables."""
        return {run_id: status for run_id, (status, _) in self._runs.items()}

    def add(self, record: Record) -> None:
        """Put a run's rows into all tables. They replace older rows of the run.

        The cost is that of copying the files, or of writing them again if rows are replaced.

        Raises:
            ResultsError: the tables can't be written, as when the disk is full; the old ones stay as they were.
        """
        self._write([record])

    def recover(self, warn: Callable[[str], None]) -> list[str]:
        """Add every record that an earlier command saved, but that is not in the tables.

        CSV tables that differ from ``results.h5``, as after an edit, are written again.

        Args:
            warn: called with one line for each record that can't be read; these records are not changed.

        Returns:
            The ids of the runs added.

        Raises:
            NewerResultsError: a record is from a newer stratbench.
            ResultsError: as in ``add``; or the runs' folders can't be listed.
        """
        records = []
        for folder in run_folder.recorded(self.folder):
            if not self._is_candidate(folder):
                continue
            try:
                record = run_folder.load(folder)
            except NewerResultsError:
                raise
            except ResultsError as error:
                known = folder.name in self._runs
                warn(f"{error}; {'its old rows stay' if known else 'its run is not'} in the tables")
                continue
            if self._runs.get(record.run_id) != _state(record):
                records.append(record)
        if records or not self._csv_follows():
            self._write(records)
        return [record.run_id for record in records]

    def _is_candidate(self, folder: Path) -> bool:
        """Whether the tables may not have this record: records are saved first, so those in the tables are older."""
        if folder.name not in self._runs:
            return True
        return (folder / RECORD_NAME).lstat().st_mtime_ns >= self._hdf5.stat().st_mtime_ns

    def _csv_follows(self) -> bool:
        try:
            return not self._runs or all(
                csv_tables.has_digest(self.folder / csv_tables.name(table), self._digests.get(table, ""))
                for table in TABLES
            )
        except OSError:
            return False

    def _write(self, records: Sequence[Record]) -> None:
        added = {table: [record.columns(table) for record in records] for table in TABLES}
        drop = {record.run_id for record in records} & self._runs.keys()
        image = self._merge(drop, added)
        try:
            with Staging() as staging:
                # HDF5 is replaced last. After a kill in between, the run is not in it, so recover() adds the run.
                digests = self._stage_csv(staging, image, drop, added)
                hdf5.finish(image, digests)
                with staging.file(self._hdf5) as target:
                    target.write(image.getbuffer())
        except OSError as error:
            raise ResultsError(
                f"{HDF5_NAME} and the CSV tables must be writable. Received: {shown(self.folder)}: "
                f"{why(error)}. Nothing is lost: the run's record.json stays; free the space and "
                "repeat the command."
            ) from error
        self._remove_former_csv()
        self._digests = digests
        self._runs = {run_id: state for run_id, state in self._runs.items() if run_id not in drop}
        self._runs |= {record.run_id: _state(record) for record in records}

    def _remove_former_csv(self) -> None:
        """Remove what an earlier version wrote as text and is compressed now; what was edited stays."""
        for table in csv_tables.COMPRESSED:
            former = self.folder / f"{table}.csv"
            # The tables are complete: what can't be read or removed here is no reason to fail.
            with contextlib.suppress(OSError):
                if csv_tables.has_digest(former, self._digests.get(table, "")):
                    former.unlink()

    def _merge(self, drop: Collection[str], added: Mapping[str, Sequence[Columns]]) -> io.BytesIO:
        if not self._hdf5.exists():
            return hdf5.merge(None, drop, added)
        with hdf5.reading(self._hdf5) as old, hdf5.guard(self._hdf5):
            return hdf5.merge(old, drop, added)

    def _stage_csv(
        self,
        staging: Staging,
        image: io.BytesIO,
        drop: Collection[str],
        added: Mapping[str, Sequence[Columns]],
    ) -> dict[str, str]:
        """Write the CSV tables. Returns their digests."""
        digests = {}
        with h5py.File(image, "r") as new:
            for table, blocks in added.items():
                path = self.folder / csv_tables.name(table)
                with staging.file(path) as file:
                    target = csv_tables.Hashed(file)
                    if csv_tables.copy(path, target, table, drop, self._digests.get(table, "")):
                        csv_tables.write(target, table, blocks)
                    else:
                        # The file was lost, edited, or written by a version with other columns.
                        target.restart()
                        csv_tables.write_header(target, table)
                        csv_tables.write(target, table, hdf5.blocks(new, table))
                    digests[table] = target.digest()
        return digests

    def close(self) -> None:
        """Release the lock, so that other processes can write to the folder."""
        self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_statuses(folder: Path) -> dict[str, str]:
    """Run id → status of every run in the tables of an output folder; none without ``results.h5``.

    Raises:
        ResultsError: the tables can't be read.
    """
    path = folder / HDF5_NAME
    try:
        if file_kind(path) is None:
            return {}
    except OSError as error:
        raise ResultsError(f"An output folder must be readable. Received: {shown(folder)}: {why(error)}") from error
    with hdf5.reading(path) as file, hdf5.guard(path):
        return {run_id: status for run_id, (status, _) in _states(file).items()}


def _states(file: h5py.File) -> dict[str, State]:
    runs = hdf5.read(file, "runs")
    states = zip(runs["status"].tolist(), runs["started_at"].tolist(), strict=True)
    return dict(zip(runs["run_id"].tolist(), states, strict=True))


def _state(record: Record) -> State:
    """What distinguishes two attempts at the same run."""
    return record.run["status"], record.run["started_at"]
