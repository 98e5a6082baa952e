"""Worker 0: it holds no weights, gives out portions, and commands the shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from ...errors import RunError
from .._shared.held import tell as tell_held
from .._shared.messages import Messages
from .._shared.replica import release, size_bytes
from .._shared.vectors import flat, parts
from .._shared.whole_weights import skip_constraints
from ..trainer import Batch, Memory, Split, StepResult, Trainer, Workload, examples_of
from ._lbfgs import Lbfgs
from ._portions import Evaluation, Portions
from ._serving import is_moved, no_gpu
from ._shards import Shards
from ._wire import hear, tell


class SandblasterTrainer(Trainer):
    """One update a global batch.

    Args:
        servers, remotes: the ranks of both kinds of tasks.
        portions: of a batch, for each remote worker.
        backup: whether portions are given twice.
        history: of L-BFGS; None to update by the run's optimizer.
    """

    def __init__(
        self,
        workload: Workload,
        messages: Messages,
        servers: Sequence[int],
        remotes: Sequence[int],
        portions: int,
        backup: bool,
        history: int | None,
    ):
        no_gpu()
        self.shards = self.count = workload.replicas
        self._workload, self._messages, self._remotes = workload, messages, remotes
        self._shards = Shards(messages, servers)
        self._portions, self._wanted = Portions(remotes, backup), portions * len(remotes)
        self._lbfgs = None if history is None else Lbfgs(self._shards, self._evaluate, history)
        self._model = workload.model()
        if reason := skip_constraints(self._model):
            raise RunError(reason)
        self._put(len(servers), history)
        self._parts: list[list[np.ndarray]] = []
        self._batch = self._before = self._examples = 0
        self._steps, self._evaluations, self._last = 0, 0, 1
        self._computed = dict.fromkeys(remotes, 0.0)
        self._delays = {remote: workload.delays.get(f"remote-{index}") for index, remote in enumerate(remotes)}
        self.memory = Memory(0, 0)
        rows = (each.dtype.itemsize * int(np.prod(each.shape[1:])) for each in keras.tree.flatten(workload.empty_batch))
        self.traffic_bytes = float(workload.global_batch * sum(rows))

    def _put(self, servers: int, history: int | None) -> None:
        """Give the model's weights to the shards, and tell all tasks what they hold."""
        trained, others = self._model.trainable_variables, self._model.non_trainable_variables
        moved = [each for each in others if is_moved(each)]
        self._counts = [each.numpy() for each in others if not is_moved(each)]
        weights, held = size_bytes(trained), size_bytes(self._model.weights)
        if history is None:
            optimizer = self._workload.optimizer()
            optimizer.build(trained)
            state = size_bytes(optimizer.variables) + weights
        else:
            # Direction, trial and two gradients.
            state = (2 * history + 4) * weights
        tasks = {f"remote-{index}": Memory(held, 0, weights) for index in range(len(self._remotes))}
        tasks |= {f"ps-{index}": Memory(held // servers, state // servers) for index in range(servers)}
        tell_held(self._workload, tasks)
        self._shards.put(weights=_vector(trained), fixed=_vector(moved), moved=_vector(moved))
        for variable in self._model.variables:
            release(variable)

    def __enter__(self) -> Self:
        """One thread for each remote worker."""
        for remote in self._remotes:
            threading.Thread(target=self._drive, args=(remote,), daemon=True, name=f"remote-{remote}").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The threads end, those too that still wait for an answer, once the connections are closed."""
        self._portions.close()

    def _drive(self, remote: int) -> None:
        """Give a remote worker one portion after the other."""
        batch, sent = 0, set[int]()
        try:
            while portion := self._portions.take(remote):
                evaluation = portion.evaluation
                if batch != evaluation.batch:
                    batch, sent = evaluation.batch, set()
                words = {
                    "batch": batch,
                    "evaluation": evaluation.number,
                    "portion": portion.index,
                    "number": evaluation.before + portion.index,
                    "weights": evaluation.weights,
                    "sleep": self._sleep(remote, len(evaluation.parts)),
                }
                tell(self._messages, remote, words, [] if portion.index in sent else evaluation.parts[portion.index])
                sent.add(portion.index)
                found, counts = hear(self._messages, remote)
                self._computed[remote] += found["seconds"]
                self._portions.done(remote, portion, (found["loss"], counts))
        except RunError as error:
            self._portions.lost(remote, error)

    def _sleep(self, remote: int, portions: int) -> float:
        """The part for one portion of what a slow worker is to sleep in a step.

        It is for as many portions as all take if they are equally fast, and as many evaluations as the last step had.
        """
        delay = self._delays[remote]
        return delay() * len(self._remotes) / portions / self._last if delay else 0.0

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        begin = time.perf_counter()
        delay = self._workload.delays.get("worker-0")
        if slept := delay() if delay else 0.0:
            time.sleep(slept)
        self._computed = dict.fromkeys(self._remotes, 0.0)
        self._examples = examples_of(batch)
        if not self._examples:
            return StepResult(None, 0)
        self._cut(batch)
        before = self._evaluations
        if self._lbfgs:
            # Random masks are new in each step, and so is the loss of the same examples.
            loss = self._lbfgs.step(known=self._workload.whole_batches and not self._counts)
        else:
            loss = self._evaluate("weights", "gradient")
            self._shards.apply(learning_rate)
        self._last = max(1, self._evaluations - before)
        self._steps += 1
        self._shards.combine("fixed", [(1.0, "moved")])
        return StepResult(loss, self._examples, split=self._split(time.perf_counter() - begin, slept))

    def _split(self, seconds: float, slept: float) -> Split:
        """Of a step that took so long, by what the remote workers say.

        A portion that counts for nothing any more may take longer than the step.
        """
        computed = [min(self._computed[each], seconds - slept) for each in self._portions.workers]
        mean = sum(computed) / len(computed)
        waiting = max(computed) - mean
        return Split(mean + slept, seconds - slept - mean - waiting, waiting)

    def _cut(self, batch: Batch) -> None:
        """Cut it into portions, as equal as possible."""
        self._before += len(self._parts)
        count = min(self._wanted, self._examples)
        cut = [np.array_split(each, count) for each in keras.tree.flatten(batch)]
        self._parts = [list(each) for each in zip(*cut, strict=True)]
        self._batch += 1

    def _evaluate(self, weights: str, gradient: str) -> float:
        """The batch's loss at the vector ``weights``; its gradient becomes the vector ``gradient``."""
        self._evaluations += 1
        evaluation = Evaluation(self._evaluations, self._batch, self._parts, self._before, weights)
        self._shards.begin(evaluation.number, gradient)
        self._portions.begin(evaluation)
        total = 0.0
        for index, remote, (loss, counts) in self._portions.results():
            share = examples_of(self._parts[index]) / self._examples
            self._shards.add(index, remote, share, gradient)
            total += share * loss
            self._counts = counts if not index else self._counts
        return total

    def figures(self) -> Mapping[str, float]:
        """See `Trainer.figures`."""
        evaluations = {"evaluations_per_step": self._evaluations / max(1, self._steps)} if self._lbfgs else {}
        return evaluations | {"portions_repeated": self._portions.repeated}

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`: fetched from the shards."""
        model = self._model
        trained, fixed = self._shards.get("weights", "fixed")
        moved = [each for each in model.non_trainable_variables if is_moved(each)]
        counted = [each for each in model.non_trainable_variables if not is_moved(each)]
        variables = [*counted, *model.trainable_variables, *moved]
        values = [*self._counts, *parts(trained, model.trainable_variables), *parts(fixed, moved)]
        found = {id(v): np.asarray(each).astype(v.dtype) for v, each in zip(variables, values, strict=True)}
        return [found[id(each)] for each in model.weights]


def _vector(variables: Sequence[keras.Variable]) -> np.ndarray:
    return flat([tf.cast(each.value, tf.float32) for each in variables]).numpy()
