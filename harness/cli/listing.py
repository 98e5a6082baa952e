"""What ``stratbench list`` shows about strategies, models and data sets."""

from __future__ import annotations

import difflib
import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from ...datasets import base as datasets
from ...errors import UsageError
from ...results.showing.report import make_console
from ...strategies import registry as strategies
from ..plan import models

_NARROW = 4
_LEGEND = (
    "N replicas, W bytes of the weights, S bytes of the optimizer state; traffic is that of a worker in a step, memory "
    "that of a worker's weights and state. More about one: stratbench list strategies NAME"
)


def entries(kind: str) -> list[dict[str, Any]]:
    """A dict for each of the ``strategies``, ``models`` or ``datasets``: at least name and summary."""
    if kind == "strategies":
        keys = ("name", "synchronous", "consistent", "traffic", "memory", "failure", "summary")
        return [{key: strategies.describe(cls)[key] for key in keys} for cls in strategies.available().values()]
    if kind == "models":
        known = {name: cls.summary for name, cls in models.available().items()}
        return [{"name": name, "summary": text} for name, text in (known | models.OTHERS).items()]
    return [
        {key: datasets.describe(cls)[key] for key in ("name", "summary", "licence")}
        for cls in datasets.available().values()
    ]


def entry(kind: str, name: str) -> dict[str, Any]:
    """Everything about one of them. Raises UsageError for an unknown name."""
    if kind == "strategies":
        return strategies.describe(strategies.find(name))
    if kind == "models":
        return models.describe(name)
    found = datasets.available()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"data set must be one of {', '.join(found)}. Received: '{name}'.{hint}")
    return datasets.describe(found[name])


def print_entries(rows: list[dict[str, Any]]) -> None:
    """Print a table for people; if there are many columns, the summaries are below the table."""
    keys = list(rows[0])
    wide = len(keys) > _NARROW
    columns = [key for key in keys if not (wide and key == "summary")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in columns:
        table.add_column(key, overflow="fold", no_wrap=key == "name")
    for row in rows:
        table.add_row(*(Text(_text(row[key])) for key in columns))
    console = make_console(sys.stdout)
    console.print(table)
    if wide:
        console.print("")
        for row in rows:
            console.print(Text.assemble((row["name"], "bold"), f"  {row['summary']}"))
        console.print(Text(f"\n{_LEGEND}"), style="dim")


def print_entry(found: dict[str, Any]) -> None:
    """Print its properties, options and documentation."""
    console = make_console(sys.stdout)
    for key, value in found.items():
        if key not in ("options", "documentation") and value is not None:
            console.print(Text.assemble((key, "bold"), f"  {_text(value)}"))
    if found["options"]:
        table = Table("option", "type", "default", "what it does", box=None, pad_edge=False, header_style="bold")
        for option in found["options"]:
            table.add_row(*(Text(_text(option[key])) for key in ("name", "type", "default", "help")))
        console.print("", table)
    if found.get("documentation"):
        console.print(f"\n{found['documentation']}", markup=False, highlight=False)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
