"""Horovod: N processes, gradients averaged by all-reduce.

g = (1/N) Σ g_i over Gloo, MPI or NCCL, as Horovod was built; rank 0's initial weights are broadcast.
Gradients are reduced in buckets, while the backward pass goes on; with ``bucket_mib=all`` all together after it.
Of large embedding tables, the rows that each process has looked up are gathered instead.
``op=adasum``: (1 − g₁·g₂/2‖g₁‖²) g₁ + (1 − g₁·g₂/2‖g₂‖²) g₂ up a tree of pairs, each weight's gradient by itself.
``elastic=true``: when a process dies, the others form a new job, take the weights of the process with the most updates,
repeat the step and continue as N − 1. Each keeps its share of the global batch; the mean leaves out the share of the
dead process.
Source: Sergeev & Del Balso, *Horovod: fast and easy distributed deep learning in TensorFlow*, arXiv 1802.05799;
Maleki et al., *Scaling Distributed Training with Adaptive Summation*, arXiv 2006.02924;
https://horovod.readthedocs.io/en/stable/tensorflow.html

Limits: upstream has no release for TensorFlow ≥ 2.16, so Horovod comes by ``stratbench install-horovod``. From three
replicas on, two runs of several buckets differ by rounding, as what Horovod fuses follows the timing. Adasum
combines gradients, as its authors do for plain SGD; for other optimizers they combine updates. An elastic job may need
Gloo's time-out of 30 s to see a death.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from ...errors import RunError
from .._shared.devices import gpus
from ..base import Reaction, Task, Traits, option, ring_bytes
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange, Group, Transport, ring_exchange
from ._build import HorovodStatus, status
from ._collective import Collective, bucket_option, by_gloo, mean_over_ranks, replicate
from ._elastic_hosts import MOST, elastic_hosts

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Horovod(Collective):
    """One process a replica, all-reduce by Horovod's background thread."""

    name = "horovod"
    summary = "Horovod: N processes, ring all-reduce of fused gradients"
    family = "data parallel"
    good_for = "many GPUs or machines: it overlaps its exchange with the backward pass"
    traits = Traits("yes", "yes", "2(N−1)/N·W each way", "W + S", "ends; elastic: others go on")
    compiles = True
    runs_own_steps = True
    transports = ("horovod",)

    compression: Literal["none", "fp16"] = option("none", "fp16 sends gradients as half floats")
    fusion_mib: Annotated[float, Ge(0)] | Literal["auto"] = option(
        "auto", "tensor fusion buffer in MiB; 0: no fusion; auto is 1 for Gloo on CPUs, else Horovod's own 128"
    )
    bucket_mib: Annotated[float, Ge(0)] | Literal["all"] = bucket_option("reduced")
    op: Literal["average", "adasum"] = option(
        "average", "how gradients are combined; adasum needs MPI and bucket_mib=0"
    )
    hierarchical: bool = option(False, "all-reduce within hosts, then between: NCCL and MPI on several hosts")
    elastic: bool = option(False, "go on without processes that die (Gloo); cycles of 1 ms, fusion of 128 MiB")
    min_replicas: Annotated[int, Ge(1)] = option(1, "elastic: end when fewer are left")

    def skip(self, replicas: int) -> str | None:
        """Also options that Horovod would refuse during the run, or ignore silently."""
        return super().skip(replicas) or _unable(self, status(), replicas)

    def after_death(self, task: Task, left: Sequence[Task], everyone: Sequence[Task]) -> Reaction:
        """Elastic jobs shrink, but not below their minimum."""
        return Reaction.GO_ON if self.elastic and len(left) >= self.min_replicas else Reaction.END

    def _starts_ranks(self) -> bool:
        """Elastic jobs need ``horovodrun``, which gives those that are left their new ranks."""
        return super()._starts_ranks() and not self.elastic

    def _hosts(self, replicas: int) -> tuple[str, ...]:
        if not self.elastic:
            return super()._hosts(replicas)
        return elastic_hosts(self.min_replicas, replicas)

    def _controller(self) -> str:
        """Adasum is MPI's alone."""
        return "mpi" if self.op == "adasum" else super()._controller()

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """An elastic job repeats a step that failed, and so would add its gradients twice."""
        if self.elastic and accumulate > 1:
            return "elastic=true can't give back half-summed gradients; leave --accumulate out"
        return None

    def skip_loss_scaling(self) -> str | None:
        """An elastic job does not count which updates its steps have had."""
        return "elastic=true has no loss scaling; use --precision mixed_bfloat16 or float32" if self.elastic else None

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """One ring all-reduce an update, of half as many bytes with fp16. Adasum's tree moves as many."""
        size = 0.5 if self.compression == "fp16" else 1.0
        return ring_bytes(weights_bytes, replicas) * size / accumulate

    def reduced(self, accumulate: int = 1) -> float:
        """Half as much with fp16. Adasum is no sum."""
        return (0.5 if self.compression == "fp16" else 1.0) / accumulate if self.op == "average" else 0.0

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """As many messages as one ring has. Adasum has other ones."""
        size = 0.5 if self.compression == "fp16" else 1.0
        whole = ring_exchange(replicas, hides=self.bucket_mib != "all")
        exchange = dataclasses.replace(whole, weights=whole.weights * size).scaled(1 / accumulate)
        return exchange if self.op == "average" else None

    def skip_transport(self) -> str | None:
        """What is no sum of all."""
        if self.elastic or self.op != "average":
            return "stratbench allreduce measures sums over all processes; leave elastic and op out"
        return None

    @contextmanager
    def transport(self, task: Task, group: Group) -> Iterator[Transport]:
        """Horovod's all-reduce by itself, with the options on compression, fusion and hierarchy."""
        with self.joined(group, exchanges=True) as hvd:
            from ._transport import HorovodTransport

            yield HorovodTransport(hvd, getattr(hvd.Compression, self.compression))

    def environment(self) -> dict[str, str]:
        """The size of the fusion buffer and the hierarchy too."""
        if self.elastic:
            # Horovod 0.28.1 crashes when it starts for the second time in a process and these are set.
            return {}
        on_cpus = by_gloo() and not gpus()
        fusion_mib = (1 if on_cpus else 128) if self.fusion_mib == "auto" else self.fusion_mib
        return super().environment() | {
            "HOROVOD_FUSION_THRESHOLD": str(int(fusion_mib * 2**20)),
            "HOROVOD_HIERARCHICAL_ALLREDUCE": str(int(self.hierarchical)),
        }

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Combines gradients by all-reduce, inside the ``tf.function``."""
        with self.joined(workload, exchanges=True) as hvd:
            import tensorflow as tf

            from .._shared.buckets import buckets, compute_in_order, exchange
            from .._shared.own_step import steps_of
            from .._shared.replica import KerasTrainer, loss_and_gradients
            from .._shared.rows import embeddings
            from ._rows import RowExchange

            if self.hierarchical and hvd.size() == hvd.local_size():
                raise RunError(f"hierarchical=true needs several hosts. Received: {hvd.size()} processes on this one.")
            model, optimizer = replicate(hvd, workload)
            trained = model.trainable_variables
            positions = buckets(trained, self.bucket_mib)
            rows = RowExchange(hvd, trained, workload.optimizer_settings)
            # Sums over steps and the other exchanges need whole gradients.
            whole = workload.accumulate > 1 or workload.scales_loss or workload.jit or workload.own_step
            plain = not whole and self.op == "average" and self.compression == "none"
            by_rows = plain and not self.elastic and hvd.size() > 1 and bool(embeddings(model))

            def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
                chooses, mean = rows.chooses if by_rows else None, mean_over_ranks(hvd)
                loss, gradients = loss_and_gradients(workload, model, batch, optimizer, mean=mean, rows=chooses)
                compute_in_order(loss, gradients, positions)
                return loss, gradients

            def apply(gradients: Sequence[tf.Tensor]) -> None:
                sparse = {
                    i: rows.mean(i, each) for i, each in enumerate(gradients) if isinstance(each, tf.IndexedSlices)
                }
                means = exchange(gradients, positions, lambda bucket: self._combine(hvd, bucket), sparse)
                optimizer.apply(means, trained)

            steps = steps_of(workload, model, optimizer, compute, apply, lambda each: self._combine(hvd, each))
            trainer = KerasTrainer(model, optimizer, workload, steps, rank=hvd.rank(), shards=hvd.size())
            if by_rows:
                trainer.trace()
                trainer.sparse = list(rows.ids)
                trainer.traffic_bytes = rows.traffic_bytes()
            if not self.elastic:
                yield trainer
                return
            from ._elastic import ElasticTrainer

            yield ElasticTrainer(trainer, hvd, model.variables + optimizer.variables)

    def _combine(self, hvd: ModuleType, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        compression = getattr(hvd.Compression, self.compression)
        op = hvd.Adasum if self.op == "adasum" else hvd.Average
        small, contexts = zip(*map(compression.compress, gradients), strict=True)
        means = hvd.grouped_allreduce(small, op=op) if len(small) > 1 else [hvd.allreduce(small[0], op=op)]
        return list(map(compression.decompress, means, contexts))


def _unable(options: Horovod, build: HorovodStatus, replicas: int) -> str | None:
    """The first reason that these options can't run so here, in one sentence that names the fix."""
    return (
        (_not_elastic(options, build, replicas) if options.elastic else None)
        or (_no_adasum(options, build, replicas) if options.op == "adasum" else None)
        or (_no_hierarchy(build) if options.hierarchical else None)
    )


def _not_elastic(options: Horovod, build: HorovodStatus, replicas: int) -> str | None:
    if "gloo" not in build.controllers or options.controller == "mpi" or options.op == "adasum":
        return "elastic=true needs Horovod built with Gloo, controller=gloo or auto, and op=average"
    if (options.fusion_mib, options.cycle_ms) != (Horovod.fusion_mib, Horovod.cycle_ms):
        return "elastic=true crashes in Horovod with another fusion_mib or cycle_ms than the defaults; leave them out"
    if not options.min_replicas <= replicas <= MOST:
        return f"elastic=true needs from min_replicas={options.min_replicas} to {MOST} replicas, not {replicas}"
    return None


def _no_adasum(options: Horovod, build: HorovodStatus, replicas: int) -> str | None:
    if "mpi" not in build.controllers or options.controller == "gloo":
        return "op=adasum needs Horovod built with MPI, and controller=mpi or auto; use op=average"
    if options.bucket_mib != 0:
        return "op=adasum combines each gradient by itself; add bucket_mib=0"
    if replicas & (replicas - 1):
        return f"op=adasum needs a power of two of replicas, not {replicas}"
    return None


def _no_hierarchy(build: HorovodStatus) -> str | None:
    if not build.nccl or "mpi" not in build.controllers or not gpus():
        return "hierarchical=true has an effect only on GPUs with Horovod built for NCCL and MPI; leave it out"
    if not os.environ.keys() & {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}:
        return "hierarchical=true has an effect only in a job that mpirun started on several hosts; leave it out"
    return None
