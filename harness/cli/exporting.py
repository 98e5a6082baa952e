"""The command ``stratbench export``: the tables for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from ...results.exporting import FORMATS, export
from .reading import read_tables
from .values import Folder


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "name",
    type=click.Choice(FORMATS),
    required=True,
    help="tensorboard: scalars of steps and epochs, and the HParams page. mlperf: a log for each run, as MLCommons' "
    "tools read it. csv, parquet: a file for each table, and the comparison of 'stratbench show'.",
)
@click.option(
    "--output",
    "-o",
    type=Folder(),
    help="Folder for the files. [default: export-FORMAT beside the tables]",
)
def export_command(path: Path, name: str, output: Path | None) -> None:
    """Write the runs of PATH, an output folder or a results.h5, in the format of another tool.

    Files that an earlier export wrote there are replaced.

    \b
    Examples:
      stratbench export stratbench-results --format tensorboard
      tensorboard --logdir stratbench-results/export-tensorboard
      stratbench export stratbench-results --format parquet -o tables
    """
    # The bar loads much that --help does not need.
    from rich.console import Console

    from .progress import working

    tables = read_tables(path)
    folder = output or (path if path.is_dir() else path.parent) / f"export-{name}"
    with working(Console(stderr=True), "export") as show:
        made = export(tables, name, folder, show)
    click.echo(f"{len(made)} file{'' if len(made) == 1 else 's'} in {folder}")
    if name == "tensorboard":
        click.echo(f"To look at them: tensorboard --logdir {folder}")
