"""Columns, notes and tables of what was measured, which the reports on speed share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import derive, stamp, units
from retbench.report.flags import spoken
from retbench.report.frames import Row
from retbench.report.glossary import CENTRE, LARGEST
from retbench.report.summary import Summary
from retbench.report.tables import CONTEXT, Column, Table, name, wide, within

CELLS_ARE = f"value [low, high]: {CENTRE}, with its 95% interval; memory: {LARGEST}"
NO_ENERGY = "energy: not available, for this machine shows this user no counter of it"
STATUS = name("Status", units.ending)
FLAGS = Column("Flags", lambda row: spoken(row["flags"]), rank=9, style="sentence")
_TAILS = (
    "p90 and p99 describe the time per step of slices, each of several decode steps where one is "
    f"short, of all processes together; {units.DASH}: too few of them (p90 needs 29, p99 299)"
)
_WITH_INTERVAL = ("ttft_s", "tpot_s", "mean_tpot_s", "step_s", "kernel_s")
_INTENSITIES = ("decode_intensity", "prefill_intensity")
# What stands in a table only where the run's device has no peak that its maker states.
_IN_PLACE_OF = {
    "prefill_matmul_share": "prefill_mfu", "prefill_hardware_share": "prefill_hfu",
    "step_matmul_share": "step_mfu", "step_hardware_share": "step_hfu",
}  # fmt: skip
_SETUP = ("cold_start_s", "import_s", "build_s", "gate_s", "gate_error")


def metric(
    cells: pd.DataFrame, tag: str, *, interval: bool = False, percentile: str = "", rank: int = 1,
    note: str = "",
) -> Column:  # fmt: skip
    """A column of a metric's values, in the scale that suits them.

    Args:
        cells: one row per cell and metric.
        tag: the metric; a bound has the scale of the time that it bounds.
        interval: whether the intervals stand beside the values.
        percentile: which one stands in place of the value.
        rank: of the column.
        note: of the column.
    """
    if tag in _INTENSITIES:  # which of a phase's two bounds is the longer time
        longer = within(tag, lambda cell: "FLOPs" if cell["value"] > 1 else "bytes")
        return Column(METRICS[tag].title, longer, rank=rank, style="name", metric=tag)
    likened = cells.loc[cells["metric"] == tag.replace("_bound_s", "_s"), "value"]
    scale = units.scale_for(METRICS[tag].unit, likened)

    def text(cell: Row) -> str:
        low, high = (cell["low"], cell["high"]) if interval else (None, None)
        return units.with_interval(cell[percentile or "value"], low, high, scale.divisor)

    title = f"{METRICS[tag].title} {percentile}".rstrip()
    return Column(title, within(tag, text), scale.symbol, rank, metric=tag, note=note)


def cell_notes(meta: Mapping[str, Any]) -> list[str]:
    """How to read a table of cells, and what it lacks."""
    is_uncounted = meta["provenance"].get("energy_counter", "not looked for") is None
    return [CELLS_ARE, NO_ENERGY] if is_uncounted else [CELLS_ARE]


def metrics(summary: Summary, ranks: Iterable[tuple[str, int]]) -> Iterator[Column]:
    """The columns of those of some metrics that were measured, or that stand in for another.

    Args:
        summary: of the run.
        ranks: the metrics with the ranks of their columns; ``tpot_s p90`` is a percentile.
    """
    measured = set(summary.cells["metric"])
    for named, rank in ranks:
        tag, _, percentile = named.partition(" ")
        if tag in measured and _IN_PLACE_OF.get(tag) not in measured:
            yield metric(
                summary.cells, tag, interval=named in _WITH_INTERVAL, percentile=percentile,
                rank=rank, note=_TAILS if percentile else _peak_note(summary.meta, tag),
            )  # fmt: skip


def _peak_note(meta: Mapping[str, Any], tag: str) -> str:
    """Under a column of utilisation: the peak that it is a share of; empty under any other."""
    sheet = derive.sheet_of(meta) if tag.endswith(("_mfu", "_hfu")) else None
    if sheet is None:
        return ""
    dtype = meta["configuration"]["dtype"]
    return f"peak: {units.scaled(sheet.flop_per_s[dtype], 'flop/s')} in {dtype} ({sheet.source})"


def stamped(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The lines on conditions and noise floor that every table carries."""
    return stamp.conditions(meta), stamp.noise_floor(meta)


def in_order(rows: Sequence[Row], summary: Summary, side: str = "model") -> list[Row]:
    """The rows of each model together, plain points first, along the sweep over contexts."""
    along = ["batch_size", "seq_len"]
    if "tokens_per_step" in summary.configuration:  # the batch size follows from the context
        along.reverse()
    return sorted(rows, key=lambda row: (
        summary.models.index(row[side]), bool(summary.points[row["point"]].settings),
        *map(row.get, along),
    ))  # fmt: skip


def batches(summary: Summary) -> Table:
    """How far each model's batch size can go; no row where every batch tried fits."""
    columns = (
        name("Model", "model"), CONTEXT,
        Column(
            "Largest batch",
            lambda row: "none" if pd.isna(row["batch_size"]) else str(row["batch_size"]), rank=0,
        ),
        Column("Beyond it", _stopped, style="name"),
        Column(
            METRICS["capacity_tokens_per_s"].title,
            lambda row: units.with_interval(row["tokens_per_s"], row["low"], row["high"]),
            "tokens/s", metric="capacity_tokens_per_s",
        ),
        Column(
            f"{summary.models[0]} / model",
            lambda row: units.DASH if row["model"] == summary.models[0]
            else units.ratio(row["ratio"], row["ratio_low"], row["ratio_high"]),
            note="throughputs of two models are at two batch sizes, so not measured in turns; "
            f"above 1 {summary.models[0]}'s is the higher",
        ),
    )  # fmt: skip
    is_known = summary.batches["stopped_at"].notna().any()
    rows = summary.batches if is_known else summary.batches.iloc[:0]
    return Table(
        "batch", "Largest batch that fits", rows, columns,
        ("the largest batch size that ended ok in every block",), above=True,
        cited={"batch_size": "batch_size", "tokens_per_s": "capacity_tokens_per_s",
               "ratio": "capacity_ratio"}, ids=("model", "seq_len"),
    )  # fmt: skip


def _stopped(row: Mapping[str, Any]) -> str:
    """What keeps a larger batch from fitting, as far as was tried."""
    if pd.isna(row["stopped_at"]):
        return "none larger was tried"
    return f"{row['stopped_at']}: {str(row['stopped_by']).replace('_', ' ')}"


def setup(summary: Summary) -> Table:
    """What a fresh process costs each model before the first measurement."""
    present = [tag for tag in _SETUP if tag in set(summary.setup["metric"])]
    # The gate's error is the same in every process.
    notes = {"cold_start_s": "cold start: of the first cell of each process"}
    columns = [
        metric(summary.setup, tag, interval=tag != "gate_error", note=notes.get(tag, ""))
        for tag in present
    ]
    return Table(
        "setup", "Start of a process", summary.setup, [name("Model", "model"), *columns],
        rows=wide(summary.setup, ["model"]),
        cited={"value": ""}, ids=("metric", "model"),
    )  # fmt: skip


def cells(
    summary: Summary,
    columns: Sequence[Column],
    notes: Sequence[str],
    table: str = "cells",
    title: str = "Measurements",
) -> Table:
    """Every figure of the cells, or how each failed; one row per model and point."""
    # A cell that has no figures at all is a row without a metric.
    frame = summary.statuses.merge(summary.cells, how="left", sort=False)
    return Table(
        table, title, frame, columns, notes, wide(frame, ["model", "point"]), grouped=True,
        cited={"value": ""}, ids=("metric", "model", "point"),
    )  # fmt: skip
