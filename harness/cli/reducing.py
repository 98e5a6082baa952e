"""The command ``stratbench allreduce``: what an all-reduce takes by itself, by every transport."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import ResultsError, UsageError
from ..plan.task import MOST_REPLICAS, current_job
from .options import DEFAULT_OUTPUT
from .values import Counts, Folder

if TYPE_CHECKING:
    from ..launch.starter import Starter
    from ..plan.reduction import Case, ReductionSpec

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MOST_BYTES = 2**34


class Size(click.ParamType):
    """``64KiB`` → 65536."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes, of whole float32 values."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", value.strip(), re.IGNORECASE | re.ASCII)
        unit = _UNITS.get(found[2].upper()) if found else None
        size = int(found[1]) * unit if found and unit else 0
        if size % 4 or not 4 <= size <= _MOST_BYTES:
            self.fail(
                f"a size must be a multiple of 4 bytes, from 4B to 16GiB, such as 64KiB or 1MiB. Received: '{value}'.",
                param,
                ctx,
            )
        return size


@click.command()
@click.option(
    "--strategy",
    "-s",
    multiple=True,
    help="Repeat for each: NAME[:key=value,…], a strategy whose all-reduce can be measured by itself. [default: all of "
    "them, with every algorithm of allreduce]",
)
@click.option(
    "--replicas",
    "-n",
    type=Counts(),
    multiple=True,
    default=["2"],
    show_default=True,
    help="Numbers of replicas that reduce together: processes, or the devices of one with mirrored.",
)
@click.option("--min-size", type=Size(), default="1KiB", show_default=True, help="Smallest vector.")
@click.option("--max-size", type=Size(), default="256MiB", show_default=True, help="Largest vector, at most.")
@click.option(
    "--factor", type=click.IntRange(2, 1024), default=4, show_default=True, help="From one size to the next one."
)
@click.option(
    "--iterations",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Reductions of each size; fewer of large ones, but at least 5.",
)
@click.option("--model", metavar="MODEL", help="Reduce tensors in the shapes of this model's trained weights, too.")
@click.option(
    "--dataset", default="synthetic", show_default=True, metavar="REF", help="Data that the model is built for."
)
@click.option(
    "--cores-per-replica",
    type=click.IntRange(1, 4096),
    help="[default: this machine's cores / largest number of processes]",
)
@click.option("--output", type=Folder(), default=DEFAULT_OUTPUT, show_default=True, help="Folder for tables and logs.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 2**31, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="End a transport after so many seconds without progress.",
)
def allreduce(
    strategy: tuple[str, ...],
    replicas: tuple[list[int], ...],
    min_size: int,
    max_size: int,
    factor: int,
    iterations: int,
    model: str | None,
    dataset: str,
    cores_per_replica: int | None,
    output: Path,
    timeout: float,
) -> int:
    """Time the all-reduce of each transport by itself: what exchanging gradients costs at least.

    Every replica reduces float32 vectors of growing size. A row has the median of the slowest process, the algorithm's
    bandwidth S/t and the bus bandwidth 2(N−1)/N·S/t, as in nccl-tests, and the bytes and rounds by the formula beside
    those counted. The first row of figures, memory, is what copying takes: on one host, no all-reduce is faster.

    \b
    Examples:
      stratbench allreduce -n 2,4
      stratbench allreduce -s horovod -s allreduce:algorithm=tree --max-size 1MiB --model keras.applications:ResNet50
    """
    from ...results.reductions.columns import VECTOR
    from ...results.reductions.tables import load
    from ...strategies import registry as strategies
    from ..launch.starter import Starter
    from ..plan import cores
    from ..plan.reduction import MEMORY, ReductionSpec, case, sizes
    from ..plan.references import variant

    job = current_job()
    if job and job.size > 1:
        raise UsageError(f"allreduce starts its own jobs and can't run inside one of {job.size} processes.")
    counts = _counts(replicas)
    if max_size < min_size:
        raise UsageError(f"--max-size must be no less than --min-size. Received: {max_size} for {min_size} bytes.")
    every = [each for cls in strategies.available().values() for each in cls.transports]
    variants = [variant(each, {}) for each in dict.fromkeys(strategy or every)]
    per_replica = cores_per_replica or max(1, len(cores.usable()) // max(counts))
    with Starter() as starter:
        cases = [case(VECTOR, ((size // 4,),), iterations) for size in sizes(min_size, max_size, factor)]
        if model:
            cases.append(_model_case(model, dataset, output, timeout, iterations, starter))
        specs = [
            ReductionSpec(
                strategy=name,
                options=options,
                replicas=count,
                cases=tuple(cases),
                cores_per_replica=per_replica,
                timeout=timeout,
            )
            for count in counts
            for name, options in [(MEMORY, {}), *variants]
        ]
        code, done = _reduce(specs, output, starter)
    _print(load(output), done, output)
    return code


def _counts(replicas: tuple[list[int], ...]) -> list[int]:
    counts = list(dict.fromkeys(count for each in replicas for count in each))
    for count in counts:
        if not 2 <= count <= MOST_REPLICAS:
            raise UsageError(f"--replicas must be from 2 to {MOST_REPLICAS} for an all-reduce. Received: {count}.")
    return counts


def _model_case(model: str, dataset: str, output: Path, timeout: float, iterations: int, starter: Starter) -> Case:
    """The shapes of the model's trained weights, from a process that builds it."""
    from rich.console import Console

    from ..launch.asking import ask
    from ..launch.preparing import Preparing
    from ..plan import models
    from ..plan.experiment import Experiment
    from ..plan.reduction import case
    from .progress import working

    models.check_reference(model)
    with working(Console(stderr=True), dataset) as show:
        preparing = Preparing(output, starter, timeout, lambda line: click.echo(f"stratbench: {line}", err=True), show)
        file = preparing.file(dataset, model, "")
    work: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "data_file": file,
        "global_batch": 1,
        "steps": 1,
        "timeout": timeout,
    }
    (run,) = Experiment(strategies=["single"], **work).expand()
    with tempfile.TemporaryDirectory(prefix="stratbench-") as folder:
        module = "stratbench.harness.worker.tensors"
        found = ask(module, run.model_dump_json(), Path(folder), starter, timeout, f"model {model} can't be built")
    if "refused" in found:
        raise UsageError(found["refused"])
    if not found["shapes"]:
        raise UsageError(f"--model must have weights that are trained. Received: {model}.")
    return case(model, tuple(map(tuple, found["shapes"])), iterations)


def _reduce(specs: list[ReductionSpec], output: Path, starter: Starter) -> tuple[int, set[str]]:
    """The exit code, as of `stratbench.harness.cli.session.run_specs`, and the ids of what was measured."""
    from rich.console import Console

    from ...results.reductions.tables import ReductionStore
    from ..launch.reducing import reduce_all
    from .progress import ReductionProgress
    from .session import INTERRUPTED, stopping

    statuses, done = [], set()
    try:
        store = ReductionStore(output)
    except ResultsError as error:
        raise UsageError(str(error)) from None
    with store, stopping() as stop, ReductionProgress(Console(stderr=True), specs) as progress:
        for spec, row in reduce_all(specs, store, stop.event, progress.begin, starter):
            progress.end(spec, row)
            statuses += [] if spec.copies else [row["status"]]
            done.add(row["run_id"])
    if stop.signal is not None:
        return INTERRUPTED[stop.signal], done
    bad = any(status in ("failed", "timeout") for status in statuses) or (statuses and "ok" not in statuses)
    return int(bool(bad)), done


def show_reductions(path: Path) -> bool:
    """Print the tables of all-reduces that an output folder has; False if it has none. Raises UsageError."""
    from ...results.raw.files import file_kind
    from ...results.reductions.report import render
    from ...results.reductions.tables import NAME, load
    from ...results.showing.terminal import make_console

    try:
        there = file_kind(path / NAME)
    except OSError:
        there = None
    if there is None:
        return False
    try:
        tables = load(path)
    except ResultsError as error:
        raise UsageError(str(error)) from None
    render(tables, make_console(sys.stdout))
    return True


def _print(tables: Any, done: set[str], output: Path) -> None:
    from ...results.reductions.report import render
    from ...results.reductions.tables import NAME, csv_name
    from ...results.showing.terminal import make_console

    chosen = {each: frame[frame["run_id"].isin(done)] for each, frame in vars(tables).items()}
    render(type(tables)(**chosen), make_console(sys.stdout))
    csv = ", ".join(str(output / csv_name(each)) for each in chosen)
    click.echo(f"\nHDF5: {output / NAME}\nCSV:  {csv}")
