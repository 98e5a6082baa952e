"""How much work an example is: floating-point operations, and tokens of a sequence.

Operations are those of the forward and the backward pass, as TensorFlow's profiler counts them from the shapes of a
graph: two for each multiplication and addition of a matrix product or a convolution. It has no count for ``Einsum``,
which is added here. The optimizer's update is not among them, and neither is what a strategy computes to exchange.
Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/profiler/profile
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...datasets.structure import leaves

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ...datasets.base import Info
    from ...strategies.trainer import Batch, Structure
    from .workload import SpecWorkload

_HIDDEN = (
    *("While", "StatelessWhile", "If", "StatelessIf", "Case"),
    *("PartitionedCall", "StatefulPartitionedCall", "Cudnn"),
)
"""How operations begin whose own ones the profiler does not see, as those of recurrent layers."""
_COUNTED = ("MatMul", "BatchMatMul", "Conv", "DepthwiseConv", "Einsum")
"""How those begin that make nearly all of the work. Without a shape, the profiler would leave them out."""


def tokens_per_example(info: Info) -> int | None:
    """The tokens of an example, padding included, if the model gets nothing but sequences of whole numbers."""
    arrays = leaves(info.x)
    if any(len(each.shape) != 1 or each.shape[0] < 2 or "int" not in each.dtype for each in arrays):
        return None
    return sum(each.shape[0] for each in arrays)


def flops_per_example(workload: SpecWorkload, model: keras.Model) -> float | None:
    """Operations of a training step with the batch of a replica, divided by its examples; None if not all are known."""
    import keras

    if keras.backend.backend() != "tensorflow" or workload.own_step:
        return None
    import tensorflow as tf

    examples = workload.spec.per_replica_batch
    batch = tf.nest.map_structure(
        lambda each: tf.TensorSpec((examples, *each.shape[1:]), each.dtype), workload.empty_batch
    )

    @tf.function(autograph=False)
    def step(batch: Batch) -> Structure:
        with tf.GradientTape() as tape:
            loss = workload.total_loss(model, batch)
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    flops = _flops(step.get_concrete_function(batch).graph)
    return None if flops is None else flops / examples


def _flops(graph: tf.Graph) -> float | None:
    from tensorflow.compat.v1 import profiler

    operations = graph.get_operations()
    if any(operation.type.startswith(_HIDDEN) for operation in operations):
        return None
    heavy = [operation for operation in operations if operation.type.startswith(_COUNTED)]
    if any(not tensor.shape.is_fully_defined() for each in heavy for tensor in [*each.inputs, *each.outputs]):
        return None
    quiet = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    counted = profiler.profile(graph, options=quiet).total_float_ops
    return float(counted + sum(_einsum(each) for each in heavy if each.type == "Einsum"))


def _einsum(operation: tf.Operation) -> int:
    """Two operations for each combination of the labels' values; an ellipsis stands for the first axes."""
    inputs = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for labels, tensor in zip(inputs, operation.inputs, strict=True):
        shape = tensor.shape.as_list()
        before, ellipsis, after = labels.partition("...")
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(reversed(after), reversed(shape), strict=False))
        if ellipsis:
            rest = math.prod(shape[len(before) : len(shape) - len(after)])
            sizes["..."] = max(sizes.get("...", 1), rest)
    return 2 * math.prod(sizes.values())
