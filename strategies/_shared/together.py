"""Several steps in one call of TensorFlow, as ``steps_per_execution`` of Keras's ``compile`` has it.

What Python does between two steps is then done once for all of them. Their losses come back together, so nobody knows
when each step ended: each gets the same part of the call's time.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from ..base import Strategy, option
from ..trainer import Batch, OwnLoop, Split, StepResult, Trainer, examples_of

if TYPE_CHECKING:
    import numpy as np

    from .replica import KerasTrainer


@dataclasses.dataclass(frozen=True)
class Together(Strategy):
    """A strategy with the option ``steps_per_execution``. Its trainer goes through `in_calls`."""

    steps_per_execution: Annotated[int, Ge(1), Le(10_000)] = option(
        1, "steps in one call of TensorFlow, as of Keras's compile; each gets the same part of its time"
    )

    def __post_init__(self) -> None:
        """What holds by default does not with several steps in one call."""
        if self.steps_per_execution > 1:
            changes = {"own_loop": True, "uneven": False, "fixed_batch": True, "together": self.steps_per_execution}
            for name, value in changes.items():
                object.__setattr__(self, name, value)

    def skip_optimizer(self, settings: Mapping[str, Any], accumulate: int) -> str | None:
        """Each of several steps in one call updates."""
        if self.steps_per_execution > 1 and accumulate > 1:
            return "steps_per_execution is for steps that each update; leave it or --accumulate out"
        return None

    def in_calls(self, trainer: KerasTrainer) -> Trainer:
        """What takes its steps, as many in one call as the option says."""
        return TogetherTrainer(trainer, self.steps_per_execution) if self.steps_per_execution > 1 else trainer


class TogetherTrainer(OwnLoop):
    """Runs the steps of another trainer, several in each call.

    Args:
        inner: whose body of a step it repeats.
        together: so many; fewer in the last call of an epoch.
    """

    def __init__(self, inner: KerasTrainer, together: int) -> None:
        self._inner, self._together = inner, together
        self.rank, self.shard, self.shards, self.count = inner.rank, inner.shard, inner.shards, inner.count
        self.memory, self.sparse = inner.memory, inner.sparse
        self._run, self._computes = inner.repeated()

    def epoch(
        self, batches: Iterable[Batch], learning_rates: Sequence[float], note: Callable[[StepResult, float], float]
    ) -> None:
        """See `OwnLoop.epoch`."""
        import numpy as np
        import tensorflow as tf

        begin, rates, source = time.perf_counter(), iter(learning_rates), iter(batches)
        while group := list(itertools.islice(source, self._together)):
            stacked = tf.nest.map_structure(lambda *each: np.stack(each), *group)
            given = np.array(list(itertools.islice(rates, len(group))), np.float32)
            called = time.perf_counter()
            results = self._run(stacked, given)
            now = time.perf_counter()
            split = Split((now - called) / len(group)) if self._computes else None
            for batch, result in zip(group, results, strict=True):
                note(StepResult(result, examples_of(batch), split=split), (now - begin) / len(group))
            begin = now

    def logs(self) -> Mapping[str, float]:
        """See `Trainer.logs`."""
        return self._inner.logs()

    def skipped_updates(self) -> int | None:
        """See `Trainer.skipped_updates`."""
        return self._inner.skipped_updates()

    def weights(self) -> list[np.ndarray | None]:
        """See `Trainer.weights`."""
        return self._inner.weights()
