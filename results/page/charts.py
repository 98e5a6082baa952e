"""The report's pictures of one workload, as Altair charts. There is no plotting code of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from ..analysis.bases import Row
from ..showing import words
from ..tables.reading import Tables
from . import series
from .studies import Study

MOST_ROWS = 40
"""Of one picture: more would be too small to read."""
_ROW_PIXELS = 22
_HEIGHT = 260
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22", "#332288")
"""Of strategies: those of Okabe and Ito, which color-blind readers tell apart, and some more."""

_PART_COLORS = ["#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b0b0b0"]
"""Of the parts of a step, in the order of `words.PARTS`."""

Pictures = dict[str, tuple[str, alt.TopLevelMixin]]


def pictures(rows: Sequence[Row], tables: Tables) -> Pictures:
    """Name → what the picture shows, in a sentence, and the chart. Pictures without any value are left out.

    Args:
        rows: of one workload, of `comparison.compared`; of more than `MOST_ROWS`, those with the highest rates.
    """
    timed = sorted((row for row in rows if row["rates"]), key=lambda row: -row["examples_per_second"])[:MOST_ROWS]
    color = _color(timed)
    names = {row["metric"] for row in timed if row["metric"]}
    metric = names.pop() if len(names) == 1 else "main metric"
    rates, steps, traffic = series.rates(timed), series.steps(timed), series.traffic(timed)
    stale, parts = series.staleness(timed, tables), series.parts(timed)
    found = {
        "rate": (
            "Examples per second with 95 % intervals over the runs, and what as many replicas would reach without loss",
            rates,
            lambda data: _rate(rates, data, color),
        ),
        "efficiency": (
            "Efficiency by number of replicas, with 95 % intervals; 1 is no loss",
            rates
            if len({record["replicas"] for record in rates if record["efficiency"] == record["efficiency"]}) > 1
            else [],
            lambda data: _efficiency(rates, data, color),
        ),
        "split": (
            "Where the seconds of a step go, in all tasks' measured steps: means over the runs",
            parts,
            lambda data: _split(parts, data),
        ),
        "steps": (
            "Times of the measured steps of all tasks: 5th to 95th percentile, the middle half, and the median",
            steps,
            lambda data: _steps(steps, data, color),
        ),
        "time": (
            "Times of rank 0's steps over its first run, as medians of neighbouring steps",
            series.over_time(timed, tables),
            lambda data: _time(data, color),
        ),
        "quality": (
            f"Validation {metric} while it trained",
            series.quality(timed, tables),
            lambda data: _quality(data, color, metric),
        ),
        "traffic": (
            "What all workers sent and received in a run, as the kernel counts it, and what the algorithm needs",
            traffic,
            lambda data: _traffic(traffic, data, color),
        ),
        "staleness": (
            "Share of the applied updates by their staleness",
            stale,
            lambda data: _staleness(stale, data, color),
        ),
    }
    return {
        name: (words, make(alt.Data(values=series.plain(records))).properties(description=words))
        for name, (words, records, make) in found.items()
        if records
    }


def by_batch(study: Study) -> Pictures:
    """The test metric by global batch; nothing if it is not known of two of them."""
    metric, records = study.metric, series.by_batch(study.rows)
    text = f"Test {metric} by global batch and learning rate, with 95 % intervals over the runs"
    if len({record["global_batch"] for record in records}) < 2:
        return {}
    base = alt.Chart(alt.Data(values=series.plain(records))).encode(
        x=alt.X("global_batch:O", title="global batch, examples", axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "rule:N",
            scale=alt.Scale(range=_COLORS),
            legend=alt.Legend(title="learning rate", orient="bottom", columns=2, labelLimit=300),
        ),
        detail=["strategy:N", "replicas:O"],
    )
    height = alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False))
    tooltips = _tooltips(
        alt.Tooltip("value:Q", format=".4f", title=metric),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("rule:N", title="learning rate"),
        alt.Tooltip("global_batch:O", title="global batch"),
    )
    chart = alt.layer(
        base.mark_rule().encode(y=alt.Y("low:Q", title=metric), y2="high:Q"),
        base.mark_line(point=True).encode(y=height, tooltip=tooltips),
    ).properties(width="container", height=_HEIGHT)
    return {"by-batch": (text, chart.properties(description=text))}


def _color(rows: Sequence[Row]) -> alt.Color:
    strategies = sorted({record["strategy"] for record in series.rates(rows)})
    colors = [_COLORS[number % len(_COLORS)] for number in range(len(strategies))]
    scale = alt.Scale(domain=strategies, range=colors)
    return alt.Color(
        "strategy:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", columns=3, labelLimit=300)
    )


def _rows() -> alt.Y:
    return alt.Y("label:N", sort=None, axis=alt.Axis(title=None, labelLimit=220))


def _per_row(records: series.Records, *layers: alt.Chart) -> alt.TopLevelMixin:
    return alt.layer(*layers).properties(width="container", height=_ROW_PIXELS * len(records))


def _no_legend(color: alt.Color) -> alt.Color:
    chosen: alt.Color = color.legend(None)
    return chosen


def _tooltips(*fields: Any) -> list[Any]:
    return [alt.Tooltip("label:N", title="row"), *fields, alt.Tooltip("runs:N", title="runs")]


def _rate(records: series.Records, data: alt.Data, color: alt.Color) -> alt.TopLevelMixin:
    tooltips = _tooltips(
        alt.Tooltip("examples_per_second:Q", format=",.1f", title="examples per second"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("speedup:Q", format=".3f", title="speed-up"),
        alt.Tooltip("speedup_interval:N", title="its 95 % interval"),
        alt.Tooltip("base:N", title="against"),
    )
    base = alt.Chart(data).encode(y=_rows(), color=_no_legend(color))
    rate = alt.X("examples_per_second:Q", title="examples per second", scale=alt.Scale(zero=True))
    ends = base.mark_rule(strokeWidth=2).encode(x="examples_per_second_low:Q", x2="examples_per_second_high:Q")
    return _per_row(
        records,
        base.mark_bar(opacity=0.25, height=12).encode(x=rate, tooltip=tooltips),
        *([ends] if _any(records, "examples_per_second_low") else []),
        base.mark_point(filled=True, size=55, opacity=1).encode(x=rate, tooltip=tooltips),
        base.mark_tick(thickness=2, height=16, color="gray").encode(
            x="ideal:Q",
            color=alt.value("gray"),
            tooltip=[alt.Tooltip("ideal:Q", format=",.0f", title="without loss")],
        ),
    )


def _efficiency(records: series.Records, data: alt.Data, color: alt.Color) -> alt.TopLevelMixin:
    chosen = alt.selection_point(fields=["strategy"], bind="legend")
    shown = alt.condition(chosen, alt.value(1), alt.value(0.1))
    counts = alt.Axis(title="replicas", format="d", values=sorted({record["replicas"] for record in records}))
    base = alt.Chart(data).encode(x=alt.X("replicas:Q", axis=counts), color=color, opacity=shown)
    height = alt.Y("efficiency:Q", title="efficiency", axis=alt.Axis(format=".0%"), scale=alt.Scale(domainMin=0))
    tooltips = _tooltips(alt.Tooltip("efficiency:Q", format=".1%"), alt.Tooltip("base:N", title="against"))
    ideal = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(strokeDash=[4, 4], color="gray").encode(y="one:Q")
    ends = base.mark_rule().encode(y="efficiency_low:Q", y2="efficiency_high:Q")
    return alt.layer(
        ideal,
        base.mark_line().encode(y=height),
        *([ends] if _any(records, "efficiency_low") else []),
        base.mark_point(filled=True, size=60).encode(y=height, tooltip=tooltips).add_params(chosen),
    ).properties(width="container", height=_HEIGHT)


def _any(records: series.Records, name: str) -> bool:
    """Whether there is any such value. A layer without one makes Vega complain."""
    return any(record[name] == record[name] for record in records)


def _split(records: series.Records, data: alt.Data) -> alt.TopLevelMixin:
    names = list(words.PARTS.values())
    parts = alt.Color(
        "part:N",
        scale=alt.Scale(domain=names, range=_PART_COLORS),
        legend=alt.Legend(title=None, orient="bottom", columns=2),
    )
    tooltips = _tooltips(
        alt.Tooltip("part:N"),
        alt.Tooltip("share:Q", format=".1%", title="share of the step"),
        alt.Tooltip("interval:N", title="its 95 % interval"),
        alt.Tooltip("milliseconds:Q", format=".3f", title="ms of the median step"),
    )
    axis = alt.Axis(title="share of the step", format=".0%")
    return (
        alt.Chart(data)
        .mark_bar(height=14)
        .encode(
            x=alt.X("share:Q", axis=axis, stack="zero", scale=alt.Scale(domain=[0, 1], clamp=True)),
            y=_rows(),
            color=parts,
            order=alt.Order("order:Q"),
            tooltip=tooltips,
        )
        .properties(width="container", height=_ROW_PIXELS * len({record["label"] for record in records}))
    )


def _steps(records: series.Records, data: alt.Data, color: alt.Color) -> alt.TopLevelMixin:
    base = alt.Chart(data).encode(y=_rows(), color=_no_legend(color))
    tooltips = _tooltips(
        *(
            alt.Tooltip(f"{name}:Q", format=".3f", title=f"{name}, ms")
            for name in ("p05", "p25", "median", "p75", "p95")
        )
    )
    left = alt.X("p05:Q", title="ms a step", scale=alt.Scale(zero=True))
    return _per_row(
        records,
        base.mark_rule().encode(x=left, x2="p95:Q", tooltip=tooltips),
        base.mark_bar(height=12, opacity=0.5).encode(x="p25:Q", x2="p75:Q", tooltip=tooltips),
        base.mark_tick(thickness=3, height=14).encode(x="median:Q", tooltip=tooltips),
    )


def _lines(data: alt.Data, color: alt.Color) -> alt.Chart:
    chosen = alt.selection_point(fields=["strategy"], bind="legend")
    shown = alt.condition(chosen, alt.value(1), alt.value(0.08))
    dash = alt.StrokeDash("replicas:O", legend=alt.Legend(title="replicas", orient="bottom"))
    chart: alt.Chart = (
        alt.Chart(data)
        .encode(color=color, detail="label:N", opacity=shown, strokeDash=dash)
        .add_params(chosen)
        .properties(width="container", height=_HEIGHT)
    )
    return chart


def _time(data: alt.Data, color: alt.Color) -> alt.TopLevelMixin:
    return (
        _lines(data, color)
        .mark_line(strokeWidth=1.2)
        .encode(
            x=alt.X("seconds:Q", title="seconds of measured steps"),
            y=alt.Y("milliseconds:Q", title="ms a step", scale=alt.Scale(zero=True)),
            tooltip=[
                alt.Tooltip("label:N", title="row"),
                "step:Q",
                alt.Tooltip("milliseconds:Q", format=".3f"),
                "run:N",
            ],
        )
    )


def _quality(data: alt.Data, color: alt.Color, metric: str) -> alt.Chart:
    by = alt.param(
        name="by",
        value="seconds",
        bind=alt.binding_select(options=["seconds", "epochs", "examples"], name="by "),
    )
    return (
        _lines(data, color)
        .mark_line(point=True)
        .transform_calculate(along="datum[by]")
        .encode(
            x=alt.X("along:Q", title="of training, evaluation left out"),
            y=alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False)),
            tooltip=_tooltips(
                alt.Tooltip("value:Q", format=".4f", title=metric),
                alt.Tooltip("epochs:Q", format=".3~r"),
                alt.Tooltip("seconds:Q", format=".2f"),
                alt.Tooltip("examples:Q", format=",.0f"),
            ),
        )
        .add_params(by)
    )


def _traffic(records: series.Records, data: alt.Data, color: alt.Color) -> alt.TopLevelMixin:
    base = alt.Chart(data).encode(y=_rows(), color=_no_legend(color))
    tooltips = _tooltips(
        alt.Tooltip("measured:Q", format=",.3f", title="measured, MB"),
        alt.Tooltip("expected:Q", format=",.3f", title="expected, MB"),
    )
    return _per_row(
        records,
        base.mark_bar(height=12, opacity=0.6).encode(x=alt.X("measured:Q", title="MB a run"), tooltip=tooltips),
        base.mark_tick(thickness=3, height=16).encode(x="expected:Q", color=alt.value("gray"), tooltip=tooltips),
    )


def _staleness(records: series.Records, data: alt.Data, color: alt.Color) -> alt.TopLevelMixin:
    most = max(record["staleness"] for record in records)
    axis = alt.Axis(format="d", tickCount=min(most, 10), tickMinStep=1)
    return (
        _lines(data, color)
        .mark_line(point=True)
        .encode(
            x=alt.X("staleness:Q", title="staleness, updates of others", axis=axis),
            y=alt.Y("share:Q", title="share of updates", axis=alt.Axis(format=".0%")),
            tooltip=_tooltips(alt.Tooltip("staleness:Q"), alt.Tooltip("share:Q", format=".1%")),
        )
    )
