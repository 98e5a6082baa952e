"""Several steps in one call of TensorFlow, as ``steps_per_execution`` of Keras's ``compile`` has it.

What Python does between two steps is then done once for all of them. Their losses come back together, so nobody knows
when each step ended: each gets the same part of the call's time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..trainer import Batch, OwnLoop, Split, StepResult, examples_of

if TYPE_CHECKING:
    import numpy as np

    from ..base import Strategy
    from .replica import KerasTrainer

EXECUTION = "steps in one call of TensorFlow, as of Keras's compile; each gets the same part of its time"
"""Help of the option ``steps_per_execution``. A strategy that has it calls `adapt` in the end."""


def adapt(strategy: Strategy, steps: int) -> None:
    """What holds of a strategy by default does not with several steps in one call."""
    if steps > 1:
        for name, value in {"own_loop": True, "uneven": False, "fixed_batch": True}.items():
            object.__setattr__(strategy, name, value)


def skip_accumulation(steps: int, accumulate: int) -> str | None:
    """Why a strategy can't have both, naming the fix; None if it need not."""
    if steps > 1 and accumulate > 1:
        return "steps_per_execution is for steps that each update; leave it or --accumulate out"
    return None


class TogetherTrainer(OwnLoop):
    """Runs the steps of another trainer, several in each call.

    Args:
        inner: whose body of a step it repeats.
        together: so many; fewer in the last call of an epoch.
    """

    def __init__(self, inner: KerasTrainer, together: int) -> None:
        self._inner, self.together = inner, together
        self.rank, self.shard, self.shards, self.count = inner.rank, inner.shard, inner.shards, inner.count
        self.memory, self.sparse = inner.memory, inner.sparse
        self._run, self._computes = inner.repeated()

    def epoch(
        self, batches: Iterable[Batch], learning_rates: Sequence[float], note: Callable[[StepResult, float], None]
    ) -> None:
        """See `OwnLoop.epoch`."""
        import numpy as np
        import tensorflow as tf

        begin, rates, source = time.perf_counter(), iter(learning_rates), iter(batches)
        while group := list(itertools.islice(source, self.together)):
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
