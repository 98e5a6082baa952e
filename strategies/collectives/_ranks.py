"""Horovod's processes when stratbench starts them: their ranks, and where they meet.

``horovodrun`` gives each process its rank in environment variables, and runs a small HTTP server in which the processes
find one another. Here the launcher gives them the same variables, and rank 0 runs that server, on its own address only.
Source: ``horovod/runner/gloo_run.py`` and ``horovod/runner/http/http_server.py`` of Horovod 0.28.1.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager

import psutil

from ...errors import RunError
from ..base import THIS_HOST

MINE = "STRATBENCH_RENDEZVOUS"
"""``host:port`` of the server that rank 0 runs: that of Horovod's own variables, but in another program's job."""

_POLL_SECONDS = 0.01


def variables(hosts: Sequence[str], rendezvous: str) -> list[dict[str, str]]:
    """The environment of each rank.

    Args:
        hosts: of the ranks, those of one host side by side.
        rendezvous: ``host:port`` that rank 0 can listen on.
    """
    local = [hosts[:rank].count(host) for rank, host in enumerate(hosts)]
    name, port = rendezvous.rsplit(":", 1)
    return [
        {
            MINE: rendezvous,
            "HOROVOD_HOSTNAME": host,
            "HOROVOD_RANK": str(rank),
            "HOROVOD_SIZE": str(len(hosts)),
            "HOROVOD_LOCAL_RANK": str(local[rank]),
            "HOROVOD_LOCAL_SIZE": str(hosts.count(host)),
            "HOROVOD_CROSS_RANK": str(local[:rank].count(local[rank])),
            "HOROVOD_CROSS_SIZE": str(local.count(local[rank])),
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": name,
            "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
        }
        for rank, host in enumerate(hosts)
    ]


@contextmanager
def meeting(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Where `variables` has set this process's rank: the server runs, here in rank 0, while the block does.

    Horovod then uses the interface that has the host's address.
    """
    name, port = (environ.get(f"HOROVOD_GLOO_RENDEZVOUS_{part}", "") for part in ("ADDR", "PORT"))
    if environ.get(MINE) != f"{name}:{port}":
        yield
        return
    own = environ["HOROVOD_HOSTNAME"]
    environ["HOROVOD_GLOO_IFACE"] = interface(own)
    if own == THIS_HOST:
        environ["NCCL_SOCKET_IFNAME"] = interface(own)
    address = name, int(port)
    if environ["HOROVOD_RANK"] != "0":
        _wait_for(address)
        yield
        return
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    with RendezvousHTTPServer(address, RendezvousHandler, verbose=0) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True, name="rendezvous")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


def interface(host: str) -> str:
    """Name of the network interface that has an address of this machine. Raises RunError if none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.family == socket.AF_INET and each.address == host for each in addresses):
            return name
    raise RunError(f"no network interface of this machine has the address {host}, at which Horovod was to listen.")


def _wait_for(address: tuple[str, int]) -> None:
    """Wait until rank 0 listens. If it never does, its death or the launcher's time-out ends this process."""
    while True:
        try:
            socket.create_connection(address).close()
            return
        except OSError:
            time.sleep(_POLL_SECONDS)
