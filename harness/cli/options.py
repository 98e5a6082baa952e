"""The flags of both ``run`` and ``compare``, and the TOML file that may set them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from . import spec_file
from .values import Folder

DEFAULT_OUTPUT = "stratbench-results"

WORK = (
    *("model", "dataset", "split", "sharding", "global_batch", "per_replica_batch", "last_batch", "epochs", "steps"),
    *("optimizer", "clip_norm", "accumulate", "learning_rate", "lr_scaling", "reference_batch", "warmup_epochs"),
    *("lr_schedule", "precision", "jit", "class_weight", "evaluate_every", "seed", "cores_per_replica"),
    *("inject", "profile", "timeout"),
)
"""Parameters that describe the work, as `Experiment` names them."""

Command = Callable[..., Any]


def spec_options(command: Command) -> Command:
    """Add every flag that describes the work to ``run`` or ``compare``."""
    options = [
        click.option(
            "--model",
            default="cnn",
            show_default=True,
            help="package.module:function, keras.applications:NAME, or one of 'list models'.",
        ),
        click.option(
            "--dataset",
            default="mnist",
            show_default=True,
            metavar="REF",
            help="NAME[:ARGUMENT][,key=value…], or package.module:function; see 'stratbench list datasets'.",
        ),
        click.option(
            "--split",
            default="default",
            show_default=True,
            help="Train/validation/test, as 60/20/20 percent of all examples; default keeps the data set's test set.",
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
            help="Per step over all replicas (strong scaling).",
        ),
        click.option("--per-replica-batch", type=int, metavar="EXAMPLES", help="Per step and replica (weak scaling)."),
        click.option(
            "--last-batch",
            type=click.Choice(["drop", "keep"]),
            default="drop",
            show_default=True,
            help="An epoch's incomplete batch; keep needs a strategy that weighs shards by examples.",
        ),
        click.option("--epochs", type=int, help="Passes over the training set. [default: 3, unless --steps]"),
        click.option("--steps", type=int, help="Updates, instead of --epochs."),
        click.option(
            "--optimizer",
            metavar="NAME[:key=value,…]",
            help="An optimizer of Keras with its settings: sgd, adam, adamw:weight_decay=0.01, rmsprop, lion, …; "
            "momentum is sgd with momentum 0.9. [default: the one that the model is compiled with, else adam]",
        ),
        click.option(
            "--clip-norm",
            type=float,
            metavar="NORM",
            help="Scale the mean gradient down where the norm of all of it is larger.",
        ),
        click.option(
            "--accumulate",
            type=int,
            metavar="STEPS",
            help="One update by the mean gradient of so many steps, and one exchange. A step still has a global batch.",
        ),
        click.option(
            "--learning-rate",
            type=float,
            help="[default: that of the model's own optimizer; else 0.1 for sgd, 0.02 for momentum, 0.01 for adagrad, "
            "0.001 for others]",
        ),
        click.option(
            "--lr-scaling",
            type=click.Choice(["none", "linear", "sqrt"]),
            default="none",
            show_default=True,
            help="How the learning rate grows with global batch / reference batch.",
        ),
        click.option(
            "--reference-batch",
            type=int,
            help="Batch that --learning-rate is for. [default: that of this command; of a sweep, the smallest]",
        ),
        click.option(
            "--warmup-epochs",
            type=float,
            default=0.0,
            show_default=True,
            help="Epochs until the learning rate reaches its scaled value.",
        ),
        click.option(
            "--lr-schedule",
            metavar="SCHEDULE",
            default="constant",
            show_default=True,
            help="How the learning rate falls after the warm-up: cosine[:end=0.1] and exponential[:end=0.01] reach "
            "that share of it at the run's end; step[:every=30,factor=0.1] multiplies it every 30 epochs "
            "[every: a third of the run].",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "mixed_float16", "mixed_bfloat16"]),
            help="Keras's dtype policy for layers that don't set one. mixed_float16 scales the loss, as Keras does. "
            "[default: the model's own]",
        ),
        click.option(
            "--jit",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="Whether XLA compiles the forward and backward pass; auto as the model's jit_compile says, or else as "
            "Keras: on GPUs, but not under tf.distribute.",
        ),
        click.option(
            "--class-weight",
            metavar="CLASS=WEIGHT,…",
            help="Factors on the training loss of examples of a class, as class_weight of fit: 0=1,1=20.",
        ),
        click.option(
            "--evaluate-every",
            metavar="STEPS|EPOCHS",
            default="1epoch",
            show_default=True,
            help="When the weights are kept, to be evaluated after training: 500steps, or 2epochs. Those after the "
            "last step always are.",
        ),
        click.option(
            "--seed", type=int, default=1, show_default=True, help="Seed of initial weights and order of examples."
        ),
        click.option(
            "--cores-per-replica",
            type=int,
            help="[default: this machine's cores / largest number of replicas]",
        ),
        click.option(
            "--option",
            "-o",
            multiple=True,
            metavar="KEY=VALUE",
            help="Option of a strategy; see 'stratbench list strategies'.",
        ),
        click.option(
            "--inject",
            multiple=True,
            metavar="FAULT",
            help="Slow down, kill or pause a task: slow:worker=1,factor=3; "
            "slow:worker=1,seconds=0.05,probability=0.1; kill:worker=1,step=50; kill:ps=0,step=50; "
            "pause:worker=1,step=50,seconds=10. Repeat for more.",
        ),
        click.option(
            "--profile",
            type=int,
            metavar="STEPS",
            help="Record so many steps of each worker with TensorFlow's profiler, and Horovod's timeline, in the "
            "run's folder: tensorboard --logdir opens it. Rates leave these steps out.",
        ),
        click.option(
            "--output",
            type=Folder(),
            default=DEFAULT_OUTPUT,
            show_default=True,
            help="Folder for tables, logs and records.",
        ),
        click.option(
            "--save-model",
            type=Folder(),
            help="Folder for the trained models, each as RUN.keras. They have no optimizer state.",
        ),
        click.option(
            "--timeout",
            type=float,
            default=300.0,
            show_default=True,
            metavar="SECONDS",
            help="End a run after so many seconds without progress.",
        ),
        click.option(
            "--spec",
            type=click.Path(path_type=Path),
            is_eager=True,
            callback=spec_file.load,
            help="TOML file with these flags' names as keys; flags on the command line override it.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def work(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that describe the work, as `Experiment` names them.

    If two flags exclude each other, the one on the command line replaces the one of the spec file.
    """
    chosen = {name: flags[name] for name in WORK}
    source = click.get_current_context().get_parameter_source
    for pair in (("global_batch", "per_replica_batch"), ("epochs", "steps")):
        for here, there in (pair, pair[::-1]):
            if source(here) is ParameterSource.COMMANDLINE and source(there) is ParameterSource.DEFAULT_MAP:
                chosen[there] = None
    return chosen
