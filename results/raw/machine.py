"""Other load on the machine during a run: other programs, the hypervisor, the container's CPU limit.

The run's parent reads the counters twice: when all replicas are ready and when all have trained. This costs the
replicas nothing. The difference is computed for the cores that the run's tasks are bound to:

- A core is *busy* while it runs a program in user or kernel mode. Interrupts are left out: they include those of the
  run's own network traffic, and the kernel doesn't say which process they belong to.
- The run's *own* CPU time is that of its parent and of all descendants that were started since, those that have ended
  included.
- The rest of the busy time was used by other programs. Cores that the run isn't bound to don't count, so a program on
  another core is no disturbance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from . import cgroups
from .journal import TaskLog

SHORTEST_SECONDS = 0.5
"""Shortest useful time between the readings: the kernel counts in ticks of 1/100 s."""

_SHARES = ("other_cpu_share", "steal_share", "throttled_share")

_STAT = Path("/proc/stat")


@dataclasses.dataclass(frozen=True)
class Core:
    """Seconds since the machine's start in which a core was busy with programs, or taken by the hypervisor."""

    busy: float
    stolen: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """The kernel's counters at one moment, all in seconds.

    ``at`` is the time of a monotonic clock. ``own`` is the run's CPU time so far. ``throttled`` is how long the
    container's CPU limit has stopped processes, summed over all cores; None if there is no such limit.
    """

    at: float
    cores: Mapping[int, Core]
    own: float
    throttled: float | None


@dataclasses.dataclass(frozen=True)
class Beside:
    """Other load during a run: the load average before it, and the readings before and after training.

    None if it was not read: the run never trained, or the system has no such counters.
    """

    load_before: float | None
    begin: Reading | None = None
    end: Reading | None = None


def children() -> frozenset[psutil.Process]:
    """The children of this process now. Those that exist before a run do not belong to the run."""
    return frozenset(psutil.Process().children())


def read(strangers: Collection[psutil.Process] = ()) -> Reading | None:
    """The counters now; None if the system has none.

    Args:
        strangers: children of this process that do not belong to the run, nor do their descendants.
    """
    try:
        text = _STAT.read_text()
        return Reading(time.monotonic(), parse_stat(text), _own(strangers), _throttled())
    except (OSError, psutil.Error):
        return None


def parse_stat(text: str, ticks_a_second: int | None = None) -> dict[int, Core]:
    """The cores in the text of /proc/stat, by number."""
    tick = 1 / (ticks_a_second or os.sysconf("SC_CLK_TCK"))
    cores = {}
    for line in text.splitlines():
        name, *fields = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdigit():
            user, nice, system, _, _, _, _, stolen, *_ = map(int, fields)
            cores[int(name[3:])] = Core((user + nice + system) * tick, stolen * tick)
    return cores


def _own(strangers: Collection[psutil.Process]) -> float:
    me = psutil.Process()
    left_out = {process.pid for process in strangers if process.is_running()}
    total = _cpu_seconds(me)
    # Parents come before their children in this list.
    for process in me.children(recursive=True):
        # The time of one that ends meanwhile is in its parent's count of children.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid in left_out or process.ppid() in left_out:
                left_out.add(process.pid)
            else:
                total += _cpu_seconds(process)
    return total


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of its children that have ended."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def _throttled() -> float | None:
    """Throttled seconds of this process's cgroup and those above it, as far as they can be read."""
    try:
        found = [parse_cpu_stat(path.read_text()) for path in cgroups.files("cpu", "cpu.stat")]
    except OSError:
        return None
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if known else None


def parse_cpu_stat(text: str) -> float | None:
    """Seconds of throttling in the text of a cgroup's ``cpu.stat``; None if the text has no such count."""
    fields = dict(line.split() for line in text.splitlines())
    if "throttled_usec" in fields:
        return int(fields["throttled_usec"]) / 1e6
    return int(fields["throttled_time"]) / 1e9 if "throttled_time" in fields else None


def run(beside: Beside | None, logs: Sequence[TaskLog]) -> dict[str, Any]:
    """The columns of the runs table about other load on the machine; units as in ``schema``."""
    load = beside.load_before if beside else None
    shares = _shares(beside, {core for log in logs if log.start for core in log.start["cores"]})
    replicas = sum(log.start["replicas"] for log in logs if log.start)
    return {"load_before": load, **shares, "disturbed": disturbed(shares, replicas)}


def _shares(beside: Beside | None, bound: Collection[int]) -> dict[str, float]:
    shares = dict.fromkeys(_SHARES, math.nan)
    if not beside or not beside.begin or not beside.end:
        return shares
    begin, end = beside.begin, beside.end
    seconds = end.at - begin.at
    cores = [core for core in bound if core in begin.cores and core in end.cores]
    if not cores or seconds < SHORTEST_SECONDS:
        return shares
    busy = sum(end.cores[core].busy - begin.cores[core].busy for core in cores)
    stolen = max(end.cores[core].stolen - begin.cores[core].stolen for core in cores)
    shares["other_cpu_share"] = _share(busy - (end.own - begin.own), seconds * len(cores))
    shares["steal_share"] = _share(stolen, seconds)
    if begin.throttled is not None and end.throttled is not None:
        shares["throttled_share"] = _share(end.throttled - begin.throttled, seconds * len(cores))
    return shares


def _share(part: float, whole: float) -> float:
    # Ticks are samples: the result for a quiet core may be slightly below 0.
    return min(max(part / whole, 0.0), 1.0)


_LEAST_SHARE, _MOST_SHARE, _MOST_OF_A_REPLICA = 0.03, 0.1, 0.3
_MOST_STOLEN = _MOST_THROTTLED = 0.05
"""A run with larger shares counts as disturbed.

Measured with cnn and mlp on one core, together with busy loops of 20% to 100% of that core: the rate fell by about the
share of the busy loops, 5% to 81%. Without busy loops, the share was below 0.03. Rates of such runs differ by 10% on
an idle machine too, and two ticks are 0.04 of half a second: less than 0.1 may be chance. In a synchronous run all
replicas wait for the slowest one. So with 8 replicas, 0.3 of one replica's cores is enough, which is 0.04 of all cores.
Below 0.03, it may be the system's own work on every core. Stolen or throttled time is simply lost; an idle machine has
less than 0.01 of it.
"""


def disturbed(shares: Mapping[str, float], replicas: int) -> str:
    """What disturbed a run with this number of replicas, in words; "" if nothing did, or if unknown."""
    other, stolen, throttled = (shares[name] for name in _SHARES)
    words = []
    if other > max(_LEAST_SHARE, min(_MOST_SHARE, _MOST_OF_A_REPLICA / max(replicas, 1))):
        words.append(f"other programs used {other:.0%} of its cores")
    if stolen > _MOST_STOLEN:
        words.append(f"the hypervisor took {stolen:.0%} of a core")
    if throttled > _MOST_THROTTLED:
        words.append(f"its container's CPU limit throttled it for {throttled:.0%} of the time")
    return "; ".join(words)
