"""Words and numbers of a comparison's rows, as every way of showing results has them."""

from __future__ import annotations

import json
import math
import re

from .. import schema
from ..analysis.bases import Row
from ..analysis.intervals import Estimate
from ..raw.record import strategy_title

NOTHING = "–"
PARTS = {
    "computing": "computing",
    "communicating": "communicating",
    "waiting": "waiting for others",
    "input": "waiting for data",
    "rest": "the rest of the step",
}
"""Those of a step, as they are told."""
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def title(row: Row) -> str:
    """The workload in words: rows with the same title are in one table."""
    amount = count(row["steps"], "step") if math.isnan(row["epochs"]) else count(row["epochs"], "epoch")
    compiled = row["lr_schedule"].startswith(schema.COMPILED_SCHEDULE)
    by = f"by {row['lr_schedule'].removeprefix(schema.COMPILED_SCHEDULE)}" if compiled else f"{row['learning_rate']:g}"
    # Those of a model's own train_step have their rates in their words.
    own = row["optimizer"].startswith(schema.OWN_OPTIMIZERS)
    rate = row["optimizer"] if own else f"{row['optimizer']}, learning rate {by}"
    if row["lr_scaling"] != "none":
        rate += f", {row['lr_scaling']} from batch {row['reference_batch']:.0f}"
    if row["warmup_epochs"] > 0:
        rate += f", warm-up of {count(row['warmup_epochs'], 'epoch')}"
    if row["lr_schedule"] != "constant" and not compiled:
        rate += f", {row['lr_schedule']} schedule"
    parts = (
        f"{row['model']} on {row['dataset']}" + (f" ({row['input']})" if row["input"] else ""),
        f"split {row['split']}",
        f"sharding {row['sharding']}" + (f", {count(row['parts'], 'part')}" if row["sharding"] == "static" else ""),
        amount,
        rate,
        *((row["precision"],) if row["precision"] else ()),
        *((f"jit {row['jit']}",) if row["jit"] else ()),
        *((f"class weights {row['class_weight']}",) if row["class_weight"] else ()),
        f"seed {row['seed']}",
        f"{count(row['cores_per_replica'], 'core')} per replica",
        *(("last batch kept",) if row["last_batch"] == "keep" else ()),
        *((f"{count(row['profile'], 'step')} profiled",) if row["profile"] else ()),
        *((f"evaluated every {evaluated(row)}",) if row["evaluate_every"] else ()),
    )
    return " · ".join(parts)


def evaluated(row: Row) -> str:
    """``15 steps`` or ``epoch``: after every so many its weights were evaluated."""
    return re.sub(r"(?<=\d)(?=[a-z])", " ", row["evaluate_every"]) or "epoch"


def count(amount: float, noun: str) -> str:
    """``3 runs``, ``1 run``, ``1,000,000 steps``."""
    digits = f"{amount:,.0f}" if float(amount).is_integer() else f"{amount:g}"
    return f"{digits} {noun}{'' if amount == 1 else 's'}"


def strategy(row: Row) -> str:
    """Its name, with its options."""
    return strategy_title(row["strategy"], json.loads(row["options"] or "{}"))


def name(row: Row) -> str:
    """The row's name: its strategy, options and number of replicas, and its batch where several have that name."""
    return f"{strategy(row)} ×{row['replicas']}{batch(row)}"


def batch(row: Row) -> str:
    """Its batch, where several rows of its workload have its name; else empty."""
    return f" at batch {row['global_batch']}" if row.get("named_by_batch") else ""


def rule(row: Row) -> str:
    """How its learning rate depends on the global batch."""
    warmup = f", warm-up of {count(row['warmup_epochs'], 'epoch')}" if row["warmup_epochs"] > 0 else ""
    scaled = "" if row["lr_scaling"] == "none" else f", {row['lr_scaling']} from batch {row['reference_batch']:.0f}"
    return f"{row['learning_rate']:g}{scaled}{warmup}"


def interval(low: float, high: float, form: str) -> str:
    """Both ends, or nothing if they are not known."""
    return "" if math.isnan(low) else f"{low:{form}}–{high:{form}}"


def ratio(estimate: Estimate, form: str) -> str:
    """The middle, with a mark if there are too few runs for an interval."""
    doubtful = not estimate.known and not math.isnan(estimate.value)
    return ("~" if doubtful else "") + number(estimate.value, form)


def number(value: float, form: str) -> str:
    """Formatted, or a dash for a figure that there is none of."""
    return NOTHING if math.isnan(value) else format(value, form)


def rate(value: float) -> str:
    """Of examples per second."""
    return number(value, ",.0f" if value >= 100 else ".3g")


def scaled(number: float) -> str:
    """Three digits and a unit's prefix, as in ``12.3 M``."""
    power = min(int(math.log10(max(number, 1.0))) // 3, len(_PREFIXES) - 1)
    return f"{number / 1000**power:.3g} {_PREFIXES[power]}"


def megabytes(size_bytes: float) -> str:
    """Of a size, without the unit."""
    megabytes = size_bytes / 1e6
    return format(megabytes, ",.0f" if megabytes >= 100 else ".3g")
