"""What the machine did beside a run: other programs, the hypervisor, the container's CPU limit.

Two readings by the run's parent, when all replicas are ready and when all have trained, cost the replicas nothing.
Their difference is over the cores that the run's tasks are bound to:

- A core is *busy* while it runs a program in user or kernel mode. Interrupts are left out: the kernel counts those of
  the run's own network traffic with them, and asks no process.
- The run's *own* CPU time is that of its parent and of every process that was started since, down to the last
  descendant, those that have ended included.
- What is busy beside that was used by other programs. Idle cores that the run isn't bound to don't count, so a program
  on another core does not disturb.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from .journal import TaskLog

SHORTEST_SECONDS = 0.5
"""Of a window that tells something: the kernel counts in ticks of 1/100 s."""

_SHARES = ("other_cpu_share", "steal_share", "throttled_share")

_STAT = Path("/proc/stat")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclasses.dataclass(frozen=True)
class Core:
    """Seconds since the machine's start in which a core was busy with programs, and in which the hypervisor had it."""

    busy: float
    stolen: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """The kernel's counters at one moment, all in seconds.

    ``at`` is a monotonic clock's time, ``own`` the run's CPU time so far, ``throttled`` how long the container's CPU
    limit has held processes back, over all cores; None where there is no such limit to read.
    """

    at: float
    cores: Mapping[int, Core]
    own: float
    throttled: float | None


@dataclasses.dataclass(frozen=True)
class Beside:
    """What was measured beside a run: the load average before it, and the readings that training lies between.

    None is what could not be read, or was not: a run that never trained, a system that doesn't tell.
    """

    load_before: float | None
    begin: Reading | None = None
    end: Reading | None = None


def children() -> frozenset[psutil.Process]:
    """The children that this process has: those of them that are there before a run are none of the run's."""
    return frozenset(psutil.Process().children())


def read(strangers: Collection[psutil.Process] = ()) -> Reading | None:
    """The counters now; None where the system has none.

    Args:
        strangers: children of this process that are none of the run's; neither are their descendants.
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
        # One that ends meanwhile is found in its parent's count of children.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid in left_out or process.ppid() in left_out:
                left_out.add(process.pid)
            else:
                total += _cpu_seconds(process)
    return total


def _cpu_seconds(process: psutil.Process) -> float:
    """Of a process and of its children that have ended."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def _throttled() -> float | None:
    """Of this process's cgroup and those above it, as far as they can be seen."""
    try:
        found = [parse_cpu_stat(path.read_text()) for path in _cpu_stats(_OWN_CGROUP.read_text()) if path.exists()]
    except OSError:
        return None
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if known else None


def _cpu_stats(cgroup: str) -> Iterable[Path]:
    """Where the ``cpu.stat`` files may be, by the text of /proc/self/cgroup: of version 2, or of 1."""
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        folder = root / path.lstrip("/")
        yield from (each / "cpu.stat" for each in (folder, *folder.parents) if each.is_relative_to(root))


def parse_cpu_stat(text: str) -> float | None:
    """Seconds of throttling in the text of a cgroup's ``cpu.stat``; None where it has no limit to tell of."""
    fields = dict(line.split() for line in text.splitlines())
    if "throttled_usec" in fields:
        return int(fields["throttled_usec"]) / 1e6
    return int(fields["throttled_time"]) / 1e9 if "throttled_time" in fields else None


def run(beside: Beside | None, logs: Sequence[TaskLog]) -> dict[str, Any]:
    """The columns of the runs table on what happened beside the run; units as in ``schema``."""
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
    # Ticks are samples: a quiet core may come out a little below 0.
    return min(max(part / whole, 0.0), 1.0)


_LEAST_SHARE, _MOST_SHARE, _MOST_OF_A_REPLICA = 0.03, 0.1, 0.3
_MOST_STOLEN = _MOST_THROTTLED = 0.05
"""Shares from which on a run counts as disturbed.

With cnn and mlp on one core, beside busy loops of 20% to 100% of that core, the rate fell by about the share that
others took: 5% to 81%. Beside nothing, the share was below 0.03. Rates of such runs differ by 10% on an idle machine as
well, and of half a second two ticks are 0.04: less than 0.1 can't be told from chance. In a synchronous run all wait
for the replica that was slowed, so of 8 replicas 0.3 of one's cores is enough, which is 0.04 of all; below 0.03 it
can't be told from the system's own work on every core. What is stolen or throttled is time that is simply lost, and an
idle machine has less than 0.01 of it.
"""


def disturbed(shares: Mapping[str, float], replicas: int) -> str:
    """What disturbed a run of so many replicas, in words; "" if nothing did, or nothing is known."""
    other, stolen, throttled = (shares[name] for name in _SHARES)
    words = []
    if other > max(_LEAST_SHARE, min(_MOST_SHARE, _MOST_OF_A_REPLICA / max(replicas, 1))):
        words.append(f"other programs used {other:.0%} of its cores")
    if stolen > _MOST_STOLEN:
        words.append(f"the hypervisor took {stolen:.0%} of a core")
    if throttled > _MOST_THROTTLED:
        words.append(f"its container's CPU limit held it back for {throttled:.0%} of the time")
    return "; ".join(words)
