"""``tf.distribute.MultiWorkerMirroredStrategy``: N processes that all-reduce over TensorFlow's gRPC servers.

Synchronous data parallelism: g = (1/N) Σ g_i by ring all-reduce or NCCL, every process applies the same update.
Source: https://www.tensorflow.org/api_docs/python/tf/distribute/MultiWorkerMirroredStrategy

Limits: the gRPC servers listen on every interface, without authentication.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from .._shared.devices import gpus, skip_for_gpus
from .._shared.together import Together
from ..base import Place, Task, Traits, option, ring_bytes
from ..trainer import Batch, Trainer, Workload
from ..transport import Exchange, Group, Transport, ring_exchange

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class MultiWorker(Together):
    """One process a replica, joined by ``TF_CONFIG``."""

    name = "multiworker"
    summary = "tf.distribute.MultiWorkerMirroredStrategy: N processes, collective all-reduce over gRPC"
    family = "tf.distribute"
    good_for = "several machines, with nothing beside TensorFlow"
    needs = "one free TCP port a replica"
    synchronizes = True
    new_models = True
    traits = Traits("yes", "yes", "2(N−1)/N·W each way", "W + S", "the run ends")
    runs_own_steps = True
    transports = ("multiworker",)

    communication: Literal["auto", "ring", "nccl"] = option("auto", "all-reduce by ring (gRPC) or NCCL (GPUs)")
    pack_mib: Annotated[float, Ge(0)] = option(
        0.0, "gradients are reduced when so many MiB are computed; 0: all after the backward pass"
    )
    port: Annotated[int, Ge(0), Le(65535)] = option(0, "first TCP port; 0 takes free ones")

    def skip(self, replicas: int) -> str | None:
        """NCCL needs GPUs; replicas need a GPU each where there are any."""
        if self.communication == "nccl" and not gpus():
            return "communication=nccl needs GPUs and there are none; use auto or ring"
        return skip_for_gpus(replicas)

    def traffic_bytes(self, weights_bytes: int, replicas: int, accumulate: int = 1) -> float:
        """One ring all-reduce an update."""
        return ring_bytes(weights_bytes, replicas) / accumulate

    def reduced(self, accumulate: int = 1) -> float:
        """The gradients."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """One ring all-reduce an update."""
        return ring_exchange(replicas, hides=self.pack_mib > 0).scaled(1 / accumulate)

    def skip_loss_scaling(self) -> str | None:
        """Keras's optimizer does it."""
        return None

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """N workers. ``TF_CONFIG`` gives each one the addresses of all."""
        hosts = [place.host(index) for index in range(replicas)]
        workers = [place.address(host, self.port + index if self.port else None) for index, host in enumerate(hosts)]
        return [
            Task(
                index=index,
                host=host,
                first_replica=index,
                env={
                    "TF_CONFIG": json.dumps(
                        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
                    )
                },
            )
            for index, host in enumerate(hosts)
        ]

    def _joined(self, task: Task, group: Group) -> tf.distribute.MultiWorkerMirroredStrategy:
        """Connected with all other processes."""
        import tensorflow as tf

        from .._shared.replica import use_gpu
        from .._shared.threads import set_threads

        set_threads(1, group.cores_per_replica, exchanges=self.pack_mib > 0)
        use_gpu(task.index)
        communication = getattr(tf.distribute.experimental.CommunicationImplementation, self.communication.upper())
        return tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=tf.distribute.experimental.CommunicationOptions(
                bytes_per_pack=int(self.pack_mib * 2**20), implementation=communication
            )
        )

    @contextmanager
    def transport(self, task: Task, group: Group) -> Iterator[Transport]:
        """TensorFlow's all-reduce by itself."""
        from ._transport import DistributeTransport

        yield DistributeTransport(self._joined(task, group), task.index)

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Keras 3's ``fit`` fails here, a ``strategy.run`` step in a ``tf.function`` does not."""

        from .._shared.buckets import buckets, compute_in_order
        from .._shared.marks import Marked
        from .._shared.own_step import steps_of
        from .._shared.replica import KerasTrainer, loss_and_gradients
        from ._all_reduce import mean_over_replicas, sum_first

        strategy = self._joined(task, workload)

        def compute(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
            # Keras's optimizer sums gradients over the replicas; 1/N makes that the mean.
            loss, gradients = loss_and_gradients(
                workload, model, batch, optimizer, scale=1 / workload.replicas, mean=mean_over_replicas
            )
            if self.pack_mib:
                compute_in_order(loss, gradients, buckets(trained, self.pack_mib))
            return loss, gradients

        def around(step: Marked) -> Marked:
            return lambda batch: tuple(
                strategy.experimental_local_results(each)[0] for each in strategy.run(step, (batch,))
            )

        with strategy.scope():
            model = workload.model()
            optimizer = sum_first(workload.optimizer(), workload.own_step)
            trained = model.trainable_variables
            optimizer.build(trained)
            steps = steps_of(workload, model, optimizer, compute, means=mean_over_replicas)
        trainer = KerasTrainer(model, optimizer, workload, steps, around, rank=task.index, shards=workload.replicas)
        yield self.in_calls(trainer)
