"""The figures of the training suite: throughput, memory and parts of a step, settings, ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from retbench.config.plan import Axis as Sweep
from retbench.metrics import METRICS
from retbench.report import axes, theme, units
from retbench.report.efficiency import APART
from retbench.report.figure import Axis, Figure, Panel
from retbench.report.frames import Row, lookup, records, where
from retbench.report.speed import sweep_figures as sweeps
from retbench.report.speed.sweep_figures import Shown, planned
from retbench.report.summary import Summary

_THROUGHPUT, _PEAK = Shown("step_tokens_per_s"), Shown("step_peak_bytes")
SWEEPS: tuple[tuple[str, str, Sweep, tuple[Shown, ...]], ...] = (
    ("throughput_context", "Training throughput over context", "context",
     (_THROUGHPUT, Shown("step_mfu", otherwise="step_matmul_share"))),
    ("memory_context", "Memory of a training step over context", "context",
     (_PEAK, Shown("activations_bytes"))),
    ("parts_context", "Parts of a training step over context", "context",
     (Shown("forward_s"), Shown("backward_s"), Shown("optimizer_s"))),
    ("throughput_batch", "Training throughput over batch size", "batch", (_THROUGHPUT,)),
    ("memory_batch", "Memory of a training step over batch size", "batch", (_PEAK,)),
)  # fmt: skip
_KINDS = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")


def figures(summary: Summary) -> Iterator[Figure]:
    """Each figure that this run has data for, the answer first."""
    if len(summary.models) > 1:
        yield sweeps.ratios(summary, ("step_s",))
    for name, title, sweep, shown in SWEEPS:
        if len(planned(summary, sweep)) > 1:
            yield sweeps.over_sweep(summary, name, title, sweep, shown)
    kept = pd.concat([sweeps.cells_of(summary, tag, "context") for tag in _KINDS])
    if not kept.empty:
        yield _memory_parts(summary, kept[kept["seq_len"] == kept["seq_len"].max()])
    if len(points := _settings(summary)) > 1:
        yield _over_settings(summary, points)


def _memory_parts(summary: Summary, cells: pd.DataFrame) -> Figure:
    """What a step keeps: a row a part, a mark a model, and the factor.

    Args:
        summary: of the run.
        cells: the bytes of each kind at the longest context that any model could train at.
    """
    families = {c["label"]: c["family"] for c in summary.meta["plan"]["contenders"]}
    subject = summary.models[0]
    other = next((name for name in families if families[name] != families[subject]), "")
    parts = [METRICS[tag].title for tag in cells["metric"]]
    data = _with_factors(cells.assign(panel="", row=parts, low=float("nan")), subject, other)
    return Figure.of(
        summary.meta, "memory_parts",
        f"What a training step keeps at {units.tokens(cells['seq_len'].max())} tokens",
        (Panel("", "", Axis.scaled("bytes", "bytes", data["value"])),), data, geometry="rows",
        notes=("summed over tensors, without what is used in passing",
               *([f"at the right: {subject} over {other}"] if other else []),
               axes.held(summary.meta, "context")),
    )  # fmt: skip


def _over_settings(summary: Summary, points: Sequence[str]) -> Figure:
    """Time and activations of a step in every mode: a row a model, and the factor."""
    first = summary.configuration
    usual = f"{first['modes'][0]}, {first['activations'][0]}"
    labels = {point: ", ".join(summary.points[point].texts.values()) or usual for point in points}
    metrics = ("step_s", "activations_bytes")
    kept = summary.cells["point"].isin(points) & summary.cells["metric"].isin(metrics)
    cells = summary.cells[kept].sort_values("metric", kind="stable")
    data = sweeps.as_data(
        cells, summary.processes, series=cells["point"].map(labels), row=cells["model"]
    )
    sides = labels[points[-1]], labels[points[0]]
    panels = [Panel(tag, "", sweeps.scaled(tag, where(data, {"metric": tag}))) for tag in metrics]
    at = summary.points[points[0]]
    return Figure.of(
        summary.meta, "settings", "A training step by mode and treatment of activations", panels,
        _with_factors(data, *sides), geometry="rows", interval=sweeps.INTERVAL,
        styles=dict(zip(labels.values(), theme.SETTINGS, strict=False)),
        notes=(f"at the right: {sides[0]} over {sides[1]}",
               f"context {units.tokens(at.seq_len)} tokens, batch size {at.batch_size}"),
    )  # fmt: skip


def _with_factors(data: pd.DataFrame, series: str, over: str) -> pd.DataFrame:
    """Rows with the factor between two series at the right; nothing where one is missing."""
    values = lookup(data, ["panel", "row", "series"], "value")

    def factor(row: Row) -> str:
        pair = [values.get((row["panel"], row["row"], side), 0.0) for side in (series, over)]
        return f"{units.significant(pair[0] / pair[1], 2)}x" if all(pair) else ""

    return data.assign(text=[factor(row) for row in records(data)])


def _settings(summary: Summary) -> list[str]:
    """The points that differ in mode and activations alone: the usual one, then the others."""
    points = list(dict.fromkeys(summary.statuses["point"].astype(str)))
    named = {point: summary.points[point].texts.keys() for point in points}
    others = [point for point, names in named.items() if names and not names & APART]
    usual = {replace(summary.points[other], settings=()).id for other in others}
    return [*(point for point in points if point in usual), *others]
