"""What to run: one frozen `RunSpec` per training.

The workers read a RunSpec from a JSON file in the run's folder; it is not built again from flags.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...datasets import base as datasets
from ...datasets.batches import steps_per_epoch
from ...datasets.structure import named
from ...results.raw.record import run_id, strategy_title
from ...strategies import registry as strategies
from ...strategies.base import Strategy
from . import evaluations, optimizers
from .faults import Fault, parse
from .learning_rate import CONSTANT
from .task import NoPlace, task_labels

DEFAULT_TIMEOUT_SECONDS = 300.0


class RunSpec(BaseModel):
    """One training of one model by one strategy.

    ``data_file`` is where the examples of a user's function are kept; empty for other data sets. Two specs that differ
    only in it, in ``timeout`` or in ``save_model`` measure the same.

    Batches are in examples: ``global_batch`` per update over all replicas, ``per_replica_batch`` for one replica.
    Exactly one of ``epochs`` and ``steps`` is set. ``options`` holds the options that differ from the defaults.
    ``evaluate_every`` is empty if weights are evaluated after each epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str
    options: dict[str, Any] = Field(default_factory=dict)
    replicas: int
    model: str
    dataset: str
    split: str
    sharding: Literal["batch", "static"]
    global_batch: int
    per_replica_batch: int
    last_batch: Literal["drop", "keep"] = "drop"
    epochs: int | None
    steps: int | None
    optimizer: str
    learning_rate: float
    lr_scaling: Literal["none", "linear", "sqrt"]
    reference_batch: int
    warmup_epochs: float
    lr_schedule: str = CONSTANT
    precision: str = ""
    jit: Literal["", "on", "off"] = ""
    class_weight: str = ""
    evaluate_every: str = ""
    seed: int
    model_digest: str = ""
    data_digest: str = ""
    cores_per_replica: int
    inject: tuple[str, ...] = ()
    profile: int = 0
    repeat: int = 0
    data_file: str = ""
    save_model: str = ""
    timeout: float = DEFAULT_TIMEOUT_SECONDS

    @property
    def run_id(self) -> str:
        """Stable name of this run: see `stratbench.results.raw.record.run_id`."""
        return run_id(self.model_dump())

    @property
    def input(self) -> str:
        """Type and scale of the examples that the model sees: ``uint8 × 1/255``, or ``float32`` as stored."""
        return _input(self.dataset, self.data_file)

    @property
    def title(self) -> str:
        """``ps sync=true ×2``: for progress and messages."""
        faults = f" with {' '.join(self.inject)}" if self.inject else ""
        repeat = f" #{self.repeat + 1}" if self.repeat else ""
        return f"{self.variant}{faults}{repeat}"

    @property
    def variant(self) -> str:
        """The same without faults and repeat: how the model is distributed."""
        return f"{strategy_title(self.strategy, self.options)} ×{self.replicas}"

    @property
    def evaluations(self) -> evaluations.Evaluations:
        """When the weights are evaluated."""
        return evaluations.parse(self.evaluate_every or evaluations.EVERY_EPOCH)

    @property
    def faults(self) -> list[Fault]:
        """The faults to inject."""
        return [parse(text) for text in self.inject]

    def total_steps(self, examples: int) -> int:
        """Of the run, with so many training examples."""
        return self.steps or (self.epochs or 0) * steps_per_epoch(examples, self.global_batch, self.last_batch)

    def skip(self) -> str | None:
        """Why this can't run here, in one sentence; None if it can."""
        strategy = self.create_strategy()
        if strategy.own_loop and self.inject:
            return f"{self.strategy} has a loop of its own, into which no faults can be injected; leave --inject out"
        if strategy.together > 1 and self.evaluations.unit == "step":
            return "the weights between steps of one call are not known; use --evaluate-every with epochs"
        for fault in self.faults:
            if fault.label not in self.labels():
                return f"there is no {fault.label} to inject {fault} into: its tasks are {', '.join(self.labels())}"
        if self.last_batch == "keep" and (self.replicas > 1 or strategy.fixed_batch) and not strategy.uneven:
            exact = ", ".join(name for name, cls in strategies.available().items() if cls.uneven)
            return (
                f"{self.strategy} needs shards of one size, and those of an incomplete last batch differ; "
                f"use --last-batch drop, or a strategy that weighs them by examples: {exact}"
            )
        optimizer = optimizers.parse(self.optimizer)
        if self.jit == "on" and not strategy.compiles:
            able = ", ".join(name for name, cls in strategies.available().items() if cls.compiles)
            return f"{self.strategy} can't be compiled by XLA; use --jit off or auto, or one of {able}"
        if self.jit == "on" and any(fault.kind == "slow" for fault in self.faults):
            return "a compiled step can't be slowed down on purpose; use --jit off"
        scaled = self.precision == optimizers.SCALED_PRECISION or optimizer.settings.get(optimizers.STATIC_SCALE)
        if scaled and (reason := strategy.skip_loss_scaling()):
            return reason
        return (
            strategy.skip_sharding(self.sharding)
            or strategy.skip_optimizer(optimizer.settings, optimizer.accumulate)
            or strategy.skip(self.replicas)
            or strategy.skip_batch(self.global_batch, self.replicas)
        )

    def labels(self) -> list[str]:
        """``worker-0``, …: of the tasks that it will have."""
        return task_labels(self.create_strategy().tasks(self.replicas, NoPlace()))

    def create_strategy(self) -> Strategy:
        """The strategy with this run's options."""
        return strategies.create(self.strategy, self.options)


@cache
def _input(dataset: str, file: str) -> str:
    # Cached, because info() may read all labels of a file.
    info = datasets.parse(dataset, file).info()
    types = ", ".join(f"{name} {each.type_words}".strip() for name, each in named(info.x))
    return types if info.scale == 1 else f"{types} × {info.scale}"


def read(path: Path) -> RunSpec:
    """The spec that the launcher wrote to a run's folder."""
    return RunSpec.model_validate_json(path.read_text())
