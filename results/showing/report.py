"""Results for people, as tables on a terminal or in a pipe, and for programs, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .. import schema
from ..analysis.comparison import Row, compare
from . import doubts

_PIPE_WIDTH = 120
_WIDE = 100
"""Characters of the widest table, except for longer names."""
_NAME = 11
"""Characters to which the longest names are folded if there is no room for more."""
_NOTHING = "–"


class _PipeConsole(Console):
    """Leaves a closed pipe to the caller. Rich itself would end the program with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(stream: TextIO) -> Console:
    """A console with the width of the terminal ``stream``. If it is not a terminal: plain text, 120 columns."""
    console = _PipeConsole(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def render(runs: pd.DataFrame, console: Console, across_faults: bool = False) -> None:
    """Print the comparison of ``runs`` (the runs table): a table for each workload, with remarks below it.

    Rates of several repeats are medians; their number, the lowest and the highest are next to them. A narrow console
    gets fewer columns, so that the table stays readable. Figures from one run or from a busy machine are marked: see
    `doubts`. Runs with injected faults have their own tables. With ``across_faults``, their bases are runs without
    faults.
    """
    workloads: dict[tuple[str, ...], list[Row]] = {}
    for record in compare(runs, across_faults).to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        faults = f" · with {row['inject']}" if row["inject"] and not across_faults else ""
        workloads.setdefault((_title(row) + faults, row["model_digest"], row["data_digest"]), []).append(row)
    titles = [title for title, *_ in workloads]
    for (title, *digests), rows in workloads.items():
        if titles.count(title) > 1:
            # The same names, but a file was changed between the runs.
            files = zip(("model", "data"), digests, strict=True)
            title += "".join(f" · {kind} file {digest[:6]}" for kind, digest in files if digest)
        console.print(title, style="bold", markup=False, emoji=False)
        console.print(_table(rows, console, across_faults), markup=False)
        for line in _captions(rows):
            console.print(line, style="dim", markup=False, emoji=False)
        for line in _remarks(rows):
            # A reason stays on one line, so that a search in the output finds it.
            console.print(line, style="dim", markup=False, emoji=False, soft_wrap=True)
        console.print()


def to_json(runs: pd.DataFrame) -> str:
    """The runs table as a JSON list of objects, one key per column; NaN is null, an infinite loss is "inf"."""
    rows = [_plain(row) for row in runs.to_dict("records")]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)


def row_to_json(run: Mapping[str, Any]) -> str:
    """One row of the runs table as a JSON object, as in `to_json`."""
    return json.dumps(_plain(run), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): schema.plain(value) for name, value in row.items()}


def _title(row: Row) -> str:
    """The workload in words: rows with the same title are in one table."""
    amount = _count(row["steps"], "step") if math.isnan(row["epochs"]) else _count(row["epochs"], "epoch")
    compiled = row["lr_schedule"].startswith(schema.COMPILED_SCHEDULE)
    by = f"by {row['lr_schedule'].removeprefix(schema.COMPILED_SCHEDULE)}" if compiled else f"{row['learning_rate']:g}"
    # Those of a model's own train_step have their rates in their words.
    own = row["optimizer"].startswith(schema.OWN_OPTIMIZERS)
    rate = row["optimizer"] if own else f"{row['optimizer']}, learning rate {by}"
    if row["lr_scaling"] != "none":
        rate += f", {row['lr_scaling']} from batch {row['reference_batch']:g}"
    if row["warmup_epochs"] > 0:
        rate += f", warm-up of {_count(row['warmup_epochs'], 'epoch')}"
    if row["lr_schedule"] != "constant" and not compiled:
        rate += f", {row['lr_schedule']} schedule"
    parts = (
        f"{row['model']} on {row['dataset']}" + (f" ({row['input']})" if row["input"] else ""),
        f"split {row['split']}",
        f"sharding {row['sharding']}" + (f", {_count(row['parts'], 'part')}" if row["sharding"] == "static" else ""),
        amount,
        rate,
        *((row["precision"],) if row["precision"] else ()),
        *((f"jit {row['jit']}",) if row["jit"] else ()),
        *((f"class weights {row['class_weight']}",) if row["class_weight"] else ()),
        f"seed {row['seed']}",
        f"{_count(row['cores_per_replica'], 'core')} per replica",
        *(("last batch kept",) if row["last_batch"] == "keep" else ()),
    )
    return " · ".join(parts)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _table(rows: Sequence[Row], console: Console, with_faults: bool) -> Table:
    """The widest table that fits and is at most `_WIDE` wide, except for the strategies' names, which fold."""
    absent = set() if any(row["ok"] > 1 for row in rows) else {_RANGE}
    if all(math.isnan(row["tokens_per_second"]) for row in rows):
        absent.add(_TOKENS)
    # A model that can't be evaluated has its training loss alone.
    trained_only = any(row["ok"] for row in rows) and not any(row["metric"] for row in rows)
    absent |= {_VALIDATION, _TEST} if trained_only else {_LOSS}
    headers = [header for header in _NUMBERS if header not in absent]
    table = _filled(rows, headers, with_faults)
    for header in _LESS_NEEDED:
        names = max(cell_len(name) for name in table.columns[0].cells if isinstance(name, str))
        room = min(console.width, _WIDE) + max(names - _NAME, 0)
        if Measurement.get(console, console.options.update(width=room + 1), table).maximum <= room:
            break
        headers = [each for each in headers if each != header]
        table = _filled(rows, headers, with_faults)
    return table


def _filled(rows: Sequence[Row], headers: Sequence[str], with_faults: bool) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("strategy", overflow="fold", min_width=_NAME)
    metric = _metric(rows)
    for header in headers:
        table.add_column(Text(header.format(metric)), justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for row in rows:
        faults = f" with {row['inject']}" if with_faults and row["inject"] else ""
        table.add_row(_strategy(row) + faults, *(_NUMBERS[header](row) for header in headers), _status(row))
    return table


def _strategy(row: Row) -> str:
    options = json.loads(row["options"] or "{}")
    words = [f"{name}={json.dumps(value).strip(chr(34))}" for name, value in options.items()]
    return " ".join([row["strategy"], *words])


def _number(value: float, form: str) -> str:
    return _NOTHING if math.isnan(value) else format(value, form)


def _rate(row: Row) -> str:
    rate = row["examples_per_second"]
    return doubts.rate_mark(row) + _number(rate, ",.0f" if rate >= 100 else ".3g")


def _metric(rows: Sequence[Row]) -> str:
    """The heading of the main metric: its name if all rows have the same and it is short."""
    names = {row["metric"] for row in rows if row["metric"]} or {"accuracy"}
    if names == {"accuracy"}:
        return "acc."
    return "metric" if len(names) > 1 or cell_len(name := names.pop()) > _LONGEST_METRIC else name


def _quality(row: Row, split: str) -> str:
    return _number(row[f"{split}_metric"], ".4f" if row["metric"] == "accuracy" else ".4g")


def _range(row: Row) -> str:
    """Lowest and highest rate of the repeats, short enough for one column."""
    if row["ok"] < 2:
        return ""
    ends = row["examples_per_second_min"], row["examples_per_second_max"]
    if ends[1] >= 1e5:
        return "–".join(f"{end / 1000:,.0f}k" for end in ends)
    return "–".join(_number(end, ",.0f" if ends[1] >= 100 else ".3g") for end in ends)


def _status(row: Row) -> str:
    status = f"ok {row['ok']}/{row['repeats']}" if 0 < row["ok"] < row["repeats"] else row["status"]
    return f"{status}, busy" if row["disturbed"] else status


_TOKENS = "tokens\nper second"
_RANGE = "lowest–\nhighest"
_VALIDATION, _TEST = "valid.\n{}", "test\n{}"
"""Headings of the main metric."""
_LOSS = "train\nloss"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_LONGEST_METRIC = 10
"""Characters of a heading."""
_NUMBERS: dict[str, Callable[[Row], str]] = {
    "repli-\ncas": lambda row: str(row["replicas"]),
    "global\nbatch": lambda row: str(row["global_batch"]),
    "examples\nper second": _rate,
    _TOKENS: lambda row: doubts.rate_mark(row) + _number(row["tokens_per_second"], ",.0f"),
    _RANGE: _range,
    "runs": lambda row: str(row["ok"]) if row["ok"] else _NOTHING,
    "speed-\nup": lambda row: doubts.speedup_mark(row) + _number(row["speedup"], ".2f"),
    "effi-\nciency": lambda row: doubts.speedup_mark(row) + _number(row["efficiency"], ".0%"),
    "step\nms": lambda row: _number(row["step_seconds_median"] * 1000, ".1f"),
    _VALIDATION: lambda row: _quality(row, "validation"),
    _TEST: lambda row: _quality(row, "test"),
    _LOSS: lambda row: _number(row["final_loss"], ".4g"),
    "train\ns": lambda row: _number(row["train_seconds"], ".1f"),
}
# Left out one by one if the table would be too wide.
_LESS_NEEDED = (_VALIDATION, "train\ns", "step\nms", _RANGE, _TEST)


def _captions(rows: Sequence[Row]) -> list[str]:
    """The bases of the speed-ups; with more than one base, also the strategies of each."""
    bases: dict[str, list[Row]] = {}
    for row in rows:
        if not math.isnan(row["speedup"]):
            bases.setdefault(row["base"], []).append(row)
    lines = []
    for base, measured in bases.items():
        words = {"strong": "same global batch", "weak": "same per-replica batch"}
        others = [row for row in measured if f"{row['strategy']}×{row['replicas']}" != base]
        kinds = ", ".join(dict.fromkeys(words[row["scaling"]] for row in others))
        whose = ", ".join(dict.fromkeys(_strategy(row) for row in measured)) + ": " if len(bases) > 1 else ""
        lines.append(f"{whose}speed-up and efficiency against {base}" + (f" ({kinds})" if kinds else ""))
    if _metric(rows) == "metric":
        lines.append(f"metric: {', '.join(dict.fromkeys(row['metric'] for row in rows if row['metric']))}")
    return lines + _work(rows) + _compiled(rows) + _unused(rows) + doubts.captions(rows)


def _compiled(rows: Sequence[Row]) -> list[str]:
    """Which of the strategies XLA compiled, if it compiled any."""
    compiled = [row for row in rows if row["compiled"]]
    others = any(row["status"] == "ok" and not row["compiled"] for row in rows)
    who = f", of {', '.join(dict.fromkeys(map(_strategy, compiled)))} only" if others else ""
    return [f"XLA compiles the forward and backward pass{who}"] if compiled else []


def _work(rows: Sequence[Row]) -> list[str]:
    """What an example costs, and the most operations a second that a row reached."""
    counted = [row for row in rows if not math.isnan(row["flops_per_second"])]
    if not counted:
        return []
    best = max(counted, key=lambda row: row["flops_per_second"])
    most = f"{_strategy(best)} ×{best['replicas']} does {_scaled(best['flops_per_second'])}FLOP/s"
    return [f"an example takes {_scaled(best['flops_per_example'])}FLOP, forward and backward; {most}"]


def _scaled(number: float) -> str:
    """Three digits and a unit's prefix, as in ``12.3 M``."""
    power = min(int(math.log10(max(number, 1.0))) // 3, len(_PREFIXES) - 1)
    return f"{number / 1000**power:.3g} {_PREFIXES[power]}"


def _unused(rows: Sequence[Row]) -> list[str]:
    """What runs did not use of the model, with their strategies if other runs did."""
    ran = [row for row in rows if row["status"] == "ok"] or rows
    lines = []
    for unused in dict.fromkeys(row["unused"] for row in rows if row["unused"]):
        by = [row for row in rows if row["unused"] == unused]
        whose = "" if len(by) >= len(ran) else f" by {', '.join(dict.fromkeys(map(_strategy, by)))}"
        lines.append(f"not used of the model{whose}: {unused}")
    return lines


def _remarks(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        name = f"{_strategy(row)} ×{row['replicas']}"
        if row["status"] != "ok":
            lines.append(f"{name} {row['status']}: {row['reason']}")
        if row["oversubscribed"]:
            lines.append(f"{name} oversubscribed: its replicas got fewer cores than the spec says")
        lines += doubts.remarks(row, name)
        if row["fault"]:
            lines.append(f"{name} faults: {row['fault']}{_share_lost(row)}")
        if row["cut"]:
            lines.append(f"{name}: cut into {row['cut']}{_bubble(row)}")
        if asked := _evaluations(row):
            lines.append(f"{name}: {asked}")
        if exchanged := _exchanged(row):
            lines.append(f"{name}: {exchanged}")
    return lines


def _evaluations(row: Row) -> str:
    words = []
    if not math.isnan(row["evaluations_per_step"]):
        words.append(f"{row['evaluations_per_step']:.2f} evaluations of loss and gradient a step")
    if row["portions_repeated"] > 0:
        words.append(f"{_count(row['portions_repeated'], 'portion')} given to a second worker")
    return ", ".join(words)


def _bubble(row: Row) -> str:
    if math.isnan(row["bubble"]):
        return ""
    return f"; parts waited {row['bubble']:.0%} of the passes' time ({row['bubble_expected']:.0%} expected)"


def _share_lost(row: Row) -> str:
    if math.isnan(row["lost_steps"]):
        return ""
    down = "" if math.isnan(row["down_seconds"]) else f", {row['down_seconds']:.1f} s down"
    return f"; {row['lost_steps']:,.0f} steps lost ({row['lost_share']:.1%}){down}"


def _exchanged(row: Row) -> str:
    """Updates and traffic of its workers, if they were counted."""
    parts = []
    if not math.isnan(row["staleness_mean"]):
        parts.append(f"staleness {row['staleness_mean']:.2f} mean, {row['staleness_max']:g} max")
    if row["updates_dropped"] > 0:
        pushed = row["updates_applied"] + row["updates_dropped"]
        parts.append(f"{row['updates_dropped']:,.0f} of {pushed:,.0f} updates dropped")
    if row["updates_skipped"] > 0:
        parts.append(f"{row['updates_skipped']:,.0f} updates left out, as float16 gradients were not finite")
    if row["blocked_seconds"] > 0:
        parts.append(f"blocked {row['blocked_seconds']:.1f} s")
    if row["traffic_bytes_expected"] > 0 and not math.isnan(row["traffic_bytes_measured"]):
        count, noun = (row["steps"], "a step") if math.isnan(row["epochs"]) else (row["epochs"], "an epoch")
        measured, expected = (_megabytes(row[f"traffic_bytes_{kind}"] / count) for kind in ("measured", "expected"))
        if row["traffic_bytes_measured"]:
            parts.append(f"{measured} MB {noun} sent and received ({expected} expected)")
        else:
            parts.append(f"nothing sent over TCP, as through shared memory ({expected} MB {noun} expected)")
    return "; ".join(parts)


def _megabytes(size_bytes: float) -> str:
    megabytes = size_bytes / 1e6
    return format(megabytes, ",.0f" if megabytes >= 100 else ".3g")
