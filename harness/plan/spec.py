"""What to run: one frozen `RunSpec` per training, an `Experiment` for a grid of them.

The workers read a RunSpec from a JSON file in the run's folder; it is not built again from flags.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...datasets import base as datasets
from ...datasets.split import parse_split, split_rows
from ...datasets.structure import named
from ...errors import UsageError
from ...results.raw.record import run_id
from ...strategies import registry as strategies
from ...strategies.base import Strategy
from . import bounds, class_weights, cores, optimizers, sources
from .faults import Fault, parse
from .learning_rate import CONSTANT
from .learning_rate import parse as parse_schedule
from .pairs import parse_options
from .task import NoPlace, task_labels

DEFAULT_EPOCHS = 3
DEFAULT_TIMEOUT_SECONDS = 300.0


class RunSpec(BaseModel):
    """One training of one model by one strategy.

    ``data_file`` is where the examples of a user's function are kept; empty for other data sets. Two specs that differ
    only in it, in ``timeout`` or in ``save_model`` measure the same.

    Batches are in examples: ``global_batch`` per update over all replicas, ``per_replica_batch`` for one replica.
    Exactly one of ``epochs`` and ``steps`` is set. ``options`` holds the options that differ from the defaults.
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
    class_weight: str = ""
    seed: int
    model_digest: str = ""
    data_digest: str = ""
    cores_per_replica: int
    inject: tuple[str, ...] = ()
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
        """``ps sync=True ×2``: for progress and messages."""
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        faults = f" with {' '.join(self.inject)}" if self.inject else ""
        repeat = f" #{self.repeat + 1}" if self.repeat else ""
        return f"{self.strategy}{options} ×{self.replicas}{faults}{repeat}"

    @property
    def faults(self) -> list[Fault]:
        """The faults to inject."""
        return [parse(text) for text in self.inject]

    def skip(self) -> str | None:
        """Why this can't run here, in one sentence; None if it can."""
        strategy = self.create_strategy()
        if strategy.own_loop and self.inject:
            return f"{self.strategy} has a loop of its own, into which no faults can be injected; leave --inject out"
        for fault in self.faults:
            if fault.label not in self.labels():
                return f"there is no {fault.label} to inject {fault} into: its tasks are {', '.join(self.labels())}"
        if self.last_batch == "keep" and self.replicas > 1 and not strategy.uneven:
            exact = ", ".join(name for name, cls in strategies.available().items() if cls.uneven)
            return (
                f"{self.strategy} needs shards of one size, and those of an incomplete last batch differ; "
                f"use --last-batch drop, or a strategy that weighs them by examples: {exact}"
            )
        optimizer = optimizers.parse(self.optimizer)
        return (
            strategy.skip_sharding(self.sharding)
            or strategy.skip_optimizer(optimizer.settings, optimizer.accumulate)
            or strategy.skip(self.replicas)
        )

    def labels(self) -> list[str]:
        """``worker-0``, …: of the tasks that it will have."""
        return task_labels(self.create_strategy().tasks(self.replicas, NoPlace()))

    def create_strategy(self) -> Strategy:
        """The strategy with this run's options."""
        return strategies.create(self.strategy, self.options)


class Experiment(BaseModel):
    """A grid: every strategy at every number of replicas, ``repeats`` times each.

    ``strategies`` are references ``NAME[:key=value,…]``. ``options`` go to every strategy that has them.
    Raises UsageError, in one line, for values that are not possible.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategies: Sequence[str]
    replicas: Sequence[int] = (1,)
    repeats: int = 1
    options: dict[str, str] = Field(default_factory=dict)
    model: str = "cnn"
    dataset: str = "mnist"
    split: str = "default"
    sharding: Literal["batch", "static"] | None = None
    global_batch: int | None = None
    per_replica_batch: int | None = None
    last_batch: Literal["drop", "keep"] = "drop"
    epochs: int | None = None
    steps: int | None = None
    optimizer: str = "adam"
    clip_norm: float | None = None
    accumulate: int | None = None
    learning_rate: float | None = None
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch: int | None = None
    warmup_epochs: float = 0.0
    lr_schedule: str = CONSTANT
    compiled_schedule: str = ""
    precision: Literal["float32", "mixed_bfloat16"] | None = None
    class_weight: str | None = None
    seed: int = 1
    cores_per_replica: int | None = None
    inject: Sequence[str] = ()
    data_file: str = ""
    save_model: str = ""
    timeout: float = DEFAULT_TIMEOUT_SECONDS

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        if (self.global_batch is None) == (self.per_replica_batch is None):
            received = "both" if self.global_batch is not None else "neither"
            raise UsageError(f"give exactly one of --global-batch and --per-replica-batch. Received: {received}.")
        if self.epochs is not None and self.steps is not None:
            raise UsageError("give --epochs or --steps, not both.")
        if not self.strategies:
            raise UsageError("give at least one --strategy; 'stratbench list strategies' shows them.")
        bounds.check(dict(self))
        parse_schedule(self.lr_schedule)
        optimizers.parse(self.optimizer)
        return self

    def expand(self) -> list[RunSpec]:
        """Every run of the grid, in order. A strategy that can't scale, such as ``single``, runs at one size only."""
        variants = self._variants()
        for key in self.options:
            if not any(key in _fields(name) for name, _ in variants):
                strategies.create(variants[0][0], {key: self.options[key]})
        sizes = {name: self._sizes(name) for name, _ in variants}
        bounds.check_runs(sum(len(sizes[name]) for name, _ in variants) * self.repeats)
        per_replica = self.cores_per_replica or max(1, len(cores.usable()) // max(map(max, sizes.values())))
        common = self._common()
        grid = [
            self._spec(name, options, replicas, per_replica, common)
            for name, options in variants
            for replicas in sizes[name]
        ]
        self._check_faults(grid)
        repeated = (spec.model_copy(update={"repeat": repeat}) for repeat in range(self.repeats) for spec in grid)
        return list({spec.run_id: spec for spec in repeated}.values())

    def _check_faults(self, grid: Sequence[RunSpec]) -> None:
        if not self.inject:
            return
        labels = set(itertools.chain.from_iterable(spec.labels() for spec in grid))
        for fault in map(parse, self.inject):
            if fault.label not in labels:
                has = f"{grid[0].strategy} at {grid[0].replicas} has {', '.join(grid[0].labels())}"
                raise UsageError(f"--inject must name a task that a run has; {has}. Received: '{fault}'.")

    def _variants(self) -> list[tuple[str, dict[str, Any]]]:
        references = list(dict.fromkeys(self.strategies))
        bounds.check_runs(len(references))
        return [self._variant(reference) for reference in references]

    def _variant(self, reference: str) -> tuple[str, dict[str, Any]]:
        name, _, text = reference.partition(":")
        given = parse_options([part for part in text.split(",") if part])
        shared = {key: value for key, value in self.options.items() if key in _fields(name)}
        strategy = strategies.create(name, shared | given)
        changed = {
            field.name: getattr(strategy, field.name)
            for field in dataclasses.fields(strategy)
            if getattr(strategy, field.name) != field.default
        }
        return name, changed

    def _sizes(self, name: str) -> list[int]:
        limit = strategies.find(name).max_replicas
        if limit is None:
            return list(dict.fromkeys(self.replicas))
        if len(self.strategies) == 1 and min(self.replicas) > limit:
            raise UsageError(f"strategy {name} runs at most {limit} replica. Received: {min(self.replicas)}.")
        return list(dict.fromkeys(min(count, limit) for count in self.replicas))

    @cached_property
    def _examples(self) -> int:
        """Number of training examples."""
        return len(split_rows(datasets.parse(self.dataset, self.data_file).info(), self.split)["train"])

    def _common(self) -> dict[str, Any]:
        dataset = datasets.parse(self.dataset, self.data_file)
        optimizer = optimizers.parse(self.optimizer).changed(self.clip_norm, self.accumulate)
        weights = class_weights.parse(self.class_weight or "")
        class_weights.check(weights, dataset.info(), self.dataset)
        if optimizer.accumulate > 1 and self.last_batch == "keep":
            raise UsageError("--accumulate needs batches of one size: use --last-batch drop.")
        self._check_amount(self._examples)
        return {
            "model": self.model,
            "model_digest": sources.digest(self.model),
            "dataset": self.dataset,
            "data_digest": dataset.digest(),
            "data_file": self.data_file,
            "save_model": self.save_model,
            "split": parse_split(self.split),
            "sharding": self.sharding or dataset.sharding,
            "last_batch": self.last_batch,
            "epochs": self.epochs or (None if self.steps else DEFAULT_EPOCHS),
            "steps": self.steps,
            "optimizer": str(optimizer),
            "learning_rate": self.learning_rate or optimizer.default_rate,
            "lr_scaling": self.lr_scaling,
            "reference_batch": self.reference_batch or self.global_batch or self.per_replica_batch,
            # -0.0 equals 0.0, but would give the run another name.
            "warmup_epochs": self.warmup_epochs + 0.0,
            "lr_schedule": self.compiled_schedule or str(parse_schedule(self.lr_schedule)),
            "precision": self.precision or "",
            "class_weight": class_weights.said(weights),
            "seed": self.seed,
            "inject": tuple(sorted(str(parse(text)) for text in self.inject)),
            "timeout": self.timeout,
        }

    def _check_amount(self, examples: int) -> None:
        batch = self.global_batch or (self.per_replica_batch or 0) * max(self.replicas)
        if batch > examples:
            raise UsageError(
                f"the global batch must not exceed the {examples} training examples of {self.dataset}. "
                f"Received: {batch}."
            )

    def _spec(
        self,
        name: str,
        options: dict[str, Any],
        replicas: int,
        per_replica: int,
        common: Mapping[str, Any],
    ) -> RunSpec:
        if self.global_batch is not None and self.global_batch % replicas:
            lower = self.global_batch - self.global_batch % replicas
            near = f"{lower} or {lower + replicas}" if lower else str(replicas)
            raise UsageError(
                f"--global-batch must be divisible by the replicas. Received: {self.global_batch} "
                f"for {replicas} replicas; {near} would do."
            )
        asked = self.global_batch or (self.per_replica_batch or 0) * replicas
        batch = strategies.create(name, options).global_batch(asked, self._examples)
        return RunSpec(
            strategy=name,
            options=options,
            replicas=replicas,
            global_batch=batch,
            per_replica_batch=batch // replicas,
            cores_per_replica=per_replica,
            **common,
        )


@cache
def _input(dataset: str, file: str) -> str:
    # Cached, because info() may read all labels of a file.
    info = datasets.parse(dataset, file).info()
    types = ", ".join(f"{name} {each.dtype}".strip() for name, each in named(info.x))
    return types if info.scale == 1 else f"{types} × {info.scale}"


def read(path: Path) -> RunSpec:
    """The spec that the launcher wrote to a run's folder."""
    return RunSpec.model_validate_json(path.read_text())


def _fields(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(strategies.find(name))}
