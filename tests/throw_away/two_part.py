"""A model cut in two, each part in a worker of its own, on Keras's JAX backend. JAX takes no tensor of TensorFlow's.

The first part knows no loss and counts no examples. Each part holds its own weights and optimizer state.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

import numpy as np
from stratbench.strategies.base import Place, Strategy, Task, Traits
from stratbench.strategies.trainer import Batch, Memory, StepResult, Trainer, Workload, examples_of

if TYPE_CHECKING:
    import keras

ADDRESS = "TEST_TWO_PART_ADDRESS"


@dataclasses.dataclass(frozen=True)
class TwoPart(Strategy):
    """Worker 0 has the first part, worker 1 the last one."""

    name = "two-part"
    summary = "a model cut in two"
    family = "cut"
    good_for = "tests"
    traits = Traits("yes", "yes", "activations and their gradients", "a part of W + S", "the run ends")
    backend = "jax"

    def skip(self, replicas: int) -> str | None:
        """Two workers, whatever the model."""
        return None if replicas == 2 else "two-part needs 2 replicas"

    def tasks(self, replicas: int, place: Place) -> list[Task]:
        """Each on its own host; the first part connects to the last one."""
        hosts = [place.host(part) for part in range(2)]
        environment = {ADDRESS: place.address(hosts[1])}
        return [Task(index=part, host=hosts[part], first_replica=part, env=environment) for part in range(2)]

    @contextmanager
    def trainer(self, task: Task, workload: Workload) -> Iterator[Trainer]:
        """Both parts read the whole global batch."""
        host, _, port = os.environ[ADDRESS].rpartition(":")
        with connect(host, int(port), task.index) as peer:
            yield (LastPart if task.index else FirstPart)(task.index, workload, peer)


def connect(host: str, port: int, part: int) -> Connection:
    if part:
        with Listener((host, port)) as listener:
            return listener.accept()
    while True:
        try:
            return Client((host, port))
        except ConnectionRefusedError:
            time.sleep(0.02)


class Part(Trainer):
    """What both parts share: some layers, their optimizer, and the connection to the other part."""

    def __init__(self, part: int, workload: Workload, peer: Connection):
        import keras

        self.rank = part
        self._workload, self._peer = workload, peer
        self._model, self._optimizer = workload.model(), workload.optimizer()
        *first, last = self._model.layers
        layers = [last] if part else first
        self._part = keras.Sequential([keras.Input(layers[0].input.shape[1:]), *layers])
        self._optimizer.build(self._part.trainable_variables)
        self.memory = Memory(size(self._part.variables), size(self._optimizer.variables))

    def values(self) -> list[Any]:
        return [variable.value for variable in self._part.trainable_variables]

    def outputs(self, weights: list[Any], x: Any) -> Any:
        return self._part.stateless_call(weights, [], x)[0]

    def update(self, gradients: list[Any], learning_rate: float) -> None:
        self._optimizer.learning_rate = learning_rate
        self._optimizer.apply(gradients, self._part.trainable_variables)

    def send(self, array: Any) -> None:
        self._peer.send_bytes(np.ascontiguousarray(array, "float32"))

    def receive(self, rows: int) -> np.ndarray:
        return np.frombuffer(self._peer.recv_bytes(), "float32").reshape(rows, -1)

    def weights(self) -> list[np.ndarray | None]:
        own = {id(variable) for variable in self._part.variables}
        return [np.array(each.value) if id(each) in own else None for each in self._model.weights]


class FirstPart(Part):
    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        import jax

        x = self._workload.inputs(batch)
        hidden, backward = jax.vjp(lambda weights: self.outputs(weights, x), self.values())
        self.send(hidden)
        self.update(backward(self.receive(len(hidden)))[0], learning_rate)
        return StepResult(None, 0)


class LastPart(Part):
    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        import jax

        def loss_of(weights: list[Any], hidden: Any) -> Any:
            return self._workload.loss(batch, self.outputs(weights, hidden))

        hidden = self.receive(examples_of(batch))
        loss, (gradients, upstream) = jax.value_and_grad(loss_of, (0, 1))(self.values(), hidden)
        self.send(upstream)
        self.update(gradients, learning_rate)
        return StepResult(float(loss), examples_of(batch))


def size(variables: list[keras.Variable]) -> int:
    return sum(np.asarray(variable.value).nbytes for variable in variables)
