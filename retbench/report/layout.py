"""What the tables of a report hold: text, ready for Markdown, LaTeX or HTML.

Each table is laid out once, here; the formats only mark it up. Numbers get one scale a column and
three significant digits (M16); the CSV files beside them keep every digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from retbench.report import compare, stamp, units
from retbench.report.frames import groups, records
from retbench.report.summary import Summary, metric_of


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        name: of its files.
        title: what it shows.
        header: column titles, with units.
        rows: cells, one tuple a row.
        numeric: which columns hold numbers, to be set flush right.
        notes: lines with the table: how to read it, the stamp, the noise floor.
        in_print: the columns that fit a printed page; all where it is None.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    notes: tuple[str, ...]
    in_print: tuple[int, ...] | None = None


# Metric, and whether its interval is printed beside it.
_CELL_METRICS = (
    ("ttft_s", True), ("prefill_tokens_per_s", False), ("tpot_s", True),
    ("decode_tokens_per_s", False), ("tpot_bound_s", False), ("state_bytes", False),
    ("prefill_peak_bytes", False), ("decode_peak_bytes", False), ("prefill_mfu", False),
    ("decode_bandwidth", False),
)  # fmt: skip
_NOT_IN_PRINT = ("prefill_tokens_per_s", "tpot_bound_s", "prefill_mfu", "decode_bandwidth")
_SETUP_METRICS = ("cold_start_s", "import_s", "build_s", "gate_s", "gate_error")
_INTERVALS = (
    "value [low, high]: median over processes of their medians, with its 95% interval; "
    "memory: the largest over processes"
)


def tables(summary: Summary) -> tuple[Table, ...]:
    """Every table of a report, in the order in which to read them."""
    return ratios(summary), crossover(summary), cells(summary), setup(summary)


def _stamp(summary: Summary) -> tuple[str, ...]:
    return stamp.conditions(summary.meta), stamp.noise_floor(summary.meta)


def cells(summary: Summary) -> Table:
    """One row per model and point: every figure, or how the cell failed."""
    found = _numbers(summary.cells, ["model", "point", "metric"])
    present = set(summary.cells["metric"])
    shown = [(tag, interval) for tag, interval in _CELL_METRICS if tag in present]
    # A bound is read beside the time it bounds, so it has that time's scale.
    scales = {tag: _scale(summary.cells, tag.replace("_bound_s", "_s")) for tag, _ in shown}
    rows = []
    for row in records(summary.statuses):
        status = row["status"]
        if status != "ok" and row["ok_blocks"]:
            status += f" in {row['blocks'] - row['ok_blocks']} of {row['blocks']}"
        texts = [row["model"], units.tokens(row["seq_len"]), str(row["batch_size"]), status]
        for tag, interval in shown:
            numbers = found.get((row["model"], row["point"], tag), _NOTHING)
            texts.append(_printed(numbers if interval else (numbers[0], None, None), scales[tag]))
        rows.append(tuple(texts))
    header = ["Model", "Context", "Batch", "Status"]
    header += [_heading(tag, scales[tag]) for tag, _ in shown]
    numeric = (False, True, True, False, *(True for _ in shown))
    notes = (_INTERVALS, *_stamp(summary))
    printed = tuple(i for i in range(len(header)) if i < 4 or shown[i - 4][0] not in _NOT_IN_PRINT)
    return Table("cells", "Measurements", tuple(header), tuple(rows), numeric, notes, printed)


Interval = tuple[float | None, float | None, float | None]
_NOTHING: Interval = (None, None, None)


def _numbers(table: pd.DataFrame, keys: list[str]) -> dict[tuple[str, ...], Interval]:
    """Value, low and high of each row, by its keys."""
    return {
        tuple(row[key] for key in keys): (row["value"], row["low"], row["high"])
        for row in records(table)
    }


def _printed(found: Interval, scale: units.Scale) -> str:
    value, low, high = found
    return units.with_interval(value, low, high, scale.divisor)


def _scale(table: pd.DataFrame, tag: str) -> units.Scale:
    return units.scale_for(metric_of(tag).unit, table.loc[table["metric"] == tag, "value"])


def _heading(tag: str, scale: units.Scale) -> str:
    title = metric_of(tag).title
    return f"{title} ({scale.symbol})" if scale.symbol else title


def ratios(summary: Summary) -> Table:
    """The subject over each baseline: one row per baseline and point, verdicts beside the times."""
    measured = [tag for tag in (*compare.TIMES, *compare.MEMORY) if tag in _metrics(summary.ratios)]
    rows = []
    keys = ["baseline", "batch_size", "seq_len"]
    place = {model: index for index, model in enumerate(summary.models)}
    grouped = sorted(groups(summary.ratios, keys), key=lambda item: place[item[0][0]])
    for (baseline, batch_size, seq_len), group in grouped:
        by_metric = {row["metric"]: row for row in records(group)}
        texts = [baseline, units.tokens(seq_len), str(batch_size), _blocks(group)]
        for tag in measured:
            row = by_metric[tag]
            timed = tag in compare.TIMES
            edges = (row["low"], row["high"]) if timed else (None, None)
            texts.append(_printed((row["value"], *edges), units.Scale("", 1.0)))
            texts += [verdict(row)] if timed else []
        rows.append(tuple(texts))
    header = ["Baseline", "Context", "Batch", "Blocks"]
    numeric = [False, True, True, True]
    for tag in measured:
        header.append(metric_of(tag).title)
        numeric.append(True)
        if tag in compare.TIMES:
            header.append("Verdict")
            numeric.append(False)
    notes = (
        stamp.HOW_TO_READ,
        "[low, high]: 95% interval; verdicts on times are corrected over the whole table (Holm); "
        "inconclusive (n=6): 6 blocks would settle it",
        *_stamp(summary),
    )
    title = f"Ratios: {summary.models[0]} / baseline"
    return Table("ratios", title, tuple(header), tuple(rows), tuple(numeric), notes)


def _metrics(table: pd.DataFrame) -> set[str]:
    return set(table["metric"])


def _blocks(group: pd.DataFrame) -> str:
    """Blocks behind the ratios of one row."""
    least, most = group["n"].min(), group["n"].max()
    return str(most) if least == most else f"{least} to {most}"


def verdict(row: Mapping[str, Any]) -> str:
    """A ratio's verdict, with the blocks that would settle it, or why there is none."""
    if not row["verdict"]:
        return str(row["note"])
    needed = row["n_needed"]
    settled = "" if units.is_missing(needed) else f" (n={needed:.0f})"
    return f"{row['verdict']}{settled}"


def crossover(summary: Summary) -> Table:
    """From which context on the subject wins or loses."""
    rows = [
        (
            metric_of(row["metric"]).title, row["baseline"], str(row["batch_size"]),
            f"{units.tokens(row['shortest'])} to {units.tokens(row['longest'])}",
            crossing(row),
        )
        for row in records(summary.crossovers)
    ]  # fmt: skip
    header = ("Metric", "Baseline", "Batch", "Contexts", "Crossover")
    notes = (
        "the context at which the ratio crosses 1, interpolated on logarithms in each block",
        *_stamp(summary),
    )
    title = f"Crossover of {summary.models[0]}"
    numeric = (False, False, True, False, False)
    return Table("crossover", title, header, tuple(rows), numeric, notes)


def crossing(row: Mapping[str, Any]) -> str:
    """A crossover in words, with its interval; or in which direction it was not reached."""
    lower, higher = _WORDS.get(str(row["metric"]), ("smaller", "larger"))
    if row["status"] == "reached":
        value, low, high = (row[edge] for edge in ("value", "low", "high"))
        at = f"{value:.0f}" if low == high else units.with_interval(value, low, high)
        return f"{at} tokens, {lower if row['direction'] == 'better' else higher} beyond"
    if row["status"] == "always below":
        return f"not reached: {lower} at every context"
    if row["status"] == "always above":
        return f"not reached: {higher} at every context"
    return "unclear: blocks disagree or the ratio returns"


_WORDS = dict.fromkeys(compare.TIMES, ("faster", "slower"))


def setup(summary: Summary) -> Table:
    """What a fresh process costs each model before the first measurement."""
    found = _numbers(summary.setup, ["model", "metric"])
    shown = [tag for tag in _SETUP_METRICS if tag in set(summary.setup["metric"])]
    scales = {tag: _scale(summary.setup, tag) for tag in shown}
    rows = tuple(
        (model, *(_printed(found.get((model, tag), _NOTHING), scales[tag]) for tag in shown))
        for model in summary.models
    )
    header = ("Model", *(_heading(tag, scales[tag]) for tag in shown))
    numeric = (False, *(True for _ in shown))
    notes = ("cold start: of the first cell of each process", *_stamp(summary))
    return Table("setup", "Start of a process", header, rows, numeric, notes)


def definitions(summary: Summary) -> tuple[tuple[str, str], ...]:
    """Title and definition of every metric that the tables show."""
    present = set(summary.cells["metric"]) | set(summary.setup["metric"])
    tags = (*(tag for tag, _ in _CELL_METRICS), *_SETUP_METRICS)
    known = [tag for tag in tags if tag in present]
    return tuple((metric_of(tag).title, metric_of(tag).definition) for tag in known)
