"""What stands below a table: what its figures rest on, and what there is to say of single rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..analysis import equal_work, split
from ..analysis.bases import Row
from . import doubts, table, words


def captions(rows: Sequence[Row]) -> list[str]:
    """The bases of the speed-ups; with more than one base, also the strategies of each."""
    bases: dict[str, list[Row]] = {}
    for row in rows:
        if not math.isnan(row["speedup"]):
            bases.setdefault(row["base"], []).append(row)
    lines = []
    for base, measured in bases.items():
        kept = {"strong": "same global batch", "weak": "same per-replica batch"}
        others = [row for row in measured if not row["is_base"]]
        kinds = ", ".join(dict.fromkeys(kept[row["scaling"]] for row in others))
        whose = ", ".join(dict.fromkeys(words.strategy(row) for row in measured)) + ": " if len(bases) > 1 else ""
        lines.append(f"{whose}speed-up and efficiency against {base}" + (f" ({kinds})" if kinds else ""))
    if table.metric(rows) == "metric":
        lines.append(f"metric: {', '.join(dict.fromkeys(row['metric'] for row in rows if row['metric']))}")
    return (
        lines + _equal_work(rows) + _split(rows) + _work(rows) + _compiled(rows) + _unused(rows) + doubts.captions(rows)
    )


def _equal_work(rows: Sequence[Row]) -> list[str]:
    """That the rows did the same work, where the runs have shown it."""
    ran = [row for row in rows if row["ok"]]
    known = [row for row in ran if _is_known(row)]
    if len(known) < 2:
        return []
    unknown = ", ".join(words.name(row) for row in ran if not _is_known(row))
    batches = len({row["global_batch"] for row in known})
    lines = [
        f"checked: all{f' but {unknown}' if unknown else ''} began with the same weights and had the same examples in "
        f"each step{' of the same global batch' if batches > 1 else ''}"
    ]
    others = equal_work.other_updates(known)
    for base in {id(base): base for _, base, _ in others}.values():
        differ = ", ".join(f"{words.name(row)} by {share:.0%}" for row, other, share in others if other is base)
        lines.append(
            f"the first update differs from that of {words.name(base)}: {differ}; good reasons are workers that don't "
            "wait, dropout, and batch statistics of a replica's own part"
        )
    return lines


def _is_known(row: Row) -> bool:
    return bool(row["initial_weights"] and row["data_order"])


def _split(rows: Sequence[Row]) -> list[str]:
    """What the parts of a step in the table are."""
    if not any(split.shares(row) for row in rows):
        return []
    shown = ", ".join(words.PARTS[part] for part in table.SHOWN)
    return [f"comp/comm/wait: % of a step in {shown}; the rest: waiting for data, overhead"]


def _compiled(rows: Sequence[Row]) -> list[str]:
    """Which of the strategies XLA compiled, if it compiled any."""
    compiled = [row for row in rows if row["compiled"]]
    others = any(row["status"] == "ok" and not row["compiled"] for row in rows)
    who = f", of {', '.join(dict.fromkeys(map(words.strategy, compiled)))} only" if others else ""
    return [f"XLA compiles the forward and backward pass{who}"] if compiled else []


def _work(rows: Sequence[Row]) -> list[str]:
    """What an example costs, and the most operations a second that a row reached."""
    counted = [row for row in rows if not math.isnan(row["flops_per_second"] * row["flops_per_example"])]
    if not counted:
        return []
    best = max(counted, key=lambda row: row["flops_per_second"])
    most = f"{words.strategy(best)} ×{best['replicas']} does {words.scaled(best['flops_per_second'])}FLOP/s"
    return [f"an example takes {words.scaled(best['flops_per_example'])}FLOP, forward and backward; {most}"]


def _unused(rows: Sequence[Row]) -> list[str]:
    """What runs did not use of the model, with their strategies if other runs did."""
    ran = [row for row in rows if row["status"] == "ok"] or rows
    lines = []
    for unused in dict.fromkeys(row["unused"] for row in rows if row["unused"]):
        by = [row for row in rows if row["unused"] == unused]
        whose = "" if len(by) >= len(ran) else f" by {', '.join(dict.fromkeys(map(words.strategy, by)))}"
        lines.append(f"not used of the model{whose}: {unused}")
    return lines


def remarks(rows: Sequence[Row]) -> list[str]:
    """What there is to say of single rows: why they are not ok, what disturbed them, what they exchanged."""
    lines = []
    for row in rows:
        name = words.name(row)
        if row["status"] != "ok":
            lines.append(f"{name} {row['status']}: {row['reason']}")
        if row["oversubscribed"]:
            lines.append(f"{name} oversubscribed: its replicas got fewer cores than the spec says")
        lines += doubts.remarks(row, name)
        if row["fault"]:
            lines.append(f"{name} faults: {row['fault']}{_share_lost(row)}")
        if row["cut"]:
            lines.append(f"{name}: cut into {row['cut']}{_bubble(row)}")
        if row["straggler"]:
            lines.append(f"{name} straggler: {row['straggler']}")
        if asked := _evaluations(row):
            lines.append(f"{name}: {asked}")
        if exchanged := _exchanged(row):
            lines.append(f"{name}: {exchanged}")
    return lines


def _evaluations(row: Row) -> str:
    parts = []
    if not math.isnan(row["evaluations_per_step"]):
        parts.append(f"{row['evaluations_per_step']:.2f} evaluations of loss and gradient a step")
    if row["portions_repeated"] > 0:
        parts.append(f"{words.count(row['portions_repeated'], 'portion')} given to a second worker")
    return ", ".join(parts)


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
        parts.append(f"staleness {row['staleness_mean']:.2f} mean, {row['staleness_max']:.0f} max")
    if row["updates_dropped"] > 0:
        pushed = row["updates_applied"] + row["updates_dropped"]
        parts.append(f"{row['updates_dropped']:,.0f} of {pushed:,.0f} updates dropped")
    if row["updates_skipped"] > 0:
        parts.append(f"{row['updates_skipped']:,.0f} updates left out, as float16 gradients were not finite")
    if row["blocked_seconds"] > 0:
        parts.append(f"blocked {row['blocked_seconds']:.1f} s")
    if row["traffic_bytes_expected"] > 0 and not math.isnan(row["traffic_bytes_measured"]):
        count, noun = (row["steps"], "a step") if math.isnan(row["epochs"]) else (row["epochs"], "an epoch")
        measured, expected = (
            words.megabytes(row[f"traffic_bytes_{kind}"] / count) for kind in ("measured", "expected")
        )
        if row["traffic_bytes_measured"]:
            parts.append(f"{measured} MB {noun} sent and received ({expected} expected)")
        else:
            parts.append(f"nothing sent over TCP, as through shared memory ({expected} MB {noun} expected)")
    if row["busbw_bytes_per_second"] > 0:
        parts.append(f"busbw {words.megabytes(row['busbw_bytes_per_second'])} MB/s")
    return "; ".join(parts)
