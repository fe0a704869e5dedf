"""Columns, notes and tables that the reports on speed share: inference, training, kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import compare, derive, stamp, units
from retbench.report.flags import MEANING
from retbench.report.frames import Row
from retbench.report.glossary import CENTRE, LARGEST
from retbench.report.summary import CELL, Summary
from retbench.report.tables import Column, Table, name, wide

CELLS_ARE = f"value [low, high]: {CENTRE}, with its 95% interval; memory: {LARGEST}"
NO_ENERGY = "energy: not available, for this machine shows this user no counter of it"
SETTLED = (
    "inconclusive (+4 min): blocks of 4 minutes more would settle it, were centre and spread to "
    "stay"
)
CROSSOVER_IS = "the context at which the ratio crosses 1, interpolated on logarithms in each block"
CROSSING_COLUMNS = (
    Column("Contexts", lambda row: f"{units.tokens(row['shortest'])} to "
           f"{units.tokens(row['longest'])}", style="name"),
    Column("Crossover", lambda row: crossing(row), rank=0, style="sentence"),
)  # fmt: skip
CONTEXT = Column("Context", lambda row: units.tokens(row["seq_len"]), rank=0)
BATCH = Column("Batch", "batch_size", rank=0)
STATUS = Column("Status", lambda row: ending(row), rank=0, style="name")
FLAGS = Column("Flags", "flags", rank=9, style="sentence")
# In which order ratios are left out where there is no room; the first time stays.
_RANKS = {"mean_tpot_s": 4, "prefill_peak_bytes": 3, "decode_peak_bytes": 2, "state_bytes": 1,
          "step_peak_bytes": 2, "activations_bytes": 1, "token_j": 2, "mean_token_j": 5,
          "prefill_j": 4, "step_j": 2}  # fmt: skip
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
    if tag in _INTENSITIES:
        return Column(METRICS[tag].title, partial(_bound_by, tag=tag), rank=rank, style="name",
                      metric=tag)  # fmt: skip
    likened = cells.loc[cells["metric"] == tag.replace("_bound_s", "_s"), "value"]
    scale = units.scale_for(METRICS[tag].unit, likened)

    def text(row: Row) -> str:
        cell = row.get(tag, {})
        edges = (cell.get("low"), cell.get("high")) if interval else (None, None)
        value, (low, high) = cell.get(percentile or "value"), edges
        return units.with_interval(value, low, high, scale.divisor)

    title = f"{METRICS[tag].title} {percentile}".rstrip()
    return Column(title, text, scale.symbol, rank, metric=tag, note=note)


def cell_notes(meta: Mapping[str, Any]) -> list[str]:
    """How to read a table of cells, and what it lacks."""
    is_uncounted = meta["provenance"].get("energy_counter", "not looked for") is None
    return [CELLS_ARE, NO_ENERGY] if is_uncounted else [CELLS_ARE]


def peak_note(meta: Mapping[str, Any], tag: str) -> str:
    """Under a column of utilisation: the peak that it is a share of; empty under any other."""
    sheet, dtype = derive.sheet_of(meta), meta["configuration"]["dtype"]
    if sheet is None or not tag.endswith(("_mfu", "_hfu")):
        return ""
    return f"peak: {units.scaled(sheet.flop_per_s[dtype], 'flop/s')} in {dtype} ({sheet.source})"


def _bound_by(row: Row, tag: str) -> str:
    """Which of a phase's two bounds is the longer time: that of its FLOPs or of its bytes."""
    intensity = row.get(tag, {}).get("value")
    return units.DASH if intensity is None else "FLOPs" if intensity > 1 else "bytes"


def shown(cells: pd.DataFrame, tag: str) -> bool:
    """Whether a table of these cells has a column of a metric: it was measured, or stands in."""
    measured = set(cells["metric"])
    return tag in measured and _IN_PLACE_OF.get(tag) not in measured


def cells_with_status(statuses: pd.DataFrame, cells: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The cells with how each ended; one that has no figures at all is a row without a metric."""
    return statuses.merge(cells, on=keys, how="left", sort=False)


def ending(row: Mapping[str, Any]) -> str:
    """How a cell ended, with the share of its blocks where only some failed."""
    status = str(row["status"]).replace("_", " ")
    if row["status"] != "ok" and row["ok_blocks"]:
        status += f" in {row['blocks'] - row['ok_blocks']} of {row['blocks']}"
    return status


def stamped(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The lines on conditions and noise floor that every table carries."""
    return stamp.conditions(meta), stamp.noise_floor(meta)


def ratios(summary: Summary, frame: pd.DataFrame, tags: Sequence[str], *more: Column) -> Table:
    """The subject over each baseline: one row per baseline and point, verdicts beside the times.

    Args:
        summary: of the run.
        frame: those of its ratios to show.
        tags: the metrics that have columns, as far as they were measured.
        more: columns that tell points apart.
    """
    columns = [
        name("Baseline", "baseline"), CONTEXT, BATCH, *more,
        Column("Blocks", _blocks, rank=3), *_ratio_columns(frame, tags),
    ]  # fmt: skip
    rows = in_order(wide(frame, ["baseline", "point"]), summary, "baseline")
    return Table(
        "ratios", f"Ratios: {summary.models[0]} / baseline", frame, columns,
        ratio_notes(frame, summary.meta), rows, grouped=True,
        above=True, cited={"value": ""}, ids=("metric", "subject", "baseline", "point"),
    )  # fmt: skip


def _ratio_columns(ratios: pd.DataFrame, tags: Sequence[str]) -> Iterator[Column]:
    """Two columns for each time or energy, ratio and verdict; one for each figure of memory."""
    said: list[str] = []  # times whose verdicts stand to the left
    for tag in (tag for tag in tags if tag in set(ratios["metric"])):
        timed = tag not in compare.MEMORY
        yield Column(
            METRICS[tag].title, partial(_ratio, tag=tag, timed=timed),
            rank=_RANKS.get(tag, bool(said)), metric=tag,
        )  # fmt: skip
        if timed:
            yield Column(
                "Verdict", partial(_verdict, tag=tag, before=tuple(said)),
                rank=_RANKS.get(tag, bool(said)), style="verdict", metric=tag, note=SETTLED,
            )  # fmt: skip
            said.append(tag)


def _ratio(row: Row, tag: str, timed: bool) -> str:
    if (found := row.get(tag)) is None:
        return units.DASH
    edges = (found["low"], found["high"]) if timed else (None, None)
    return units.ratio(found["value"], *edges) if found["n"] else units.DASH


def _verdict(row: Row, tag: str, before: Sequence[str]) -> str:
    """The verdict of a time; why there is no ratio is said once a row."""
    if (found := row.get(tag)) is None:
        return units.DASH
    noted = {row[other]["note"] for other in before if other in row}
    return units.DASH if found["note"] and found["note"] in noted else units.verdict(found)


def _blocks(row: Row) -> str:
    """The blocks behind the ratios of a row."""
    counts = sorted({cell["n"] for cell in row.values() if isinstance(cell, dict)})
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def in_order(rows: Sequence[Row], summary: Summary, side: str = "model") -> list[Row]:
    """The rows of each model together, plain points first, along the sweep over contexts."""
    along = ["batch_size", "seq_len"]
    if "tokens_per_step" in summary.configuration:  # the batch size follows from the context
        along.reverse()
    return sorted(rows, key=lambda row: (
        summary.models.index(row[side]), bool(summary.points[row["point"]].settings),
        *map(row.get, along),
    ))  # fmt: skip


def ratio_notes(ratios: pd.DataFrame, meta: Mapping[str, Any]) -> list[str]:
    """How to read a table of ratios, and what its blocks could have told."""
    timed = ratios[ratios["metric"].isin(compare.TIMES)]
    interval = f"[low, high]: {100 * (1 - compare.alpha(meta)):.4g}% interval over blocks"
    if meta.get("stopped"):
        interval += ", of a run that might have ended at an earlier look: 94% of such hold"
    notes = [stamp.HOW_TO_READ, interval, _family(timed)]
    if told := resolution(timed):
        notes.append(told)
    if timed["alone"].any():
        notes.append(f"alone: {MEANING['alone']}; the ratio is that of the processes' medians")
    if said := stamp.ended(meta):
        notes.append(said)
    return notes


def _family(timed: pd.DataFrame) -> str:
    """Which rows are the primary family, and what that means."""
    primary = timed[timed["primary"].astype(bool)]
    if primary.empty:
        return "no row was named as primary before the run: each interval holds for itself alone"
    named = "; ".join(
        f"{METRICS[tag].title} at {point}"
        for tag, point in dict.fromkeys(zip(primary["metric"], primary["point"], strict=True))
    )
    confidence = float(primary["confidence"].max())
    together = f", hold together (each {confidence:.1%})" if len(primary) > 1 else ""
    return f"primary, named before the run: {named}{together}; other rows are exploratory"


def resolution(timed: pd.DataFrame) -> str | None:
    """The smallest differences that a run could have told, by metric; None where there is none."""
    parts = [
        f"{METRICS[tag].title} {units.rough(known.median())} (worst row {units.rough(known.max())})"
        for tag in compare.TIMES
        if len(known := timed.loc[timed["metric"] == tag, "resolution"].dropna())
    ]
    if not parts:
        return None
    return f"smallest difference that 4 such runs in 5 would tell, median row: {', '.join(parts)}"


def crossing(row: Mapping[str, Any]) -> str:
    """A crossover in words, with its interval; or in which direction it was not reached."""
    timed = row.get("metric", "kernel_s") in compare.TIMES
    lower, higher = ("faster", "slower") if timed else ("smaller", "larger")
    if row["status"] == "reached":
        value, low, high = (round(row[edge]) for edge in ("value", "low", "high"))
        at = str(value) if low == high else units.with_interval(value, low, high)
        direction = row.get("direction_beyond", row.get("direction"))
        beyond = f"{at} tokens, {lower if direction == 'better' else higher} beyond"
        return f"{beyond}; {row['reason']}" if row["reason"] else beyond
    if row["status"] == "unclear":
        return f"unclear: {row['reason']}"
    side = lower if row["status"] == "always below" else higher
    where = f"every context that has a value; {row['reason']}" if row["reason"] else "every context"
    return f"not reached: {side} at {where}"


def claimed(crossovers: pd.DataFrame) -> pd.DataFrame:
    """The crossovers of a run that makes claims."""
    return crossovers[crossovers["status"] != compare.NO_CLAIM]


def crossovers(summary: Summary, note: str = CROSSOVER_IS) -> Table:
    """From which context on the subject wins or loses."""
    columns = [
        Column("Metric", lambda row: METRICS[row["metric"]].title, rank=0, style="name"),
        name("Baseline", "baseline"), BATCH, *CROSSING_COLUMNS,
    ]  # fmt: skip
    return Table(
        "crossover", f"Crossover of {summary.models[0]}", claimed(summary.crossovers), columns,
        (note,), above=True, cited={"value": ""},
        ids=("metric", "subject", "baseline",
             *(["batch_size"] if summary.configuration.get("grid") else [])),
    )  # fmt: skip


def batches(summary: Summary) -> Table:
    """How far each model's batch size can go; no row where every batch tried fits."""
    columns = (
        name("Model", "model"), CONTEXT,
        Column("Largest batch", lambda row: largest(row), rank=0),
        Column("Beyond it", lambda row: stopped(row), style="name"),
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


def largest(row: Mapping[str, Any]) -> str:
    """The largest batch size that fits."""
    return "none" if pd.isna(row["batch_size"]) else str(row["batch_size"])


def stopped(row: Mapping[str, Any]) -> str:
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
    frame = cells_with_status(summary.statuses, summary.cells, CELL)
    return Table(
        table, title, frame, columns, notes, wide(frame, ["model", "point"]), grouped=True,
        cited={"value": ""}, ids=("metric", "model", "point"),
    )  # fmt: skip
