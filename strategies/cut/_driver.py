"""Worker 0 of a cut model: cuts it, builds one graph over all tasks, and runs it step by step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from ...errors import UsageError
from .._shared.devices import gpus
from .._shared.graph_model import keep_constants, placeholders, rule_of
from .._shared.held import tell
from .._shared.replica import release, size_bytes
from ..trainer import Batch, Memory, Split, StepResult, Trainer, Workload, examples_of
from ._calls import calls_of
from ._cluster import Node, device, sleep
from ._copy import Copy, variables_of
from ._cost import Costs, measure
from ._parts import Cut, cut
from ._schedule import Schedule, bubble, most_kept, order
from ._tasks import JOB
from ._traffic import bytes_of, task_of
from ._updates import updates
from ._where import named_places, places

v1 = tf.compat.v1
PIECE_BYTES = 64 * 2**20
"""Of weights that are sent in one message."""
WARMUP = 2
"""Steps of which the bubble is not measured."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a model is distributed.

    Attributes:
        copies, parts: of the model, and of each copy. Task c·parts + k has part k of copy c.
        names: of the layers after which it is cut; none to have it balanced.
        micro_batches: of a copy's share of the global batch.
    """

    copies: int
    parts: int
    names: Sequence[str]
    micro_batches: int
    schedule: Schedule


class CutTrainer(Trainer):
    """Drives all tasks; `Trainer` says what it does."""

    def __init__(self, node: Node, workload: Workload, layout: Layout):
        self.shards = self.count = workload.replicas
        self._layout, self._workload = layout, workload
        self._model = workload.model()
        keep_constants(self._model)
        trained = self._model.trainable_variables
        rules = {id(weight): rule for weight in trained if (rule := rule_of(workload, weight))}
        made, costs = _cut(self._model, workload, layout, node.config)
        self._cut = made
        with tf.Graph().as_default():
            batch = placeholders(workload, workload.global_batch)
            rate = v1.placeholder(tf.float32, ())
            self._delays = {
                index: (v1.placeholder(tf.float32, ()), seconds)
                for index in range(layout.copies * layout.parts)
                if (seconds := workload.delays.get(f"part-{index}" if index else "worker-0"))
            }
            copies = self._copies(batch)
            update, add = updates(made, copies, workload, rules, rate)
            loss = tf.add_n([each.loss for each in copies]) / layout.copies
            times = [each for copy in copies for each in copy.times]
            self._set_sizes(copies, costs)
            self.traffic_bytes = _mean_bytes([loss, *times], update, add, workload.accumulate)
            given = [_given(each, copies) for each in _in_pieces(v for p in made.parts for v in (*p.trained, *p.fixed))]
            start = v1.global_variables_initializer()
            self._session = v1.Session(node.target, config=node.config)
            feeds = [*tf.nest.flatten(batch), rate, *[each for each, _ in self._delays.values()]]
            self._update = self._session.make_callable([loss, times, update], feeds)
            self._add = self._session.make_callable([loss, times, add], feeds)
            variables = copies[0].variables
            reads = [[variables[id(v)].read_value() for v in each] for each in _in_pieces(self._model.weights)]
            self._read = [self._session.make_callable(each) for each in reads]
        self._session.run(start)
        for fed, assigned in given:
            self._session.run(assigned, {placeholder: v.numpy() for v, placeholder in fed})
            # From now on, only the tasks that hold them have them.
            for variable, _ in fed:
                release(variable)
        self._steps, self._busy, self._whole = 0, 0.0, 0.0
        self._on_cpus = not gpus()

    def _copies(self, batch: Batch) -> list[Copy]:
        layout, parts = self._layout, self._layout.parts
        with tf.device(device(0)):
            pieces = _split(batch, layout.copies * layout.micro_batches)
        # A micro-batch sleeps for its share of what a step is slower.
        sleeps = {
            index: functools.partial(sleep, index, seconds / layout.micro_batches)
            for index, (seconds, _) in self._delays.items()
        }
        devices = [[device(number * parts + part) for part in range(parts)] for number in range(layout.copies)]
        return [
            Copy(
                self._cut,
                self._model,
                self._workload,
                variables_of(f"copy_{number}", self._cut, devices[number]),
                devices[number],
                pieces[number * layout.micro_batches :][: layout.micro_batches],
                layout.schedule,
                1 / len(pieces),
                {part: sleeps[index] for part in range(parts) if (index := number * parts + part) in sleeps},
            )
            for number in range(layout.copies)
        ]

    def _set_sizes(self, copies: Sequence[Copy], costs: Costs) -> None:
        """What each task holds, and what the row says of the cut."""
        layout = self._layout
        known = {id(v) for copy in copies for v in copy.variables.values()}
        held = []
        for index in range(layout.copies * layout.parts):
            place = index % layout.parts
            here = [v for v in v1.global_variables() if task_of(v.device)[1] == index]
            kept = most_kept(order(place, layout.parts, layout.micro_batches, layout.schedule))
            part = self._cut.parts[place]
            values = [*part.takes, *[value for call in part.calls for value in call.outputs]]
            held.append(
                Memory(
                    weights_bytes=size_bytes([v for v in here if id(v) in known]),
                    optimizer_bytes=size_bytes([v for v in here if id(v) not in known]),
                    activation_bytes=kept * sum(costs.bytes[value] for value in values),
                )
            )
        self.memory = held[0]
        tell(self._workload, {f"{JOB}-{index}": each for index, each in enumerate(held)})
        self.notes = {
            "cut": words(self._cut, costs) if layout.parts > 1 else "",
            "bubble_expected": bubble(layout.parts, layout.micro_batches),
            # Micro-batches and copies do not wait for one another.
            "work_seconds": costs.work * layout.micro_batches * layout.copies,
            "depth_seconds": costs.depth,
        }

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """See `Trainer.step`."""
        self._steps += 1
        run = self._add if self._steps % self._workload.accumulate else self._update
        loss, times, _ = run(*tf.nest.flatten(batch), learning_rate, *[get() for _, get in self._delays.values()])
        busy, begin, end = np.array(times).T
        passes, computing = float(end.max() - begin.min()), float(busy.mean())
        if self._steps > WARMUP * self._workload.accumulate:
            self._busy += computing
            self._whole += passes
        split = Split(computing, waiting_seconds=passes - computing) if self._on_cpus else None
        return StepResult(float(loss), examples_of(batch), split=split)

    def figures(self) -> dict[str, float]:
        """See `Trainer.figures`."""
        return {"bubble": 1 - self._busy / self._whole} if self._whole else {}

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return [weight for read in self._read for weight in read()]


def _cut(model: keras.Model, workload: Workload, layout: Layout, config: tf.compat.v1.ConfigProto) -> tuple[Cut, Costs]:
    """Raises UsageError, in one line, if the model can't be cut so."""
    examples = workload.global_batch // layout.copies // layout.micro_batches
    try:
        calls = calls_of(model)
        costs = measure(model, calls, workload, examples, config)
        found = named_places(calls, layout.names) if layout.names else places(calls, costs, layout.parts)
        return cut(model, calls, found), costs
    except UsageError as error:
        raise UsageError(f"model {model.name} can't be cut: {error}") from error


def words(cut: Cut, costs: Costs) -> str:
    """``dense_1 40 %, dense_3 60 %``: the last layer of each part, and the part's share of a pass's time."""
    seconds = [sum(costs.seconds[call.number] for call in part.calls) for part in cut.parts]
    shares = [each / (sum(seconds) or 1.0) for each in seconds]
    return ", ".join(f"{part.last_layer} {100 * share:.0f} %" for part, share in zip(cut.parts, shares, strict=True))


def _mean_bytes(always: list[tf.Tensor], update: tf.Operation, add: tf.Operation, steps: int) -> float | None:
    """What worker 0 sends and receives in a step, of which every ``steps``-th updates; None if it is not known."""
    whole, part = (bytes_of((JOB, 0), [*always, each], (JOB, 0)) for each in (update, add))
    return None if whole is None or part is None else (whole + part * (steps - 1)) / steps


def _in_pieces(variables: Iterable[keras.Variable]) -> list[list[keras.Variable]]:
    """In order, in lists that have at most `PIECE_BYTES`, or one variable."""
    pieces: list[list[keras.Variable]] = []
    for variable in variables:
        if not pieces or size_bytes([*pieces[-1], variable]) > PIECE_BYTES:
            pieces.append([])
        pieces[-1].append(variable)
    return pieces


def _given(
    variables: Sequence[keras.Variable], copies: Sequence[Copy]
) -> tuple[list[tuple[keras.Variable, tf.Tensor]], tf.Operation]:
    """(a placeholder for the first value of each variable, what assigns them in all copies)."""
    fed = [(each, v1.placeholder(each.dtype, each.shape)) for each in variables]
    pairs = [(copy.variables[id(each)], value) for each, value in fed for copy in copies]
    return fed, tf.group(*[there.assign(value, read_value=False) for there, value in pairs])


def _split(batch: Batch, count: int) -> list[Batch]:
    """The batch in equal pieces."""
    arrays = [tf.split(each, count) for each in tf.nest.flatten(batch)]
    return [tf.nest.pack_sequence_as(batch, each) for each in zip(*arrays, strict=True)]
