"""Runs first in every Python process that has this folder in PYTHONPATH: adds strategies that only tests need."""

from __future__ import annotations

import os

from driven import Driven
from repeats import Repeats
from stratbench.strategies import registry
from two_part import TwoPart

NAMED = "TEST_NAMED_BATCHES"
"""Set, it makes the batches of a run dictionaries: see `named`."""

registry.available().update({cls.name: cls for cls in (TwoPart, Driven, Repeats)})
if os.environ.get(NAMED):
    import named
    from stratbench.harness.worker import workload

    workload.SpecWorkload = named.NamedWorkload
