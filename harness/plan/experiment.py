"""A grid of runs: every strategy at every number of replicas, from what the command line or a TOML file says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...datasets import base as datasets
from ...datasets.split import parse_split, split_rows
from ...errors import UsageError
from ...strategies import registry as strategies
from ...strategies.base import Strategy
from . import bounds, class_weights, cores, evaluations, optimizers, rounds, sources
from .faults import parse
from .learning_rate import CONSTANT
from .learning_rate import parse as parse_schedule
from .references import option_names, variant
from .spec import DEFAULT_TIMEOUT_SECONDS, RunSpec

DEFAULT_EPOCHS = 3


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
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] | None = None
    jit: Literal["auto", "on", "off"] = "auto"
    class_weight: str | None = None
    evaluate_every: str = evaluations.EVERY_EPOCH
    seed: int = 1
    cores_per_replica: int | None = None
    inject: Sequence[str] = ()
    profile: int | None = None
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
        evaluations.parse(self.evaluate_every)
        return self

    def expand(self) -> list[RunSpec]:
        """Every run of the grid: see `expand`."""
        return expand([self])

    def grid(self) -> list[RunSpec]:
        """Every spec, without repeats. A strategy that can't scale, such as ``single``, runs at one size only."""
        variants = self._variants()
        for key in self.options:
            if not any(key in option_names(name) for name, _ in variants):
                strategies.create(variants[0][0], {key: self.options[key]})
        sizes = [self._sizes(*variant) for variant in variants]
        bounds.check_runs(sum(map(len, sizes)) * self.repeats)
        per_replica = self.cores_per_replica or max(1, len(cores.usable()) // max(map(max, sizes)))
        common = self._common()
        grid = [
            self._spec(name, options, replicas, per_replica, common)
            for (name, options), counts in zip(variants, sizes, strict=True)
            for replicas in counts
        ]
        self._check_faults(grid)
        return grid

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
        return [variant(reference, self.options) for reference in references]

    def _sizes(self, name: str, options: Mapping[str, Any]) -> list[int]:
        limit = strategies.create(name, options).max_replicas
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
        every = str(evaluations.parse(self.evaluate_every))
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
            "jit": "" if self.jit == "auto" else self.jit,
            "class_weight": class_weights.said(weights),
            "evaluate_every": "" if every == evaluations.EVERY_EPOCH else every,
            "seed": self.seed,
            "inject": tuple(sorted(str(parse(text)) for text in self.inject)),
            "profile": self.profile or 0,
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
        strategy = strategies.create(name, options)
        batch = strategy.global_batch(asked, self._examples)
        spec = RunSpec(
            strategy=name,
            options=options,
            replicas=replicas,
            global_batch=batch,
            per_replica_batch=batch // replicas,
            cores_per_replica=per_replica,
            **{**common, **_optimizer_of(strategy, common["optimizer"])},
        )
        accumulate = optimizers.parse(spec.optimizer).accumulate
        bounds.check_profile(spec.profile, spec.total_steps(self._examples), accumulate, strategy.together)
        return spec


def expand(experiments: Sequence[Experiment]) -> list[RunSpec]:
    """Every run of these grids, round by round: see `rounds`. Repeats and the order are those of the first."""
    grid = list({spec.run_id: spec for each in experiments for spec in each.grid()}.values())
    repeats, seed = experiments[0].repeats, experiments[0].seed
    bounds.check_runs(len(grid) * repeats)
    return [
        grid[number].model_copy(update={"repeat": repeat})
        for repeat, order in enumerate(rounds.orders(len(grid), repeats, seed))
        for number in order
    ]


def _optimizer_of(strategy: Strategy, optimizer: str) -> dict[str, Any]:
    """What a spec says of a strategy's own optimizer. One that is to accumulate is left to the strategy to refuse."""
    chosen = optimizers.parse(optimizer)
    if not strategy.own_optimizer or chosen.own or chosen.accumulate > 1:
        return {}
    own = optimizers.OWN + strategy.own_optimizer
    rate = optimizers.parse(own).default_rate
    return {
        "optimizer": own,
        "learning_rate": rate,
        "lr_scaling": "none",
        "warmup_epochs": 0.0,
        "lr_schedule": CONSTANT,
    }
