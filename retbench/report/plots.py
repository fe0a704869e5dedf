"""The figures of a run: each a pure function of its summary that returns a Figure and its sidecar.

Nothing is fixed, dropped or fetched here. A cell that cannot be drawn has a mark in the figure and
an entry in the sidecar, which lists every cell of the run as shown or as left out, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retbench.config.plan import Axis
from retbench.report import compare, draw, stamp, theme, units
from retbench.report.axes import held
from retbench.report.content import Drawn
from retbench.report.draw import IMPLIED
from retbench.report.frames import Row, column, intervals, records
from retbench.report.selection import along, cells_of, failures_on, planned, sidecar_of
from retbench.report.summary import Summary, metric_of

_REACH = 1.5  # how far beyond the values an interval may stretch the y axis
_INTERVAL = "band: 95% interval over processes"
_NO_INTERVAL = "no intervals: they need two processes"


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a metric, the metric that bounds it, and whether a run may lack it."""

    metric: str
    bound: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Sweep:
    """A figure of metrics over one axis of the sweep."""

    name: str
    title: str
    axis: Axis
    panels: tuple[Panel, ...]
    footnote: str = _INTERVAL


_BOUND = "dashed: analytic bound from measured ceilings"
_RANGE = "value: largest over processes, band: their range"

SWEEPS = (
    Sweep("tpot_context", "Time per output token over context", "context",
          (Panel("tpot_s", "tpot_bound_s"), Panel("mean_tpot_s", optional=True))),
    Sweep("ttft_context", "Time to first token over context", "context",
          (Panel("ttft_s", "ttft_bound_s"),)),
    Sweep("throughput_context", "Throughput over context", "context",
          (Panel("prefill_tokens_per_s", "prefill_bound_tokens_per_s"),
           Panel("decode_tokens_per_s", "decode_bound_tokens_per_s"))),
    Sweep("memory_context", "Memory over context", "context",
          (Panel("prefill_peak_bytes"), Panel("decode_peak_bytes"), Panel("state_bytes")),
          _RANGE),
    Sweep("throughput_batch", "Throughput over batch size", "batch",
          (Panel("prefill_tokens_per_s", "prefill_bound_tokens_per_s"),
           Panel("decode_tokens_per_s", "decode_bound_tokens_per_s"))),
    Sweep("latency_batch", "Latency over batch size", "batch",
          (Panel("ttft_s", "ttft_bound_s"), Panel("tpot_s", "tpot_bound_s"))),
)  # fmt: skip


def sweep_figure(summary: Summary, sweep: Sweep) -> Drawn:
    """Lines with intervals over the context or the batch size, one pair of axes a metric."""
    styles = theme.styles(summary.models)
    at = planned(summary, sweep.axis)
    measured = set(summary.cells["metric"])
    panels = [panel for panel in sweep.panels if panel.metric in measured or not panel.optional]
    bounded = any(panel.bound in measured for panel in panels)
    shown = [cells_of(summary, panel.metric, sweep.axis) for panel in panels]
    intervals_known = any(cells["low"].notna().any() for cells in shown)
    notes = [
        sweep.footnote if intervals_known else _NO_INTERVAL,
        *([_BOUND] if bounded else []),
        held(summary.meta, sweep.axis),
        *_marks(summary, sweep.axis),
    ]
    figure, axes = draw.canvas(
        sweep.title, stamp.conditions(summary.meta), " · ".join(notes), styles, len(panels)
    )
    for ax, panel, cells in zip(axes, panels, shown, strict=True):
        log2 = (at, "context (tokens)" if sweep.axis == "context" else "batch size (sequences)")
        draw.log2_axis(ax, *log2, tokens=sweep.axis == "context")
        symbol = _lines(ax, summary, panel, cells, sweep.axis)
        title = _panel_title(panel.metric, cells)
        if len(axes) > 1:
            ax.set_title(title, pad=6)
        ax.set_ylabel(symbol if len(axes) > 1 else f"{title} ({symbol})")
    drawn = pd.concat(shown)
    sidecar = sidecar_of(summary, sweep.name, sweep.title, [p.metric for p in panels], drawn)
    return figure, sidecar | {"note": " · ".join(notes)}


def _marks(summary: Summary, axis: Axis) -> list[str]:
    """How to read the marks of failures, where there are any."""
    failed, _ = failures_on(summary, axis)
    labels = {label for _, labels in failed.values() for label in labels}
    if not labels:
        return []
    return ["×: failed" + (" (faint: implied by a smaller one)" if IMPLIED in labels else "")]


def _panel_title(metric: str, cells: pd.DataFrame) -> str:
    """The metric's name; for memory also what the figure was read from."""
    title = metric_of(metric).title
    if metric not in compare.MEMORY:
        return title
    sources = sorted({source.replace("_", " ") for source in cells["source"]})
    return ": ".join((title, *([" / ".join(sources)] if sources else [])))


def _lines(ax: Axes, summary: Summary, panel: Panel, cells: pd.DataFrame, axis: Axis) -> str:
    """All models of one panel: bounds, lines, bands, failures. Returns the unit of the y axis."""
    scale = units.scale_for(metric_of(panel.metric).unit, cells["value"])
    bounds = cells_of(summary, panel.bound, axis) if panel.bound else cells.iloc[:0]
    # An interval from two processes can be huge; the band may leave the axes, the lines may not.
    lows = cells["low"].clip(lower=cells["value"].min() / _REACH)
    highs = cells["high"].clip(upper=cells["value"].max() * _REACH)
    extent = [cells["value"], lows, highs, bounds["value"]]
    failed, column_name = failures_on(summary, axis)
    lanes = {model: lane for lane, model in enumerate(m for m in summary.models if m in failed)}
    values = pd.concat(extent).to_numpy(dtype=float) / scale.divisor
    draw.log_y(ax, values, len(lanes))
    for model, style in theme.styles(summary.models).items():
        limit = bounds[bounds["model"] == model]
        if len(limit):
            draw.bound(
                ax, column(limit, column_name), column(limit, "value") / scale.divisor, style
            )
        own = cells[cells["model"] == model]
        if len(own):
            draw.series(ax, column(own, column_name), *intervals(own, scale.divisor), style)
        if model in lanes:
            draw.failures(ax, lanes[model], *failed[model], style)
    return scale.symbol


def ratio_figure(summary: Summary, metrics: Sequence[str]) -> Drawn:
    """Times of the subject over each baseline's, along the context, with the crossover.

    One pair of axes for each of the metrics.
    """
    styles = theme.styles(summary.models)
    subject, *baselines = summary.models
    timed = summary.crossovers[summary.crossovers["metric"].isin(metrics)]
    rows = summary.ratios[along(summary, summary.ratios, "context")[1]].sort_values("seq_len")
    note = " · ".join((
        f"below 1: {subject} is faster", "grey: margin or noise floor",
        *(["diamond: crossover with its interval"] if (timed["status"] == "reached").any() else []),
        "band: the verdict's interval, paired by block", held(summary.meta, "context"),
        *_marks(summary, "context"), 
        *(["× alone: only one of the two took turns"] if any(map(_is_mixed, rows["note"])) else []),
    ))  # fmt: skip
    title = f"Ratio of times: {subject} over its baselines"
    legend = {f"{subject} / {name}": styles[name] for name in baselines}
    figure, axes = draw.canvas(title, stamp.conditions(summary.meta), note, legend, len(metrics))
    for ax, metric in zip(axes, metrics, strict=True):
        draw.log2_axis(ax, planned(summary, "context"), "context (tokens)", tokens=True)
        _ratios(ax, summary, rows[rows["metric"] == metric], metric)
        if len(axes) > 1:
            ax.set_title(metric_of(metric).title, pad=6)
        ax.set_ylabel("ratio of times")
    drawn = rows[rows["metric"].isin(metrics) & rows["value"].notna()]
    drawn = drawn.assign(model=drawn["baseline"], unit="ratio", n=drawn["n"])
    return figure, sidecar_of(summary, "ratio_context", title, metrics, drawn) | {"note": note}


def _ratios(ax: Axes, summary: Summary, rows: pd.DataFrame, metric: str) -> None:
    missing = rows[rows["value"].isna()]
    lanes = {name: lane for lane, name in enumerate(missing["baseline"].unique())}
    threshold = compare.threshold(summary.meta, metric)
    edges = (1 / (1 + threshold), 1 + threshold)
    draw.log_y(ax, [*np.concatenate(intervals(rows)), *edges], len(lanes))
    ax.axhspan(*edges, color="#bdbdbd", alpha=0.45, linewidth=0, zorder=0)
    ax.axhline(1.0, color=theme.INK, linewidth=0.9, zorder=1)
    crossovers = summary.crossovers[summary.crossovers["metric"] == metric]
    crossings = {row["baseline"]: row for row in records(crossovers)}
    for baseline, style in theme.styles(summary.models).items():
        own = rows[(rows["baseline"] == baseline) & rows["value"].notna()]
        if len(own):
            draw.series(ax, column(own, "seq_len"), *intervals(own), style)
        if baseline in lanes:
            lost = missing[missing["baseline"] == baseline]
            labels = [_mark(note) for note in lost["note"]]
            draw.failures(ax, lanes[baseline], lost["seq_len"].tolist(), labels, style)
        if baseline in crossings and crossings[baseline]["status"] == "reached":
            _crossing(ax, crossings[baseline], style)


def _mark(note: str) -> str:
    """A short word for why there is no ratio."""
    return compare.ALONE if _is_mixed(note) else note.split(": ")[-1]


def _is_mixed(note: str) -> bool:
    return note.startswith(f"measured {compare.ALONE}")


def _crossing(ax: Axes, crossing: Row, style: theme.Style) -> None:
    value, low, high = (float(crossing[edge]) for edge in ("value", "low", "high"))
    if math.isfinite(low):
        ax.plot([low, high], [1, 1], color=style.color, linewidth=3.2, alpha=0.7, zorder=4)
    ax.plot(
        [value], [1], marker="D", markersize=7, color="white", markeredgecolor=style.color,
        markeredgewidth=1.6, zorder=5,
    )  # fmt: skip


def pareto_figure(summary: Summary) -> Drawn:
    """Decode throughput against the latency of a step, one point a batch size."""
    title = "Decode throughput against latency"
    metrics = ["tpot_s", "decode_tokens_per_s"]
    styles = theme.styles(summary.models)
    note = (
        "numbers: batch size · up and to the left is better · bars: 95% intervals · "
        f"{held(summary.meta, 'batch')}"
    )
    figure, (ax,) = draw.canvas(title, stamp.conditions(summary.meta), note, styles, 1)
    latency, rate = (cells_of(summary, metric, "batch") for metric in metrics)
    scale = units.scale_for("s", latency["value"])
    failed, _ = failures_on(summary, "batch")
    lanes = {model: lane for lane, model in enumerate(m for m in summary.models if m in failed)}
    draw.log_y(ax, rate["value"], len(lanes))
    draw.log_x(ax, latency["value"] / scale.divisor)
    named: list[tuple[float, float, str, str]] = []
    for model, style in styles.items():
        own = latency["model"] == model
        named += _front(ax, latency[own], rate[rate["model"] == model], scale.divisor, style)
        if model in lanes:
            draw.lane_text(ax, lanes[model], draw.listed(*failed[model]), style)
    # Latency and throughput are rows of the same cells, in the same order.
    ends = zip(*(column(latency, edge) / scale.divisor for edge in ("low", "high")), strict=True)
    bars = [(*pair, y) for pair, y in zip(ends, column(rate, "value"), strict=True)]
    draw.names(ax, named, [bar for bar in bars if math.isfinite(bar[0])])
    ax.set_xlabel(f"TPOT ({scale.symbol})")
    ax.set_ylabel("Decode throughput (tokens/s)")
    return figure, sidecar_of(summary, "pareto", title, metrics, pd.concat([latency, rate])) | {
        "note": note
    }


def _front(
    ax: Axes, latency: pd.DataFrame, rate: pd.DataFrame, divisor: float, style: theme.Style
) -> list[tuple[float, float, str, str]]:
    """One model's points in the order of batch size; returns each with its text and colour."""
    x, low, high = intervals(latency, divisor)
    y = column(rate, "value")
    ax.plot(
        x, y, color=style.color, marker=style.marker, linestyle=style.line, markersize=7,
        markeredgecolor="white", markeredgewidth=0.6, zorder=3,
    )  # fmt: skip
    ax.hlines(y, low, high, color=style.color, linewidth=1.2, zorder=2)
    batches = [str(batch) for batch in latency["batch_size"]]
    return [(*point, style.color) for point in zip(x.tolist(), y.tolist(), batches, strict=True)]


def figures(summary: Summary) -> dict[str, Callable[[], Drawn]]:
    """What draws each figure that this run has data for, by name."""
    found: dict[str, Callable[[], Drawn]] = {}
    for sweep in SWEEPS:
        planned_here = len(planned(summary, sweep.axis))
        if planned_here > (1 if sweep.axis == "batch" else 0):
            found[sweep.name] = lambda sweep=sweep: sweep_figure(summary, sweep)  # type: ignore[misc]
    if len(planned(summary, "batch")) > 1:
        found["pareto"] = lambda: pareto_figure(summary)
    if len(summary.models) > 1:
        known = set(summary.ratios["metric"])
        times = ("tpot_s", *(["mean_tpot_s"] if "mean_tpot_s" in known else []), "ttft_s")
        found["ratio_context"] = lambda: ratio_figure(summary, times)
    return found
