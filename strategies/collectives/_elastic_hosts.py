"""The hosts for Horovod's elastic launcher to start N processes of this machine on: one "host" for each process.

Horovod does not use a host again after one of its processes died, and all of these would be on one host.
"""

from __future__ import annotations

from ..base import THIS_HOST
from ._ranks import interface

_NAME = "localhost"
MOST = 2 ** len(_NAME)


def elastic_hosts(least: int, most: int) -> tuple[str, ...]:
    """Flags of ``horovodrun`` for ``most`` processes here, of which ``least`` must stay."""
    discover = "printf '%s:1\\n' " + " ".join(map(_spelling, range(most)))
    size = ("--min-np", str(least), "--max-np", str(most))
    return (*size, "--network-interface", interface(THIS_HOST), "--host-discovery-script", discover)


def _spelling(number: int) -> str:
    """``localhost``, ``localhosT``, …: they resolve alike, and are different hosts to Horovod."""
    capitals = f"{number:0{len(_NAME)}b}"
    return "".join(letter.upper() if bit == "1" else letter for letter, bit in zip(_NAME, capitals, strict=True))
