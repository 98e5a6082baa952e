"""The command ``stratbench predict``: a step with more replicas, and what it would cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from .reading import read_tables
from .values import Amount, Counts

if TYPE_CHECKING:
    from ...results.analysis.cost_model import Network
    from ...results.analysis.prediction import Algorithm

_MOST_REPLICAS = 1_000_000
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_BYTES = {"b": 8, "kb": 8 * 10**3, "mb": 8 * 10**6, "gb": 8 * 10**9, "tb": 8 * 10**12}
_BANDWIDTH = Amount(
    "BANDWIDTH", {f"{unit}{end}": bits for end in ("", "/s") for unit, bits in (_BITS | _BYTES).items()}
)
_LATENCY = Amount("TIME", {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0})
_PRICE = Amount("PRICE", {"/replica-hour": 1, "": 1})


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--replicas", "-n", type=Counts(), multiple=True, required=True, help="Numbers of replicas to predict: 4,8,64."
)
@click.option(
    "--bandwidth",
    type=_BANDWIDTH,
    help="Of the network between replicas, in each direction: 25Gbit, 3GB. [default: that of the runs]",
)
@click.option(
    "--latency",
    type=_LATENCY,
    help="Of a message on it: 5us. Both are given, or neither.",
)
@click.option("--price", type=_PRICE, help="What a replica costs an hour, in any currency: 2.50/replica-hour.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON.")
def predict(
    path: Path,
    replicas: tuple[list[int], ...],
    bandwidth: float | None,
    latency: float | None,
    price: float | None,
    as_json: bool,
) -> None:
    """How long a step of PATH's strategies would take with other numbers of replicas.

    PATH is an output folder, or a results.h5. Computing, communicating and waiting of its runs are fitted to the
    formulas of each strategy (docs/method.md). It takes runs with two numbers of replicas of each, better three; with
    --repeats 3 there are intervals.

    \b
    Examples:
      stratbench predict stratbench-results --replicas 4,8,64
      stratbench predict stratbench-results -n 64,128 --bandwidth 25Gbit --latency 5us --price 2.50/replica-hour
    """
    from ...results.analysis import prediction
    from ...results.showing import predictions as showing
    from ...results.showing.terminal import make_console
    from ...results.showing.workloads import workloads

    sizes = _sizes([count for counts in replicas for count in counts])
    network = _network(bandwidth, latency)
    tables = read_tables(path)
    found = [
        (each.title, prediction.predict(each.rows, tables.steps, sizes, _algorithm, network))
        for each in workloads(tables.runs)
    ]
    every = [series for _, several in found for series in several]
    if not any(series.predictions for series in every):
        reasons = (f"{each.row['strategy']}: {each.why_not}" if each.why_not else each.left_out[0] for each in every)
        why = next(reasons, "no run is ok")
        raise UsageError(f"PATH must have runs from which something can be predicted. Received: {path}: {why}.")
    if as_json:
        click.echo(showing.to_json(found, price))
        return
    console = make_console(sys.stdout)
    for title, several in found:
        if several:
            showing.render(title, several, price, console)


def _sizes(replicas: list[int]) -> list[int]:
    for count in replicas:
        if not 1 <= count <= _MOST_REPLICAS:
            raise UsageError(f"--replicas must be from 1 to {_MOST_REPLICAS}. Received: {count}.")
    return sorted(set(replicas))


def _network(bandwidth: float | None, latency: float | None) -> Network | None:
    from ...results.analysis.cost_model import Network

    if bandwidth is None and latency is None:
        return None
    if bandwidth is None or latency is None:
        missing = "--bandwidth" if bandwidth is None else "--latency"
        raise UsageError(f"--bandwidth and --latency go together, as both decide about a network. Missing: {missing}.")
    return Network(latency_seconds=latency, bytes_per_second=bandwidth / 8)


def _algorithm(row: Mapping[str, Any]) -> tuple[Algorithm, int]:
    """A row's strategy with its options, and how many steps make an update."""
    import json

    from ...strategies import registry
    from ..plan import optimizers

    strategy = registry.create(row["strategy"], json.loads(row["options"] or "{}"))
    return strategy, optimizers.parse(row["optimizer"]).accumulate
