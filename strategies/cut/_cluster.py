"""The processes of a cut model: one TensorFlow server for each part. Worker 0 has the first part and drives the others.

Worker 0 takes the steps: it feeds the batches and runs a graph over all servers. The others compute what it asks for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import tensorflow as tf

from ...errors import RunError
from .._shared.replica import set_threads, use_gpu
from ..base import Task
from ..trainer import Memory, Server, Workload
from ._tasks import JOB

v1 = tf.compat.v1
_HELD = "held.json"
"""File of worker 0 that says what each task holds."""
_POLL_SECONDS = 0.05
_TOKEN = "pyfunc_0"
"""Under which TensorFlow knows the first Python function of a process."""


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
    config = v1.ConfigProto(
        intra_op_parallelism_threads=cores, inter_op_parallelism_threads=cores + 1, allow_soft_placement=True
    )
    cluster = tf.train.ClusterSpec(described["cluster"])
    return Node(tf.distribute.Server(cluster, JOB, task.index, config=config).target, config)


def tell(workload: Workload, held: list[Memory]) -> None:
    """Tell the tasks of the parts what they hold, in order."""
    path = workload.scratch() / _HELD
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([dataclasses.asdict(each) for each in held]))
    fresh.replace(path)


class PartServer(Server):
    """A part's task. It waits until worker 0 has cut the model.

    Args:
        slow: whether a fault slows this task down.
    """

    def __init__(self, task: Task, workload: Workload, slow: bool):
        self._graph = _register() if slow else None
        self.memory = Memory(**_told(workload.scratch() / _HELD)[task.index])


def _told(path: Path) -> list[dict[str, int]]:
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    found: list[dict[str, int]] = json.loads(path.read_text())
    return found


def _sleep(seconds: float) -> float:
    time.sleep(float(seconds))
    return seconds


def _register() -> tf.Graph:
    """Let worker 0's graph call `_sleep` in this process, as long as the result exists. Raises RunError."""
    graph = tf.Graph()
    with graph.as_default():
        made = tf.numpy_function(_sleep, [tf.constant(0.0)], tf.float32)
    if made.op.get_attr("token").decode() != _TOKEN:
        raise RunError("this process has registered another Python function before, so it can't be slowed down")
    return graph


def sleep(index: int, seconds: tf.Tensor) -> tf.Operation:
    """An operation that sleeps so long in task ``index``, of which this process is task 0."""
    if not index:
        return tf.numpy_function(_sleep, [seconds], tf.float32).op
    return tf.raw_ops.PyFunc(input=[seconds], token=_TOKEN, Tout=[tf.float32])[0].op
