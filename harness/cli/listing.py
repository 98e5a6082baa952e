"""What ``stratbench list`` shows about strategies, models and data sets."""

from __future__ import annotations

import difflib
import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from ...datasets import base as datasets
from ...errors import UsageError
from ...results.showing.terminal import make_console
from ...strategies import registry as strategies
from ...strategies.base import FAMILIES
from ..plan import models

_LEGEND = (
    "N replicas, W bytes of the weights, S bytes of the optimizer state; traffic is that of a worker in a step, memory "
    "that of a worker's weights and state. More about one: stratbench list strategies NAME"
)


def entries(kind: str) -> list[dict[str, Any]]:
    """A dict for each of the ``strategies``, ``models`` or ``datasets``: at least name and summary."""
    if kind == "strategies":
        keys = ("name", "family", "synchronous", "consistent", "traffic", "memory", "failure", "summary", "good_for")
        found = [strategies.describe(cls) for cls in strategies.available().values()]
        return [{key: each[key] for key in keys} for family in FAMILIES for each in found if each["family"] == family]
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
    """Print a table for people. Strategies are in families, and what each does and is good for is below the table."""
    below = ("family", "summary", "good_for") if "family" in rows[0] else ()
    columns = [key for key in rows[0] if key not in below]
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row.get("family", ""), []).append(row)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in columns:
        table.add_column(key, overflow="fold", no_wrap=key == "name")
    for family, members in families.items():
        if family:
            table.add_row(Text(family, style="bold"))
        for row in members:
            table.add_row(*(Text(_text(row[key])) for key in columns))
    console = make_console(sys.stdout)
    console.print(table)
    if not below:
        return
    for family, members in families.items():
        console.print(Text.assemble("\n", (family, "bold"), f": {FAMILIES[family]}"))
        for row in members:
            console.print(Text.assemble((f"  {row['name']}", "bold"), f"  {row['summary']}"))
            console.print(Text(f"      good for {row['good_for']}"))
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
