"""Rows of the runs table, their comparison, and what a terminal shows of them."""

import io
import json

import pandas as pd
from rich.console import Console
from stratbench.results import schema
from stratbench.results.analysis import comparison as analysis
from stratbench.results.raw import record
from stratbench.results.showing import terminal
from test_results_record import make_spec

BUSY = "other programs used 34% of its cores"


def run(strategy, replicas=1, rate=100.0, *, batch=64, share=None, status="ok", reason="", **changes):
    """A row of the runs table; strong scaling with a global batch of 64 unless told otherwise."""
    per_replica = share or batch // replicas
    spec = make_spec(strategy=strategy, replicas=replicas, per_replica_batch=per_replica)
    spec |= {"global_batch": per_replica * replicas, **changes}
    figures = {"examples_per_second": rate, "step_seconds_median": 0.0125, "train_seconds": 3.0}
    figures |= {"validation_accuracy": 0.5, "test_accuracy": 0.25}
    columns = {"run_id": record.run_id(spec), "status": status, "reason": reason, "spec": "{}"}
    columns |= {name: value for name, value in spec.items() if name not in ("timeout", "options")}
    columns |= {"options": json.dumps(spec["options"]), **(figures if status == "ok" else {})}
    return schema.row("runs", columns)


def compare(*rows):
    return analysis.compare(pd.DataFrame(rows)).to_dict("records")


def text(*rows, width=None):
    stream = io.StringIO()
    console = Console(file=stream, width=width) if width else terminal.make_console(stream)
    terminal.render(pd.DataFrame(rows), console)
    return stream.getvalue()
