"""The flags that ``run`` and ``compare`` share, and the TOML file that may give them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ...errors import UsageError
from .paths import AnyPath

DEFAULT_OUTPUT = "stratbench-results"

Command = Callable[..., Any]


class Counts(click.ParamType):
    """``1,2,4`` → [1, 2, 4]."""

    name = "N[,N…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """One flag's numbers."""
        parts = value if isinstance(value, list) else str(value).split(",")
        try:
            return [int(part) for part in parts]
        except ValueError:
            self.fail(f"replicas must be whole numbers such as 1,2,4. Received: '{value}'.", param, ctx)


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the file's values the flags' defaults, so that flags on the command line win."""
    if path is not None:
        ctx.default_map = _read(path, ctx.command)
    return path


def _read(path: Path, command: click.Command) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"the spec file can't be read: {error.strerror}. Received: {path}.") from None
    except ValueError as error:
        raise UsageError(f"the spec file must be TOML: {error}. Received: {path}.") from None
    flags = {str(flag.name): flag for flag in command.params if flag.name not in ("spec", "as_json")}
    values = {}
    for written, value in content.items():
        key = written.replace("-", "_")
        if key not in flags:
            near = difflib.get_close_matches(key, flags, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" It takes {', '.join(sorted(flags))}."
            raise UsageError(f"{path}: a spec has these flags' names as keys. Received: '{written}'.{hint}")
        values[key] = _value(path, flags[key], value)
    return values


def _value(path: Path, flag: click.Parameter, value: Any) -> Any:
    """What click makes of the flag's text, as click would silently make 32 of 32.5 and 1 of true."""
    if flag.name == "option" and isinstance(value, dict):
        return [f"{key}={str(each).lower() if isinstance(each, bool) else each}" for key, each in value.items()]
    several = isinstance(value, list) and (flag.multiple or isinstance(flag.type, Counts))
    parts = value if several else [value]
    for part in parts:
        if isinstance(flag.type, click.types.IntParamType | Counts):
            fits, kind = isinstance(part, int) and not isinstance(part, bool), "a whole number"
        elif isinstance(flag.type, click.types.FloatParamType):
            fits, kind = isinstance(part, int | float) and not isinstance(part, bool), "a number"
        else:
            fits, kind = isinstance(part, str), "text in quotes"
        if not fits:
            raise UsageError(f"{path}: {flag.name} must be {kind}. Received: {part!r}.")
    if isinstance(flag.type, Counts):
        return [parts]
    return parts if flag.multiple else value


def spec_options(command: Command) -> Command:
    """Every flag that describes the work, for ``run`` and ``compare`` alike."""
    options = [
        click.option(
            "--model", default="cnn", show_default=True, help="cnn, mlp, mlp-wide or package.module:function."
        ),
        click.option(
            "--dataset",
            default="mnist",
            show_default=True,
            metavar="REF",
            help="NAME[:ARGUMENT][,key=value…]; see 'stratbench list datasets'.",
        ),
        click.option(
            "--split",
            default="default",
            show_default=True,
            help="Train/validation/test, as 60/20/20 of all examples; default keeps the data set's own test set.",
        ),
        click.option(
            "--sharding",
            type=click.Choice(["batch", "static"]),
            help="Each process reads a slice of every global batch, or its own fixed part of the data set. "
            "[default: the data set's]",
        ),
        click.option(
            "--global-batch",
            type=int,
            metavar="EXAMPLES",
            help="Per update over all replicas (strong scaling).",
        ),
        click.option(
            "--per-replica-batch", type=int, metavar="EXAMPLES", help="Per update and replica (weak scaling)."
        ),
        click.option(
            "--last-batch",
            type=click.Choice(["drop", "keep"]),
            default="drop",
            show_default=True,
            help="An epoch's incomplete batch; keep is for strategies that weigh shards by examples.",
        ),
        click.option("--epochs", type=int, help="Passes over the training set. [default: 3, unless --steps]"),
        click.option("--steps", type=int, help="Updates, in place of --epochs."),
        click.option(
            "--optimizer",
            type=click.Choice(["sgd", "momentum", "adam", "adagrad"]),
            default="adam",
            show_default=True,
            help="momentum is SGD with 0.9.",
        ),
        click.option(
            "--learning-rate",
            type=float,
            help="[default: 0.1 for sgd, 0.02 for momentum, 0.001 for adam, 0.01 for adagrad]",
        ),
        click.option(
            "--lr-scaling",
            type=click.Choice(["none", "linear", "sqrt"]),
            default="none",
            show_default=True,
            help="How the rate grows with global batch / reference batch.",
        ),
        click.option("--reference-batch", type=int, help="Batch that --learning-rate is for. [default: 1 replica's]"),
        click.option(
            "--warmup-epochs",
            type=float,
            default=0.0,
            show_default=True,
            help="Epochs to grow to the scaled rate.",
        ),
        click.option(
            "--seed", type=int, default=1, show_default=True, help="Of initial weights and order of examples."
        ),
        click.option(
            "--cores-per-replica",
            type=int,
            help="[default: this machine's cores / the most replicas asked for]",
        ),
        click.option(
            "--option",
            "-o",
            multiple=True,
            metavar="KEY=VALUE",
            help="A strategy's own; see 'stratbench list strategies'.",
        ),
        click.option(
            "--inject",
            multiple=True,
            metavar="FAULT",
            help="Make a task slow, kill or pause it: slow:worker=1,factor=3; "
            "slow:worker=1,seconds=0.05,probability=0.1; kill:worker=1,step=50; kill:ps=0,step=50; "
            "pause:worker=1,step=50,seconds=10. Repeat for more.",
        ),
        click.option(
            "--output",
            type=AnyPath(file_okay=False),
            default=DEFAULT_OUTPUT,
            show_default=True,
            help="Folder for tables, logs and records.",
        ),
        click.option(
            "--timeout",
            type=float,
            default=300.0,
            show_default=True,
            metavar="SECONDS",
            help="End a run that stalls so long.",
        ),
        click.option(
            "--spec",
            type=click.Path(path_type=Path, dir_okay=False),
            is_eager=True,
            callback=_load,
            help="TOML file with these flags' names as keys; flags given here win.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def work(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that describe the work, as `Experiment` names them.

    Of two that exclude each other, the one on the command line puts away the one of the spec file.
    """
    names = (
        "model dataset split sharding global_batch per_replica_batch last_batch epochs steps optimizer learning_rate "
        "lr_scaling reference_batch warmup_epochs seed cores_per_replica inject timeout"
    )
    chosen = {name: flags[name] for name in names.split()}
    source = click.get_current_context().get_parameter_source
    for pair in (("global_batch", "per_replica_batch"), ("epochs", "steps")):
        for here, there in (pair, pair[::-1]):
            if source(here) is ParameterSource.COMMANDLINE and source(there) is ParameterSource.DEFAULT_MAP:
                chosen[there] = None
    return chosen
