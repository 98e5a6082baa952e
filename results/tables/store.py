"""An output folder: the tables of all its runs, kept in HDF5 and CSV."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import h5py

from ...errors import ResultsError
from ..raw.files import TEMPORARY, Staging
from ..raw.record import Record
from ..schema import TABLES, Columns
from . import csv_tables, hdf5
from .lock import FolderLock

HDF5_NAME = "results.h5"
RECORD_NAME = "record.json"


class Store:
    """Writes the tables of one output folder, which it locks until ``close`` or the end of ``with``.

    The truth is each run's ``record.json``, which the caller saves before ``add``; ``results.h5`` is built
    from these, and the CSV tables follow it. All files are replaced together, after all are on disk,
    so that a kill or a full disk leaves the former ones.

    Args:
        folder: the output folder; made if it isn't there.

    Raises:
        ResultsError: the folder isn't writable or another process uses it; ``results.h5`` is damaged, not
            ours, or newer than this program.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(
                f"The output folder must be writable. Received: {folder}: {error.strerror}. Choose another --output."
            ) from error
        self._lock = FolderLock(self.folder)
        try:
            self._remove_leftovers()
            self._runs = self._read_runs()
        except BaseException:
            self.close()
            raise

    def _remove_leftovers(self) -> None:
        for name in (HDF5_NAME, *map(_csv_name, TABLES)):
            (self.folder / (name + TEMPORARY)).unlink(missing_ok=True)

    def _read_runs(self) -> dict[str, tuple[str, str]]:
        if not self._hdf5.exists():
            return {}
        with hdf5.reading(self._hdf5) as file:
            runs = hdf5.read(file, "runs")
        states = zip(runs["status"].tolist(), runs["started_at"].tolist(), strict=True)
        return dict(zip(runs["run_id"].tolist(), states, strict=True))

    @property
    def _hdf5(self) -> Path:
        return self.folder / HDF5_NAME

    def runs(self) -> dict[str, str]:
        """The status of every run in the tables, by run id, in the tables' order."""
        return {run_id: status for run_id, (status, _) in self._runs.items()}

    def add(self, record: Record) -> None:
        """Put a run's rows into all tables, in place of any that the run had.

        The cost is that of copying the files, and of rewriting them where rows were replaced.

        Raises:
            ResultsError: the tables can't be written, as when the disk is full; the former ones are
                untouched.
        """
        self._write([record])

    def recover(self) -> list[str]:
        """Take in every record that a former command saved but didn't get into the tables.

        Returns:
            The ids of the runs taken in. A ``record.json`` that can't be read counts as absent: its run
            isn't in the tables, so that it will be run again.

        Raises:
            ResultsError: as in ``add``.
        """
        records = []
        for path in sorted(self.folder.glob(f"runs/*/{RECORD_NAME}")):
            if not self._is_candidate(path):
                continue
            try:
                record = Record.load(path)
            except ResultsError:
                continue
            if self._runs.get(record.run_id) != _state(record):
                records.append(record)
        if records:
            self._write(records)
        return [record.run_id for record in records]

    def _is_candidate(self, path: Path) -> bool:
        """Whether the tables may lack this record: records are saved first, so those taken in are older."""
        if path.parent.name not in self._runs:
            return True
        return path.stat().st_mtime_ns >= self._hdf5.stat().st_mtime_ns

    def _write(self, records: Sequence[Record]) -> None:
        added = {table: [record.columns(table) for record in records] for table in TABLES}
        drop = {record.run_id for record in records} & self._runs.keys()
        image = self._merge(drop, added)
        try:
            with Staging() as staging:
                # HDF5 is replaced last: a kill in between leaves it without the run, so that recover()
                # finds it.
                self._stage_csv(staging, image, drop, added)
                with staging.file(self._hdf5) as target:
                    target.write(image.getbuffer())
        except OSError as error:
            raise ResultsError(
                f"{HDF5_NAME} and the CSV tables must be writable. Received: {self.folder}: "
                f"{error.strerror}. Nothing is lost: the run's record.json stays; free the space and "
                "repeat the command."
            ) from error
        self._runs = {run_id: state for run_id, state in self._runs.items() if run_id not in drop}
        self._runs |= {record.run_id: _state(record) for record in records}

    def _merge(self, drop: Collection[str], added: Mapping[str, Sequence[Columns]]) -> io.BytesIO:
        if not self._hdf5.exists():
            return hdf5.merge(None, drop, added)
        with hdf5.reading(self._hdf5) as old:
            return hdf5.merge(old, drop, added)

    def _stage_csv(
        self,
        staging: Staging,
        image: io.BytesIO,
        drop: Collection[str],
        added: Mapping[str, Sequence[Columns]],
    ) -> None:
        with h5py.File(image, "r") as new:
            for table, blocks in added.items():
                path = self.folder / _csv_name(table)
                before = hdf5.rows(new, table) - sum(len(block["run_id"]) for block in blocks)
                with staging.file(path) as target:
                    if csv_tables.copy(path, target, table, drop) == before:
                        csv_tables.write(target, table, blocks)
                        continue
                    # The file was lost, edited, or written by a version with other columns.
                    target.truncate(target.seek(0))
                    csv_tables.write_header(target, table)
                    csv_tables.write(target, table, hdf5.blocks(new, table))

    def close(self) -> None:
        """Let others write to the folder."""
        self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _csv_name(table: str) -> str:
    return f"{table}.csv"


def _state(record: Record) -> tuple[str, str]:
    """What tells two attempts at the same run apart."""
    return record.run["status"], record.run["started_at"]
