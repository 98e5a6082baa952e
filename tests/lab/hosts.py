"""Hosts in network namespaces of this machine, joined by a switch: what a network costs, without a cluster.

Linux and root only, with iproute2 and util-linux. Each host has one address, and a link that carries a fixed bandwidth
each way (``tc tbf``). All share the machine's cores and files. The namespaces end with this process, however it ends,
and the machine's own network is left as it is.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from stratbench.harness.launch import launcher
from stratbench.harness.launch.starter import Starter
from stratbench.strategies.base import Task

BURST_SECONDS = 0.004
"""How long a link that was idle may carry more than its bandwidth."""


def unable() -> str | None:
    """Why there can't be namespaces here; None if there can."""
    missing = [name for name in ("ip", "tc", "unshare", "nsenter") if shutil.which(name) is None]
    if sys.platform != "linux" or missing:
        return f"network namespaces need Linux with {', '.join(missing) or 'iproute2 and util-linux'}"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"network namespaces need root: {done.stderr.strip()}" if done.returncode else None


def prepare() -> None:
    """Have tasks find what is in this folder, and be started by `Hosts`: the launcher is on none of the hosts."""
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    launcher.is_here = lambda host: True


class Hosts(Starter):
    """A `stratbench.strategies.base.Place` of several hosts that also starts tasks on them.

    Args:
        count: of hosts. Replica r is on host r modulo ``count``.
        mbit: bandwidth of each host's link, each way, in Mbit/s.
    """

    def __init__(self, count: int, mbit: float):
        super().__init__(forks=False)
        self._count, self._mbit = count, mbit
        self._namespaces: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = itertools.count(20000)

    def __enter__(self) -> Self:
        """Make the hosts and their network."""
        try:
            self._build()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them."""
        self._end()

    def host(self, replica: int) -> str:
        """The address of a replica's host."""
        return f"10.77.0.{replica % self._count + 1}"

    def address(self, host: str, port: int | None = None) -> str:
        """Nothing else runs on the hosts, so that each port is free."""
        return f"{host}:{port or next(self._ports)}"

    def _command(self, task: Task, program: Sequence[str]) -> list[str]:
        """On the task's host."""
        return self._on(task.host, *super()._command(task, program))

    def _build(self) -> None:
        self._add("switch")
        self._run("switch", "ip link add br0 type bridge")
        self._run("switch", "ip link set br0 up")
        for number in range(self._count):
            name, port = self.host(number), f"p{number}"
            holder = self._add(name)
            self._run("switch", f"ip link add {port} type veth peer name eth0 netns {holder}")
            self._run("switch", f"ip link set {port} master br0 up")
            self._run(name, "ip link set lo up")
            self._run(name, f"ip address add {name}/24 dev eth0")
            self._run(name, "ip link set eth0 up")
            burst = max(65536, int(self._mbit * 1e6 / 8 * BURST_SECONDS))
            limit = f"root tbf rate {self._mbit:g}mbit burst {burst} latency 50ms"
            self._run(name, f"tc qdisc add dev eth0 {limit}")
            self._run("switch", f"tc qdisc add dev {port} {limit}")

    def _add(self, name: str) -> int:
        """A namespace. Its process ends when this one is gone, as then its input does."""
        # A host is named by its address: Horovod's process sets listen where the host's name leads.
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name}; echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        self._namespaces[name] = holder
        return holder.pid

    def _on(self, name: str, *command: str) -> list[str]:
        spaces = f"/proc/{self._namespaces[name].pid}/ns"
        return ["nsenter", f"--net={spaces}/net", f"--uts={spaces}/uts", "--", *command]

    def _run(self, name: str, command: str) -> None:
        subprocess.run(self._on(name, *command.split()), check=True)

    def _end(self) -> None:
        for holder in self._namespaces.values():
            holder.kill()
            holder.communicate()
        self._namespaces.clear()
