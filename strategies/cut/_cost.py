"""What a cut model costs: how long each call takes, how large its outputs are, and how much could run at a time.

One forward and backward pass over a micro-batch is run in this process, with zeros for weights and examples, and
TensorFlow's own times of all operations are read: https://www.tensorflow.org/api_docs/python/tf/compat/v1/RunMetadata.

Of a step, work W is the time of all its operations, and depth D that of the longest chain of operations that wait for
one another. With p processors, greedy scheduling takes max(W/p, D) ≤ T_p ≤ W/p + D without any communication
(Brent, *The Parallel Evaluation of General Arithmetic Expressions*, J. ACM 21(2), 1974).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from .._shared.graph_model import placeholders
from ..trainer import Workload
from ._calls import Calls, Value
from ._copy import Copy, variables_of
from ._parts import cut

v1 = tf.compat.v1
TIMES = 3
"""The first time is not counted. The shorter of the others is less disturbed by whatever else the machine does."""
_CALL = re.compile(r"call_(\d+)_(?:/|$)")


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one micro-batch.

    Attributes:
        seconds: of each call, forward and backward.
        bytes: of each tensor.
        work, depth: of all operations, in seconds.
    """

    seconds: Sequence[float]
    bytes: Mapping[Value, int]
    work: float
    depth: float


def measure(
    model: keras.Model, calls: Calls, workload: Workload, examples: int, config: tf.compat.v1.ConfigProto
) -> Costs:
    """Run the whole model, with so many examples. Nothing of it is changed."""
    whole = cut(model, calls, [])
    with tf.Graph().as_default() as graph:
        # Fed, as TensorFlow computes nothing with zeros that it knows.
        batch = placeholders(workload, examples)
        feeds = {each: np.zeros(each.shape, each.dtype.as_numpy_dtype) for each in tf.nest.flatten(batch)}
        variables = variables_of("measured", whole, ["/cpu:0"])
        copy = Copy(whole, model, workload, variables, ["/cpu:0"], [batch], "gpipe", 1.0, {})
        pairs = zip(whole.parts[0].trained, copy.gradients[0], strict=True)
        # Assigned, as TensorFlow computes nothing that nobody takes.
        applied = [copy.variables[id(v)].assign_sub(g, read_value=False) for v, g in pairs if g is not None]
        with v1.Session(config=_local(config)) as session:
            session.run(v1.global_variables_initializer())
            run = [copy.loss, tf.group(*applied, *copy.moved)]
            seconds = _shortest(session, run, feeds)
    chain: dict[str, float] = {}
    for each in graph.get_operations():
        before = [*(tensor.op for tensor in each.inputs), *each.control_inputs]
        chain[each.name] = seconds.get(each.name, 0.0) + max((chain.get(op.name, 0.0) for op in before), default=0.0)
    found = [0.0] * len(calls.calls)
    for name, took in seconds.items():
        if place := _CALL.search(name):
            found[int(place[1])] += took
    # One whose shape the graph does not tell counts as empty.
    sizes = {value: (tensor.shape.num_elements() or 0) * tensor.dtype.size for value, tensor in copy.kept.items()}
    return Costs(found, sizes, sum(seconds.values()), max(chain.values()))


def _local(config: tf.compat.v1.ConfigProto) -> tf.compat.v1.ConfigProto:
    """A session without servers."""
    return v1.ConfigProto(
        intra_op_parallelism_threads=config.intra_op_parallelism_threads,
        # One operation at a time: two on one core would both take longer.
        inter_op_parallelism_threads=1,
        allow_soft_placement=True,
        use_per_session_threads=True,
    )


def _shortest(
    session: tf.compat.v1.Session, run: list[tf.Tensor | tf.Operation], feeds: Mapping[tf.Tensor, np.ndarray]
) -> dict[str, float]:
    """Seconds of each operation, by its name."""
    found: dict[str, float] = {}
    options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
    for number in range(TIMES):
        traced = v1.RunMetadata()
        session.run(run, feeds, options=options, run_metadata=traced)
        for device in traced.step_stats.dev_stats if number else ():
            # A GPU's operations are there twice: when they were begun, and when they ran.
            if "/stream:" in device.device and not device.device.endswith("stream:all"):
                continue
            for node in device.node_stats:
                took = (node.op_end_rel_micros - node.op_start_rel_micros) / 1e6
                name = node.node_name.partition(":")[0]
                found[name] = min(found.get(name, math.inf), took)
    return found
