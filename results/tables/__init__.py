"""The tables of an output folder, in HDF5 and CSV: writing, locking, reading."""
