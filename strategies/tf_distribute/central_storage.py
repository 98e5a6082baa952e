"""``tf.distribute.experimental.CentralStorageStrategy``: N replicas in one process, and one copy of the weights.

Synchronous data parallelism: g = (1/N) Σ g_i. Every replica reads the weights from the device that holds them, which is
the CPU if there are several GPUs; the gradients are summed there, and applied once.
Source: https://www.tensorflow.org/api_docs/python/tf/distribute/experimental/CentralStorageStrategy

A variable that replicas assign is updated once, for all of them, and so TensorFlow goes on to the next replica before.
That would be in the middle of a forward pass, where layers hold the tensors of one replica. So what a forward pass
assigns, such as the statistics of BatchNormalization, is assigned after it, and is that of the first replica.

Limits: one process, one host. TensorFlow calls it experimental. On a CPU all replicas share one thread pool, as under
``mirrored``. No accumulation of gradients, no scaled loss and no ``train_step`` of a model's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._shared.devices import replica_devices, skip_for_gpus
from ..base import Place, Strategy, Task, Traits
from ..trainer import Batch, Mean, Trainer, Workload
from ..transport import Exchange, copies

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class CentralStorage(Strategy):
    """The weights on one device, the replicas on all."""

    name = "central-storage"
    summary = "tf.distribute.experimental.CentralStorageStrategy: one process, one copy of the weights for its devices"
    family = "tf.distribute"
    good_for = "weights that the host's memory holds once for all GPUs"
    synchronizes = True
    new_models = True
    traits = Traits("yes", "yes", "between devices, in one process", "W + S in one process", "the run ends")

    def skip(self, replicas: int) -> str | None:
        """Replicas need a GPU each where there are any."""
        return skip_for_gpus(replicas)

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Sums that each replica keeps for itself would be one sum."""
        return (
            f"{self.name} does not accumulate gradients; leave --accumulate out, or use mirrored"
            if accumulate > 1
            else None
        )

    def reduced(self, accumulate: int = 1) -> float:
        """Gradients in, weights out."""
        return 1 / accumulate

    def exchange(self, replicas: int, accumulate: int = 1) -> Exchange | None:
        """Each replica's gradients are copied to one device, and the sum, or the weights, back."""
        return copies(replicas).scaled(1 / accumulate)

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """One worker that computes all replicas."""
        return [Task(host=place.host(0), replicas=replicas)]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """As under ``mirrored``, with another strategy of TensorFlow's."""
        import tensorflow as tf

        from .._shared.threads import set_threads
        from ._in_process import trainer_of

        set_threads(task.replicas, workload.cores_per_replica)
        devices = replica_devices(task.replicas)
        holder = devices[0] if len(devices) == 1 else "/cpu:0"
        strategy = tf.distribute.experimental.CentralStorageStrategy(devices, holder)
        yield trainer_of(strategy, workload, copies=1, create=_of_first_replica, gradients=_loss_and_gradients)


def _loss_and_gradients(
    workload: Workload, model: keras.Model, batch: Batch, optimizer: Any, scale: float, mean: Mean
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """As `_shared.replica.loss_and_gradients`, but assigns after the forward pass."""
    import tensorflow as tf

    from .._shared.replica import loss_with

    trained = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
    fixed = [tf.convert_to_tensor(variable.value) for variable in model.non_trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(trained)
        loss, changed = loss_with(workload, model, trained, fixed, batch, mean)
        scaled = loss * scale
    gradients = tape.gradient(scaled, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    for variable, before, after in zip(model.non_trainable_variables, fixed, changed, strict=True):
        if after is not before:
            variable.value.assign(after)
    return loss, [tf.convert_to_tensor(each) for each in gradients]


def _of_first_replica(create: Callable[..., Any], **arguments: Any) -> Any:
    """A variable for which nothing else is said gets what the first replica assigns."""
    import tensorflow as tf

    kinds = tf.VariableAggregation
    if arguments.get("aggregation") in (None, kinds.NONE):
        arguments["aggregation"] = kinds.ONLY_FIRST_REPLICA
    return create(**arguments)
