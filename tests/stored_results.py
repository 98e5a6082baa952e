"""Runs in an output folder's tables, and what the files hold, for tests of both."""

import gzip
import io
from contextlib import contextmanager

import h5py
import numpy as np
import pandas as pd
import stratbench.results
from stratbench.results import schema
from stratbench.results.tables import csv_tables, opening
from test_results_record import make_record, make_spec

FILES = sorted(["results.h5", *map(csv_tables.name, schema.TABLES)])


def record_of(repeat, **arguments):
    return make_record(spec=make_spec(repeat=repeat), **arguments)


def save(folder, built):
    path = folder / "runs" / built.run_id / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    built.save(path)
    return path


@contextmanager
def edited(path):
    """The file to change, with a digest that fits again afterwards."""
    image = io.BytesIO(path.read_bytes())
    with h5py.File(image, "r+") as file:
        yield file
    opening.seal(image)
    path.write_bytes(image.getbuffer())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def csv_lines(folder):
    """Each CSV table's text, decompressed."""
    files = {name: (folder / csv_tables.name(name)) for name in schema.TABLES}
    return {
        name: (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        for name, path in files.items()
    }


def assert_csv_follows(folder):
    tables = stratbench.results.load(folder)
    for name in schema.TABLES:
        text = {column.name: str for column in schema.TABLES[name] if column.kind == "text"}
        frame = pd.read_csv(
            folder / csv_tables.name(name),
            keep_default_na=False,
            na_values=[""],
            dtype=text,
        )
        expected = getattr(tables, name)
        assert list(frame) == list(expected) and len(frame) == len(expected), name
        for column in schema.TABLES[name]:
            if column.kind == "text":
                assert frame[column.name].fillna("").tolist() == expected[column.name].tolist()
            else:
                # The file is exact, but pandas 2 by default reads floats only to the last digit but one.
                read, kept = (table[column.name].to_numpy(float) for table in (frame, expected))
                np.testing.assert_allclose(read, kept, rtol=1e-15)
    return tables
