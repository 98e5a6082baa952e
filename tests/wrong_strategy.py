"""Trains by MirroredStrategy with a mistake on purpose: ``wrong_strategy.py none|sum|shard SPEC RESULT``."""

import sys
from pathlib import Path

import numpy as np
from stratbench.harness.plan import spec as specs
from stratbench.harness.plan.task import NoPlace
from stratbench.harness.worker.workload import SpecWorkload
from stratbench.strategies._shared import replica
from stratbench.strategies.tf_distribute.mirrored import Mirrored


def main() -> None:
    mistake, spec, result = sys.argv[1:]
    workload = SpecWorkload(specs.read(Path(spec)))
    strategy = Mirrored()
    if mistake == "sum":
        right = replica.loss_and_gradients
        replica.loss_and_gradients = lambda *arguments, scale, mean: right(*arguments, scale=1.0, mean=mean)
    with strategy.trainer(strategy.tasks(2, NoPlace())[0], workload) as trainer:
        schedule = workload.schedule()
        for step, batch in enumerate(workload.batches(1, 0).epoch(0)):
            if step == workload.total_steps:
                break
            if mistake == "shard":
                half = [each[: len(each) // 2] for each in batch]
                batch = tuple(np.concatenate([each, each]) for each in half)
            trainer.step(batch, schedule(step))
        np.savez(result, *trainer.weights())


if __name__ == "__main__":
    main()
