"""What Horovod would refuse halfway, crash by, or ignore without a word, told before anything runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._elastic_hosts import MOST
from ._horovod_build import HorovodStatus
from .base import gpus

if TYPE_CHECKING:
    from .horovod import Horovod


def unable(options: Horovod, build: HorovodStatus, replicas: int) -> str | None:
    """The first reason that these options can't run so here, in one sentence that names the fix."""
    return (
        (_not_elastic(options, build, replicas) if options.elastic else None)
        or (_no_adasum(options, build, replicas) if options.op == "adasum" else None)
        or (_no_hierarchy(build) if options.hierarchical else None)
    )


def _not_elastic(options: Horovod, build: HorovodStatus, replicas: int) -> str | None:
    if "gloo" not in build.controllers or options.controller == "mpi" or options.op == "adasum":
        return "elastic=true needs Horovod built with Gloo, controller=gloo or auto, and op=average"
    if (options.fusion_mib, options.cycle_ms) != (128.0, 1.0):
        return "elastic=true crashes in Horovod with another fusion_mib or cycle_ms than the defaults; leave them out"
    if options.backward_passes_per_step > 1:
        return "elastic=true can't give back half-summed gradients; leave backward_passes_per_step out"
    if not options.min_replicas <= replicas <= MOST:
        return f"elastic=true needs from min_replicas={options.min_replicas} to {MOST} replicas, not {replicas}"
    return None


def _no_adasum(options: Horovod, build: HorovodStatus, replicas: int) -> str | None:
    if "mpi" not in build.controllers or options.controller == "gloo":
        return "op=adasum needs Horovod built with MPI, and controller=mpi or auto; use op=average"
    if options.grouped:
        return "op=adasum combines each gradient by itself; add grouped=false"
    if replicas & (replicas - 1):
        return f"op=adasum needs a power of two of replicas, not {replicas}"
    return None


def _no_hierarchy(build: HorovodStatus) -> str | None:
    if not build.nccl or "mpi" not in build.controllers or not gpus():
        return "hierarchical=true has an effect only on GPUs with Horovod built for NCCL and MPI; leave it out"
    if not os.environ.keys() & {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}:
        return "hierarchical=true has an effect only in a job that mpirun started on several hosts; leave it out"
    return None
