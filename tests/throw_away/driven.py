"""One client, which computes nothing, drives N tasks by one session: each of them computes a replica.

Worker 0 reads the whole global batch, whatever its structure, and feeds each task its slice. The weights are on task 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stratbench.strategies.base import Place, Strategy, Task, Traits
from stratbench.strategies.trainer import Batch, Server, StepResult, Trainer, Workload, examples_of

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Driven(Strategy):
    """Tasks of the role ``part`` serve the client, and have the replicas."""

    name = "driven"
    summary = "one client drives all replicas"
    family = "data parallel"
    good_for = "tests"
    traits = Traits("yes", "yes", "W each way", "W + S on task 0", "the run ends")

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """The client is a worker without replicas."""
        hosts = [place.host(index) for index in range(replicas)]
        cluster = {"part": [place.address(host) for host in hosts], "worker": [place.address(hosts[0])]}

        def environment(role: str, index: int) -> dict[str, str]:
            return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}

        parts = [
            Task("part", index, host, first_replica=index, env=environment("part", index))
            for index, host in enumerate(hosts)
        ]
        return [*parts, Task(host=hosts[0], replicas=0, env=environment("worker", 0))]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer | Server]:
        """A server in each task; the graph is the client's."""
        import tensorflow as tf

        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        server = tf.distribute.Server(resolver.cluster_spec(), task.role, task.index)
        yield Server() if task.serves else Client(server.target, workload)


class Client(Trainer):
    def __init__(self, target: str, workload: Workload):
        import tensorflow as tf
        from stratbench.strategies._shared.update_rules import update_of
        from stratbench.strategies.parameter_server._graph import compute
        from stratbench.strategies.parameter_server._source import Source

        v1 = tf.compat.v1
        self.shards = self.count = workload.replicas
        source = Source.of(workload)
        with tf.Graph().as_default():
            with tf.device("/job:part/task:0"):
                weights = [
                    v1.get_variable(f"weight_{place}", initializer=value, use_resource=True)
                    for place, value in enumerate(source.weights)
                ]
                rate = v1.get_variable("rate", initializer=0.0, use_resource=True)
            passes = []
            for replica in range(self.shards):
                with tf.device(f"/job:part/task:{replica}"):
                    passes.append(compute(workload, source, [weight.read_value() for weight in weights]))
            loss = tf.add_n([each.loss for each in passes]) / self.shards
            means = [tf.add_n(each) / self.shards for each in zip(*[each.gradients for each in passes], strict=True)]
            trained = {id(variable) for variable in source.model.trainable_variables}
            variables = [w for w, own in zip(weights, source.model.weights, strict=True) if id(own) in trained]
            updates = [
                update_of(variable, rate, workload.optimizer_settings, True)(mean)
                for variable, mean in zip(variables, means, strict=True)
            ]
            new_rate = v1.placeholder(tf.float32, ())
            session = v1.Session(target)
            session.run(v1.global_variables_initializer())
            self._set_rate = session.make_callable(rate.assign(new_rate), [new_rate])
            feeds = [feed for each in passes for feed in each.feeds]
            self._run = session.make_callable([loss, tf.group(*updates)], feeds)
            self._read = session.make_callable([weight.read_value() for weight in weights])

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        import tensorflow as tf

        share = examples_of(batch) // self.shards
        arrays = tf.nest.flatten(batch)
        self._set_rate(learning_rate)
        slices = [a[start : start + share] for start in range(0, share * self.shards, share) for a in arrays]
        loss, _ = self._run(*slices)
        return StepResult(float(loss), examples_of(batch))

    def weights(self) -> list[np.ndarray | None]:
        return self._read()
