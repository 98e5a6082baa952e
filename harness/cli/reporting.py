"""The command ``stratbench report``: a page with the answer in words, tables and pictures."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import RunError
from .reading import read_runs, read_tables
from .values import Folder


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The page to write. [default: report.html beside the tables]",
)
@click.option("--figures", type=Folder(), help="Folder for the pictures as SVG and PNG files.")
@click.option("--json", "as_json", is_flag=True, help="Print what the page says as JSON; write no page.")
def report(path: Path, output: Path | None, figures: Path | None, as_json: bool) -> None:
    """Write a page about the runs of PATH: an output folder, or a results.h5.

    The page is one file and needs no network: which strategy trains fastest, by how much and how sure that is, then
    every figure with its interval and its runs, and pictures.

    \b
    Examples:
      stratbench report stratbench-results
      stratbench report stratbench-results -o monday.html --figures pictures
    """
    if as_json:
        from ...results.showing.plain import answers_to_json

        click.echo(answers_to_json(read_runs(path)))
        return
    tables = read_tables(path)
    # Altair takes a second to import: what can't be read is told before.
    from ...results.page.figures import save
    from ...results.page.page import build

    target = output or (path if path.is_dir() else path.parent) / "report.html"
    try:
        target.write_text(build(tables, path.resolve().name), encoding="utf-8")
        made = save(tables, figures) if figures else []
    except OSError as error:
        raise RunError(f"the report can't be written: {error.strerror}. Received: {error.filename}") from None
    click.echo(f"Report: {target}")
    if figures:
        click.echo(f"Pictures: {len(made)} files in {figures}")
