"""The figures of the training suite: throughput, memory and parts of a step, settings and ratios.

Those over the context and the batch size are drawn as in the inference suite; here are the ones
that compare settings, and what the memory of a step is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from retbench.report import draw, plots, stamp, theme, units
from retbench.report.axes import held
from retbench.report.content import Drawn
from retbench.report.efficiency import APART
from retbench.report.frames import Row, records
from retbench.report.plots import Panel, Sweep
from retbench.report.selection import cells_of, planned, sidecar_of
from retbench.report.summary import Summary, metric_of

_RANGE = "value: largest over processes, band: their range"
SWEEPS = (
    Sweep("throughput_context", "Training throughput over context", "context",
          (Panel("step_tokens_per_s"), Panel("step_mfu"))),
    Sweep("memory_context", "Memory of a training step over context", "context",
          (Panel("step_peak_bytes"), Panel("activations_bytes")), _RANGE),
    Sweep("parts_context", "Parts of a training step over context", "context",
          (Panel("forward_s"), Panel("backward_s"), Panel("optimizer_s"))),
    Sweep("throughput_batch", "Training throughput over batch size", "batch",
          (Panel("step_tokens_per_s"),)),
    Sweep("memory_batch", "Memory of a training step over batch size", "batch",
          (Panel("step_peak_bytes"),), _RANGE),
)  # fmt: skip
_KINDS = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
_BAR = 0.62  # height of a bar, of the distance between two


def figures(summary: Summary) -> dict[str, Callable[[], Drawn]]:
    """What draws each figure that this run has data for, by name."""
    found: dict[str, Callable[[], Drawn]] = {}
    for sweep in SWEEPS:
        if len(planned(summary, sweep.axis)) > 1:
            found[sweep.name] = lambda sweep=sweep: plots.sweep_figure(summary, sweep)  # type: ignore[misc]
    if len(summary.models) > 1:
        found["ratio_context"] = lambda: plots.ratio_figure(summary, ("step_s",))
    if not _breakdown(summary).empty:
        found["memory_parts"] = lambda: memory_parts(summary)
    if len(_settings(summary)) > 1:
        found["settings"] = lambda: settings_figure(summary)
    return found


def memory_parts(summary: Summary) -> Drawn:
    """What a step keeps at the longest context: a bar a model, weights to activations."""
    cells = _breakdown(summary)
    longest = units.tokens(cells["seq_len"].max())
    title = f"What a training step keeps at {longest} tokens"
    styles = {
        metric_of(tag).title: theme.Style(color, "s", "■", "-")
        for tag, (color, _, _) in zip(_KINDS, theme.MARKS, strict=False)
    }
    note = f"summed over tensors, without what is used in passing · {held(summary.meta, 'context')}"
    figure, (ax,) = draw.canvas(title, stamp.conditions(summary.meta), note, styles, 1)
    totals = cells.groupby("model")["value"].sum()
    scale = units.scale_for("bytes", totals)
    for place, model in enumerate(summary.models):
        left = 0.0
        for tag, style in zip(_KINDS, styles.values(), strict=True):
            own = cells[(cells["model"] == model) & (cells["metric"] == tag)]
            width = float(own["value"].sum()) / scale.divisor
            ax.barh(place, width, _BAR, left, color=style.color, zorder=2)
            left += width
        if model in totals:
            ax.text(left, place, f" {units.significant(left)}", va="center", size=8)
    ax.set_xlim(0, float(totals.max()) / scale.divisor * 1.12)
    ax.set_xlabel(f"bytes ({scale.symbol})")
    _model_rows(ax, summary.models)
    figure.subplots_adjust(left=0.22)
    return figure, _sidecar(summary, "memory_parts", title, _KINDS, cells, note)


def settings_figure(summary: Summary) -> Drawn:
    """Step time and kept activations of every model at every setting, at one context."""
    title = "Modes and activations"
    named = _settings(summary)
    first = summary.configuration
    usual = f"{first['modes'][0]}, {first['activations'][0]}"
    labels = {point: ", ".join(summary.points[point].texts.values()) or usual for point in named}
    marks = dict(zip(named, theme.styles(list(labels.values())).values(), strict=True))
    legend = {labels[point]: style for point, style in marks.items()}
    at = records(summary.statuses[summary.statuses["point"] == named[0]])[0]
    note = (
        f"context {units.tokens(at['seq_len'])} tokens, batch size {at['batch_size']} · bars: 95% "
        "intervals"
    )
    figure, axes = draw.canvas(title, stamp.conditions(summary.meta), note, legend, 2)
    metrics = ("step_s", "activations_bytes")
    cells = summary.cells[
        summary.cells["point"].isin(named) & summary.cells["metric"].isin(metrics)
    ]
    for ax, tag in zip(axes, metrics, strict=True):
        own = cells[cells["metric"] == tag]
        scale = units.scale_for(metric_of(tag).unit, own["value"])
        draw.log_x(ax, own["value"] / scale.divisor)
        for row in records(own):
            place = summary.models.index(row["model"])
            _mark(ax, row, place, scale.divisor, marks[row["point"]])
        _model_rows(ax, summary.models, labelled=ax is axes[0])
        ax.set_title(metric_of(tag).title, pad=6)
        ax.set_xlabel(f"{metric_of(tag).title} ({scale.symbol})")
    figure.subplots_adjust(left=0.17, wspace=0.1)
    return figure, _sidecar(summary, "settings", title, metrics, cells, note)


def _mark(ax: Axes, row: Row, place: int, divisor: float, style: theme.Style) -> None:
    value, low, high = (row[edge] / divisor for edge in ("value", "low", "high"))
    if np.isfinite(low) and np.isfinite(high):
        ax.hlines(place, low, high, color=style.color, linewidth=1.6, zorder=2)
    ax.plot(
        value, place, color=style.color, marker=style.marker, markersize=7, linestyle="none",
        markeredgecolor="white", markeredgewidth=0.6, zorder=3,
    )  # fmt: skip


def _model_rows(ax: Axes, models: tuple[str, ...], *, labelled: bool = True) -> None:
    """A row a model, the subject at the top."""
    ax.set_yticks(range(len(models)), list(models) if labelled else [""] * len(models))
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.grid(axis="y", color=theme.GRID, linewidth=0.6)


def _settings(summary: Summary) -> list[str]:
    """The points that differ in mode and activations alone: the usual one, then the others."""
    points = list(dict.fromkeys(summary.statuses["point"].astype(str)))
    named = {point: summary.points[point].texts.keys() for point in points}
    others = [point for point, names in named.items() if names and not names & APART]
    usual = {replace(summary.points[other], settings=()).id for other in others}
    return [*(point for point in points if point in usual), *others]


def _breakdown(summary: Summary) -> pd.DataFrame:
    """The bytes of each kind at the longest context that any model could train at."""
    cells = pd.concat([cells_of(summary, tag, "context") for tag in _KINDS])
    longest: pd.DataFrame = cells[cells["seq_len"] == cells["seq_len"].max()]
    return longest


def _sidecar(
    summary: Summary, name: str, title: str, metrics: tuple[str, ...], cells: pd.DataFrame,
    note: str,
) -> dict[str, Any]:  # fmt: skip
    return sidecar_of(summary, name, title, metrics, cells) | {"note": note}
