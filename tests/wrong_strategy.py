"""Trains by MirroredStrategy with a mistake on purpose: ``wrong_strategy.py none|sum|shard SPEC RESULT``."""

import sys
from pathlib import Path

import numpy as np
from stratbench.harness.plan import spec as specs
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.strategies import _replica
from stratbench.strategies.tf_distribute.mirrored import Mirrored


def main() -> None:
    mistake, spec, result = sys.argv[1:]
    workload = SpecWorkload(specs.read(Path(spec)))
    strategy = Mirrored()
    if mistake == "sum":
        right = _replica.loss_and_gradients
        _replica.loss_and_gradients = lambda *arguments, scale: right(*arguments, scale=1.0)
    with strategy.trainer(strategy.tasks(2, None)[0], workload) as trainer:
        schedule = workload.schedule()
        for step, (x, y) in enumerate(workload.batches(1, 0).epoch(0)):
            if step == workload.total_steps:
                break
            if mistake == "shard":
                half = len(y) // 2
                x, y = np.concatenate([x[:half], x[:half]]), np.concatenate([y[:half], y[:half]])
            trainer.step(x, y, schedule(step))
        np.savez(result, *trainer.weights())


if __name__ == "__main__":
    main()
