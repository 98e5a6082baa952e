"""Runs first in every Python process that has this folder in PYTHONPATH: adds the strategy `probe`."""

from __future__ import annotations

from probe import Probe
from stratbench.strategies import registry

registry.available()[Probe.name] = Probe
