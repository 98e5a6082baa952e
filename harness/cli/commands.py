"""The command line. It never loads TensorFlow: only the workers do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ...errors import StratbenchError
from ..plan.task import current_job
from . import spec_file
from .diffing import diff
from .ending import drop_output, fail, fail_unforeseen, prepare_streams
from .exporting import export_command
from .options import spec_options
from .predicting import predict
from .reducing import allreduce
from .reporting import report
from .values import Counts, Folder, Repeats, Until, check_texts


def main() -> None:
    """Entry point: every error that a user can fix is one line on standard error."""
    prepare_streams()
    try:
        check_texts(sys.argv[1:])
        code = cli(prog_name="stratbench", standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(code)
    except StratbenchError as error:
        fail(str(error), error.exit_code)
    except click.Abort:
        fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except BrokenPipeError:
        # The reader of the pipe, such as head, has ended.
        drop_output()
        sys.exit(0)
    except Exception as error:
        fail_unforeseen(error)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="stratbench", message="%(version)s")
def cli() -> None:
    """Which distribution strategy trains this Keras model fastest on this machine, to which accuracy, and why?

    \b
    Start with:
      stratbench doctor                   what can run on this machine
      stratbench compare -s single -s mirrored -s horovod -n 1,2 --dataset mnist-12k --global-batch 128
      stratbench show stratbench-results  print the table again
    """


@cli.command()
@click.option("--strategy", "-s", required=True, help="NAME[:key=value,…]; see 'stratbench list strategies'.")
@click.option("--replicas", "-n", type=int, help="Copies of the model that compute gradients. [default: 1]")
@spec_options
@click.option("--json", "as_json", is_flag=True, help="Print the run's row as JSON.")
def run(strategy: str, replicas: int | None, as_json: bool, **flags: Any) -> int:
    """Train one model by one strategy and print its row.

    The same command again adds a repeat; nothing is overwritten. If horovodrun or mpirun starts this command with
    -s horovod, this process is one of the job's workers, and rank 0 writes the row.

    \b
    Examples:
      stratbench run -s ps:sync=true,ps=2 -n 2 --dataset mnist-12k --global-batch 128 --epochs 2
      horovodrun -np 8 stratbench run -s horovod --dataset mnist-12k --per-replica-batch 32 --steps 100
    """
    from ..job.in_job import joins, run_in_job
    from ..launch.run import free_repeat, statuses
    from ..launch.starter import Starter
    from .grid import Grid
    from .session import run_specs

    job = current_job()
    sizes = [replicas if replicas is not None else job.size if job else 1]
    if job and joins(strategy, sizes[0], job):
        grid = Grid([strategy], sizes, 1, flags, Starter(forks=False), job)
        grid.try_model()
        record = run_in_job(free_repeat(grid.specs[0], statuses(flags["output"])), job, flags["output"])
        _print_run(record.run, as_json)
        return 0 if record.run["status"] == "ok" else 1
    with Starter() as starter:
        grid = Grid([strategy], sizes, 1, flags, starter)
        grid.try_model()
        spec = free_repeat(grid.specs[0], statuses(flags["output"]))
        rows, code = run_specs([spec], flags["output"], starter, grid.why_not)
    for row in rows:
        _print_run(row, as_json)
    return code


@cli.command()
@click.option(
    "--strategy",
    "-s",
    multiple=True,
    required=True,
    help="Repeat for each: NAME[:key=value,…]; 'list strategies' shows them.",
)
@click.option(
    "--replicas",
    "-n",
    type=Counts(),
    multiple=True,
    default=["1"],
    show_default=True,
    help="Numbers of replicas for each strategy.",
)
@click.option(
    "--repeats",
    type=Repeats(),
    default=1,
    show_default=True,
    help="Independent trainings of every spec; 3%: until every rate is known to ±3 % (95 % interval), auto: the same.",
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="FLAG=VALUE,…",
    help="The whole grid for each value of a flag of numbers or choices: global-batch=64,128,256. Repeat for each "
    "combination with another flag: lr-scaling=none,linear,sqrt.",
)
@click.argument("plan", required=False, type=click.Path(path_type=Path), is_eager=True, callback=spec_file.load)
@spec_options
def compare(
    plan: Path | None, strategy: tuple[str, ...], replicas: tuple[list[int], ...], repeats: int | Until, **flags: Any
) -> int:
    """Train the same model by several strategies at several sizes and print the table.

    PLAN is a TOML file with the flags' names as keys, as --spec takes it: strategy = ["single", "mirrored"], and so on.
    With it, a short run of each row tells before how long all will take.

    The same command again skips runs that are 'ok' already and runs the rest. If a strategy can't run here, its row
    says why.

    \b
    Example:
      stratbench compare -s single -s mirrored -s ps -s ps:sync=true -n 1,2,4 --repeats 3 --global-batch 256
      stratbench compare -s single -s mirrored -n 1,2 --sweep lr-scaling=none,linear --sweep global-batch=64,128
      stratbench compare plan.toml --repeats 5
    """
    from ...results.tables.store import HDF5_NAME
    from .comparing import run_grid
    from .session import INTERRUPTED

    grid, code = run_grid(strategy, replicas, repeats, plan, **flags)
    # A command that was stopped while it estimated has no tables.
    if code not in INTERRUPTED.values() or (flags["output"] / HDF5_NAME).exists():
        _print_folder(flags["output"], {spec.run_id for spec in grid.specs})
    return code


cli.add_command(allreduce)
cli.add_command(diff)
cli.add_command(export_command)
cli.add_command(predict)
cli.add_command(report)


@cli.command("list")
@click.argument("kind", type=click.Choice(["strategies", "models", "datasets"]))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str, name: str | None, as_json: bool) -> None:
    """List strategies, models or data sets; with a NAME, show its options and what it needs."""
    from .listing import entries, entry, print_entries, print_entry

    if name:
        found = entry(kind, name)
        click.echo(json.dumps(found, indent=2)) if as_json else print_entry(found)
    else:
        rows = entries(kind)
        click.echo(json.dumps(rows, indent=2)) if as_json else print_entries(rows)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """What can and can't run on this machine, and why."""
    from .doctor import examine, render

    report = examine()
    click.echo(json.dumps(report.to_dict(), indent=2)) if as_json else render(report)
    return 0 if report.ok else 1


@cli.command("install-horovod")
@click.option(
    "--cache",
    type=Folder(),
    help="Folder for the built wheels. [default: ~/.cache/stratbench]",
)
def install_horovod(cache: Path | None) -> None:
    """Build Horovod for the TensorFlow that is installed, and install it (about 3 minutes, once).

    Three things in its source are changed: XLA operations are left out, as they do not compile; Gloo's thread gives
    its core to others while it waits for a lock ("glooyield" in the version); and with Gloo, a tensor wakes Horovod's
    thread, which else looks once in each cycle ("wakes").

    HOROVOD_* variables pass through: HOROVOD_GPU_OPERATIONS=NCCL, HOROVOD_WITH_MPI=1.
    """
    from ..horovod_setup.install import install

    click.echo(install(click.echo, cache) if cache else install(click.echo))


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--across-faults", is_flag=True, help="Compare runs with injected faults with runs without faults.")
@click.option("--target", metavar="METRIC=VALUE", help="Add how long each took to reach it: accuracy=0.97, loss=0.1.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def show(path: Path, across_faults: bool, target: str | None, as_json: bool) -> None:
    """Print the tables of PATH: an output folder, or a results.h5.

    With --target, also how long each took until the metric on the validation examples was as good; with --json, that
    alone, for each run.
    """
    from ...results.showing.plain import to_json
    from .reading import read_runs, read_tables
    from .reducing import show_reductions
    from .targets import print_times

    # A folder may have the tables of allreduce only.
    if not as_json and show_reductions(path) and not (path / "results.h5").exists():
        return
    tables = read_tables(path) if target else None
    runs = tables.runs if tables else read_runs(path)
    if not as_json:
        _print_tables(runs, across_faults)
    if target and tables:
        print_times(tables, target, as_json)
    elif as_json:
        click.echo(to_json(runs))


def _print_run(row: dict[str, Any], as_json: bool) -> None:
    """Print the row. If the run failed, a line on standard error already says so."""
    import pandas as pd

    from ...results.showing.plain import row_to_json

    if as_json:
        click.echo(row_to_json(row))
    elif row["status"] == "ok":
        _print_tables(pd.DataFrame([row]))


def _print_folder(folder: Path, run_ids: set[str]) -> None:
    from ...results.schema import TABLES
    from ...results.tables.csv_tables import name
    from ...results.tables.reading import load_runs

    runs = load_runs(folder)
    chosen = runs[runs["run_id"].isin(run_ids)]
    _print_tables(chosen)
    click.echo(f"\nHDF5: {folder / 'results.h5'}\nCSV:  {', '.join(str(folder / name(table)) for table in TABLES)}")
    if (chosen["profiles"] != "").any():
        click.echo(f"Profiles: tensorboard --logdir {folder / 'runs'}, with pip install tensorboard-plugin-profile")


def _print_tables(runs: Any, across_faults: bool = False) -> None:
    from ...results.showing.terminal import make_console, render

    render(runs, make_console(sys.stdout), across_faults)
