"""Starts the tasks of a run, watches them, ends them, and records the result."""
