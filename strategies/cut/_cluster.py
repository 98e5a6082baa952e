"""The processes of a cut model: one TensorFlow server for each part. Worker 0 has the first part and drives the others.

Worker 0 takes the steps: it feeds the batches and runs a graph over all servers. The others compute what it asks for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

import tensorflow as tf

from .._shared.held import told
from .._shared.replica import use_gpu
from .._shared.sleeping import asleep, register
from .._shared.threads import set_threads, sleep_when_idle
from ..base import Task
from ..trainer import Server, Workload
from ._tasks import JOB

v1 = tf.compat.v1


def device(index: int) -> str:
    """Of that task."""
    return f"/job:{JOB}/task:{index}"


@dataclasses.dataclass(frozen=True)
class Node:
    """This task's running server."""

    target: str
    config: tf.compat.v1.ConfigProto


def start(task: Task, workload: Workload) -> Node:
    """Start this task's server in the cluster that ``TF_CONFIG`` describes."""
    described = json.loads(os.environ["TF_CONFIG"])
    cores = workload.cores_per_replica
    # A thread more, so that what arrives is taken while others compute.
    set_threads(1, cores, exchanges=True)
    use_gpu(task.index)
    config = sleep_when_idle(
        v1.ConfigProto(
            intra_op_parallelism_threads=cores, inter_op_parallelism_threads=cores + 1, allow_soft_placement=True
        )
    )
    cluster = tf.train.ClusterSpec(described["cluster"])
    return Node(tf.distribute.Server(cluster, JOB, task.index, config=config).target, config)


class PartServer(Server):
    """A part's task. It waits until worker 0 has cut the model.

    Args:
        slow: whether a fault slows this task down.
    """

    def __init__(self, task: Task, workload: Workload, slow: bool):
        self._graph = register(_sleep) if slow else None
        self.memory = told(workload, task.label)


def _sleep(seconds: Any) -> Any:
    time.sleep(float(seconds))
    return seconds


def sleep(index: int, seconds: tf.Tensor) -> tf.Operation:
    """An operation that sleeps so long in task ``index``, of which this process is task 0."""
    if not index:
        return tf.numpy_function(_sleep, [seconds], tf.float32).op
    return asleep(seconds).op
