"""The flags that ``run`` and ``compare`` share, and the TOML file that may give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from . import spec_file
from .values import Folder

DEFAULT_OUTPUT = "stratbench-results"

Command = Callable[..., Any]


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
            type=Folder(),
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
            type=click.Path(path_type=Path),
            is_eager=True,
            callback=spec_file.load,
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
