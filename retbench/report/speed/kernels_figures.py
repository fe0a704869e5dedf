"""The figures of the kernels suite: time, rate and ratio over context, for each type and batch.

A column of panels is a direction, a row a head dimension; all have the same limits. An operation
none of whose cells succeeded is named in the footer; it has no line and no place in the legend.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retbench.machine import ceilings as ceiling
from retbench.metrics import METRICS
from retbench.report import terms, units
from retbench.report.figure import FAILURES, Axis, Curve, Figure, Panel
from retbench.report.frames import Row, records, where
from retbench.report.speed import sweep_figures as sweeps
from retbench.report.speed.kernels_frames import Kernels

_DIRECTIONS = {"forward": "Forward", "train": "Forward and backward"}


def figures(kernels: Kernels) -> Iterator[Figure]:
    """Ratio, time and rate for each type and batch size."""
    for dtype, batch in itertools.product(kernels.planned("dtype"), kernels.planned("batch_size")):
        sheet: Row = {"dtype": dtype, "batch_size": batch}
        if len(kernels.models) > 1:
            yield _ratio(kernels, sheet)
        yield _over_context(kernels, sheet, "time", "kernel_s", "Time of a call")
        yield _over_context(kernels, sheet, "rate", "kernel_flop_per_s", "Rate of a call")


def _over_context(kernels: Kernels, sheet: Row, name: str, metric: str, title: str) -> Figure:
    """A metric over the context; the rate under the machine's matmul rate."""
    cells = where(kernels.cells, sheet | {"metric": metric}).sort_values("seq_len")
    data = sweeps.as_data(cells, kernels.processes, panel=_keys(cells))
    y = Axis.scaled(METRICS[metric].title.lower(), METRICS[metric].unit, cells["value"])
    panels = _panels(kernels, y)
    curves, notes = [], []
    if name == "rate":
        notes.append(f"rate: {METRICS[metric].definition}")
        if peak := ceiling.matmul_rate(kernels.meta.get("ceilings"), sheet["dtype"]):
            notes.append("thin dashes: measured matmul rate")
            ends = np.array([min(panels[0].x.ticks), max(panels[0].x.ticks)], dtype=float)
            curves = [Curve(panel.key, "", ends, np.full(2, peak)) for panel in panels]
    return _figure(
        kernels, sheet, name, title, panels, data, notes, interval=sweeps.INTERVAL, curves=curves
    )


def _ratio(kernels: Kernels, sheet: Row) -> Figure:
    """The subject's time over each other operation's, along the context."""
    rows = where(kernels.ratios, sheet | {"metric": "kernel_s"})
    rows = rows[rows["value"].notna()].sort_values("seq_len", kind="stable")
    data = sweeps.as_ratios(rows, kernels.pairs, panel=_keys(rows))
    margin = terms.threshold(kernels.meta, "kernel_s")
    crossed = where(kernels.crossovers, sheet)
    crossings = [
        crossing
        for row, key in zip(records(crossed), _keys(crossed), strict=True)
        for crossing in sweeps.located(key, row)
    ]
    return _figure(
        kernels, sheet, "ratio", f"Time of {kernels.models[0]} over each other operation's",
        _panels(kernels, sweeps.RATIO, margin=margin, sides=("faster", "slower")), data,
        [sweeps.margin_note(kernels.meta, ["kernel_s"])], interval=sweeps.PAIRED, each="block",
        crossings=crossings,
    )  # fmt: skip


def _figure(
    kernels: Kernels, sheet: Row, name: str, title: str, panels: Sequence[Panel],
    data: pd.DataFrame, notes: Sequence[str], **more: Any,
) -> Figure:  # fmt: skip
    """A figure of a type and batch size, with the failed cells of the operations in it."""
    several = len(kernels.planned("batch_size")) > 1
    file = f"{name}_{sheet['dtype']}" + (f"_b{sheet['batch_size']}" if several else "")
    batch = f", batch {sheet['batch_size']}" if several else ""
    alive = set(where(kernels.cells, sheet | {"metric": "kernel_s"})["model"])
    absent = ", ".join(model for model in kernels.models if model not in alive)
    rows = where(kernels.statuses, sheet)
    rows = rows[(rows["status"] != "ok") & rows["model"].isin(list(alive))].sort_values("seq_len")
    lost = rows.assign(panel=_keys(rows), series=rows["model"], x=rows["seq_len"])
    configuration = {**kernels.meta["configuration"], "dtypes": [sheet["dtype"]]}
    return Figure.of(
        {**kernels.meta, "configuration": configuration}, file,
        f"{title}, {sheet['dtype']}{batch}", panels, data,
        notes=(*notes, *([f"no cell succeeded: {absent}"] if absent else [])),
        failures=lost[FAILURES], columns=len(kernels.planned("direction")), shared=True, **more,
    )  # fmt: skip


def _panels(kernels: Kernels, y: Axis, **more: Any) -> list[Panel]:
    """A panel a head dimension and direction."""
    x = Axis(sweeps.LABELS["context"], tuple(kernels.planned("seq_len")), units.tokens)
    return [
        Panel(f"{size} {way}", f"{_DIRECTIONS[way]}, d_k = {size}", x, y, group=str(size), **more)
        for size in kernels.planned("head_dim")
        for way in kernels.planned("direction")
    ]


def _keys(rows: pd.DataFrame) -> list[str]:
    """The panel of each row."""
    return [f"{row['head_dim']} {row['direction']}" for row in records(rows)]
