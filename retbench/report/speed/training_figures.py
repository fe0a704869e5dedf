"""The figures of the training suite: throughput, memory and parts of a step, settings, ratios."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from retbench.config.plan import Axis as Sweep
from retbench.metrics import METRICS
from retbench.report import axes, theme, units
from retbench.report.efficiency import APART
from retbench.report.figure import Axis, Figure, Panel
from retbench.report.frames import groups, lookup, records
from retbench.report.speed.sweep_figures import (
    INTERVAL,
    Shown,
    as_data,
    cells_of,
    over_sweep,
    planned,
    ratios,
)
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
        yield ratios(summary, ("step_s",))
    for name, title, sweep, shown in SWEEPS:
        if len(planned(summary, sweep)) > 1:
            yield over_sweep(summary, name, title, sweep, shown)
    if not _breakdown(summary).empty:
        yield memory_parts(summary)
    if len(_settings(summary)) > 1:
        yield settings(summary)


def memory_parts(summary: Summary) -> Figure:
    """What a step keeps at the longest context: a row a part, a mark a model, and the factor."""
    cells = _breakdown(summary)
    longest = units.tokens(cells["seq_len"].max())
    parts = [METRICS[tag].title for tag in cells["metric"]]
    named = cells.assign(panel="", series=cells["model"], row=parts, low=float("nan"))
    families = {c["label"]: c["family"] for c in summary.meta["plan"]["contenders"]}
    subject = summary.models[0]
    others = [model for model in families if families[model] != families[subject]]
    sides = (subject, *others[:1])
    data = named.assign(text=_factors(named, "row", "model", sides))
    factor = [f"at the right: {sides[0]} over {sides[1]}"] if len(sides) > 1 else []
    return Figure.of(
        summary.meta, "memory_parts", f"What a training step keeps at {longest} tokens",
        (Panel("", "", Axis.scaled("bytes", "bytes", data["value"])),), data,
        geometry="rows", notes=("summed over tensors, without what is used in passing", *factor,
                                axes.held(summary.meta, "context")),
    )  # fmt: skip


def settings(summary: Summary) -> Figure:
    """Time and activations of a step in every mode: a row a model, and the factor."""
    points = _settings(summary)
    first = summary.configuration
    usual = f"{first['modes'][0]}, {first['activations'][0]}"
    labels = {point: ", ".join(summary.points[point].texts.values()) or usual for point in points}
    metrics = ("step_s", "activations_bytes")
    kept = summary.cells["point"].isin(points) & summary.cells["metric"].isin(metrics)
    cells = as_data(summary.cells[kept], summary.processes, "seq_len")
    data = cells.assign(series=cells["point"].map(labels), row=cells["model"])
    sides = labels[points[-1]], labels[points[0]]
    data = pd.concat([
        own.assign(text=_factors(own, "row", "series", sides))
        for _, own in groups(data, ["metric"])
    ])  # fmt: skip
    sizes = {tag: data.loc[data["metric"] == tag, "value"] for tag in metrics}
    panels = [
        Panel(tag, "", Axis.scaled(METRICS[tag].title, METRICS[tag].unit, values))
        for tag, values in sizes.items()
    ]
    at = records(summary.statuses[summary.statuses["point"] == points[0]])[0]
    return Figure.of(
        summary.meta, "settings", "A training step by mode and treatment of activations", panels,
        data, geometry="rows", interval=INTERVAL,
        styles=dict(zip(labels.values(), theme.SETTINGS, strict=False)),
        notes=(f"at the right: {sides[0]} over {sides[1]}",
               f"context {units.tokens(at['seq_len'])} tokens, batch size {at['batch_size']}"),
    )  # fmt: skip


def _factors(data: pd.DataFrame, row: str, series: str, sides: tuple[str, ...]) -> list[str]:
    """For each mark the factor between two series of its row; empty where one is missing."""
    values = lookup(data, [row, series], "value")
    texts = []
    for own in records(data):
        pair = [values.get((own[row], side), 0.0) for side in sides]
        texts.append(
            f"{units.significant(pair[0] / pair[1], 2)}x" if len(pair) == 2 and all(pair) else ""
        )
    return texts


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
