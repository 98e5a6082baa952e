"""The runs that a command's flags ask for. A user's model is tried first, and may choose the optimizer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...errors import UsageError
from ...results.raw.files import shown, why
from ...results.schema import COMPILED_SCHEDULE
from ...strategies import registry as strategies
from ..launch import trying
from ..launch.preparing import Preparing
from ..launch.starter import Starter
from ..plan import bounds, optimizers
from ..plan.experiment import Experiment, expand
from ..plan.learning_rate import CONSTANT
from ..plan.pairs import parse_options
from ..plan.spec import RunSpec
from ..plan.task import Job
from .options import work
from .progress import working
from .sweeping import points


def _check_folder(folder: Path) -> None:
    """Before anything runs. Raises UsageError if there can't be files in the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"--save-model must be a folder for new files: {why(error)}. Received: {shown(folder)}."
        ) from None


class Grid:
    """Every run that the flags request.

    Attributes:
        specs: in order. They may change in `try_model`.

    Args:
        job: in which this process is a worker.

    Raises UsageError for flags that are not possible, and for a data function that can't be used.
    """

    def __init__(
        self,
        strategies: Sequence[str],
        replicas: Sequence[int],
        repeats: int,
        flags: dict[str, Any],
        starter: Starter,
        job: Job | None = None,
    ):
        self._strategies, self._replicas, self._repeats, self._flags = strategies, replicas, repeats, flags
        self._starter, self._job = starter, job
        self._tried = trying.Tried()
        if flags["save_model"]:
            _check_folder(flags["save_model"])
        if (flags["optimizer"] or "").startswith(optimizers.OWN):
            raise UsageError(f"--optimizer must name one of Keras's optimizers. Received: '{flags['optimizer']}'.")
        self._points = points(flags.get("sweep", ()))
        # At least: sizes are not known yet, and a grid of many points takes a while to write out.
        bounds.check_runs(len(set(strategies)) * len(self._points))
        self._data_file = ""
        # Before the user's function is called, which may take a while.
        self._experiments({})
        with working(Console(stderr=True), flags["dataset"]) as show:
            preparing = Preparing(flags["output"], starter, flags["timeout"], self._tell, show)
            self._data_file = preparing.file(flags["dataset"], flags["model"], flags["precision"] or "")
        self.specs = expand(self._experiments({}))

    def _experiments(self, changes: dict[str, Any]) -> list[Experiment]:
        """One for each point of a sweep; ``changes`` of the flags come before it."""
        return [self._experiment(changes | point) for point in self._points]

    def _experiment(self, changes: dict[str, Any]) -> Experiment:
        chosen = work(self._flags) | {"data_file": self._data_file} | changes
        if self._flags["save_model"]:
            # The workers' current folder is this one, but the table's readers may be elsewhere.
            chosen["save_model"] = str(self._flags["save_model"].absolute())
        if chosen["optimizer"] is None:
            del chosen["optimizer"]
        return Experiment(
            strategies=self._strategies,
            replicas=self._replicas,
            repeats=self._repeats,
            options=parse_options(self._flags["option"]),
            **chosen,
        )

    def _tell(self, line: str) -> None:
        """Once for all processes of a job."""
        if not (self._job and self._job.rank):
            click.echo(f"stratbench: {line}", err=True)

    def try_model(self) -> None:
        """Check the model as far as possible before anything runs, and say what of it is not used.

        If the flags name an optimizer, only rank 0 of a job tries a model. Otherwise every rank must know which one the
        model has.

        Raises:
            UsageError: the model can't be trained as the flags say.
        """
        spec, job = self._by_flags, self._job
        if job and job.rank and trying.needs_trial(self.specs) and self._flags["optimizer"] is not None:
            return
        tried = trying.check([spec, *self.specs], self._starter)
        by_strategy = spec.optimizer.startswith(optimizers.OWN)
        own = self._flags["optimizer"] is None and bool(tried.optimizer or tried.problem) and not by_strategy
        words = self._by_strategies()
        if tried.own_optimizers:
            words.append(self._take_own_of_step(tried))
        elif own:
            words += self._take_own(tried)
        if tried.loss not in ("", "loss"):
            words.append(f"the loss of model {spec.model} is {tried.loss}, the first one that its train_step returns")
        if tried.unevaluated:
            words.append(
                f"model {spec.model} can't be evaluated, so its rows have no test figures: {tried.unevaluated}"
            )
        if unused := tried.unused_by_own if own else tried.unused:
            words.append(f"not used of model {spec.model}: {unused}")
        if tried.own_step and any(each.replicas > 1 for each in self.specs):
            words.append(
                f"whether several replicas train what one does is not checked for the train_step of {spec.model}"
            )
        for line in words:
            self._tell(line)
        self._tried = tried
        if job and (reason := self.why_not(self.specs[0])):
            raise UsageError(f"model {spec.model} can't be trained so: {reason}")

    @property
    def _by_flags(self) -> RunSpec:
        """The first spec that has the optimizer, rate and schedule of the flags: a strategy may have its own."""
        return min(self.specs, key=lambda each: each.optimizer.startswith(optimizers.OWN))

    def _by_strategies(self) -> list[str]:
        """What trains in place of the flags' optimizer, of each strategy that has its own."""
        own = dict.fromkeys((each.strategy, each.optimizer) for each in self.specs)
        return [
            f"{name} trains by {optimizer.removeprefix(optimizers.OWN)}, whatever --optimizer, --clip-norm and the "
            "learning rate's flags say"
            for name, optimizer in own
            if optimizer.startswith(optimizers.OWN)
        ]

    def why_not(self, spec: RunSpec) -> str:
        """Why this run would fail, or not train what one replica does, by what the trial found; empty otherwise."""
        if self._tried.same and spec.create_strategy().new_models:
            return (
                f"{spec.model} returns one and the same model at each call, and {spec.strategy} needs a new one; "
                "make the model within the function"
            )
        if reason := self._tried.unfit.get(spec.variant):
            return reason
        if self._tried.own_step and not spec.create_strategy().runs_own_steps:
            able = ", ".join(name for name, cls in strategies.available().items() if cls.runs_own_steps)
            return f"the model has a train_step of its own, which {spec.strategy} can't call; use one of {able}"
        if self._tried.scales_loss and (reason := spec.create_strategy().skip_loss_scaling()):
            return reason
        if not spec.create_strategy().divides(spec.replicas):
            return ""
        if self._tried.alone or not self._tried.normalised:
            return self._tried.alone
        if spec.last_batch == "keep":
            return (
                "its loss is a mean over what a mask leaves, or over sample weights, which needs batches of one size; "
                "use --last-batch drop"
            )
        if spec.jit == "on":
            return (
                "its loss is a mean over what a mask leaves, or over sample weights, which processes exchange within "
                "the step; XLA can't compile that: use --jit off or auto"
            )
        return spec.create_strategy().skip_normaliser() or ""

    def _take_own_of_step(self, tried: trying.Tried) -> str:
        """Train with the optimizers of the model's own ``train_step``, and say which they are."""
        given = ("optimizer", "learning_rate", "clip_norm", "accumulate")
        if flags := [f"--{name.replace('_', '-')}" for name in given if self._is_given(name)]:
            raise UsageError(
                f"model {self.specs[0].model} is trained by the optimizers of its own train_step, "
                f"{tried.own_optimizers}: {' and '.join(flags)} can't change them; leave that out."
            )
        self.specs = expand(self._experiments({"optimizer": optimizers.OWN + tried.own_optimizers}))
        spec = self.specs[0]
        rules = {(each.lr_scaling, each.warmup_epochs, each.lr_schedule) for each in self.specs}
        if tried.own_schedule and rules != {("none", 0.0, CONSTANT)}:
            raise UsageError(
                f"--lr-scaling, --warmup-epochs and --lr-schedule can't change the schedule that model {spec.model} "
                f"gives to {tried.own_schedule}; leave them out."
            )
        return f"model {spec.model} is trained by the optimizers of its own train_step, {tried.own_optimizers}"

    def _is_given(self, name: str) -> bool:
        """Whether the flag has a value, or is swept."""
        return self._flags[name] is not None or name in self._points[0]

    def _take_own(self, tried: trying.Tried) -> list[str]:
        """Train with the model's own optimizer, and say which it is, unless it is the default one anyway."""
        if tried.problem:
            raise UsageError(f"{tried.problem} Choose another one by --optimizer.")
        rate = self._flags["learning_rate"] or tried.learning_rate
        before = self._by_flags
        rated = self._is_given("learning_rate")
        scheduled = bool(tried.schedule) and not rated and before.lr_schedule == CONSTANT
        if tried.schedule and not scheduled and not rated:
            raise UsageError(
                f"--lr-schedule replaces the schedule of model {before.model}, {tried.schedule}. "
                "Give --learning-rate, too."
            )
        own = {"compiled_schedule": COMPILED_SCHEDULE + tried.schedule} if scheduled else {}
        self.specs = expand(self._experiments({"optimizer": tried.optimizer, "learning_rate": rate} | own))
        if (before.optimizer, before.learning_rate, scheduled) == (tried.optimizer, rate, False):
            return []
        ours = [each for each in self.specs if not each.optimizer.startswith(optimizers.OWN)]
        rates = ", ".join(dict.fromkeys(f"{each.learning_rate:g}" for each in ours))
        given = tried.schedule if scheduled else rates
        return [f"model {before.model} is trained by its own optimizer, {tried.optimizer}, learning rate {given}"]
