"""What the tables of a report hold: text, ready for Markdown, LaTeX or HTML.

Each table is laid out once, here; the formats only mark it up. Numbers get one scale a column and
three significant digits (M16); the CSV files beside them keep every digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from retbench.report import compare, stamp, units
from retbench.report.flags import MEANING
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
        notes: how to read it, a line each.
        stamp: under which conditions it was measured, and the noise floor.
        in_print: the columns that fit a printed page; all where it is None.
        on_screen: more notes, on what is in the other columns.
        frame: what its CSV file holds, every digit.
        above: whether it stands before the figures, as a comparison does.
        grouped: whether in print its first column is a heading over the rows that share it.
        headline: whether the command line prints it.
        warned: whether the run's warnings stand under it.
        defines: whether the definitions of the metrics do.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    notes: tuple[str, ...]
    stamp: tuple[str, ...]
    in_print: tuple[int, ...] | None = None
    on_screen: tuple[str, ...] = ()
    frame: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    above: bool = False
    grouped: bool = False
    headline: bool = False
    warned: bool = False
    defines: bool = False


# Metric, and what of it is printed: its value, with its interval, or a percentile.
_CELL_COLUMNS = (
    ("ttft_s", "interval"), ("prefill_tokens_per_s", "value"), ("tpot_s", "interval"),
    ("tpot_s", "p90"), ("tpot_s", "p99"), ("tpot_bound_s", "value"), ("tpot_over_bound", "value"),
    ("mean_tpot_s", "interval"), ("decode_tokens_per_s", "value"), ("state_bytes", "value"),
    ("prefill_peak_bytes", "value"), ("decode_peak_bytes", "value"), ("prefill_mfu", "value"),
    ("decode_bandwidth", "value"),
)  # fmt: skip
_IN_PRINT = ("ttft_s", "tpot_s", "decode_tokens_per_s", "state_bytes", "prefill_peak_bytes",
             "decode_peak_bytes")  # fmt: skip
_EDGES = ("value", "low", "high")
# What is printed of each; the gate's error is the same in every process.
_SETUP_METRICS = dict.fromkeys(("cold_start_s", "import_s", "build_s", "gate_s"), _EDGES) | {
    "gate_error": ("value",)
}  # fmt: skip
_INTERVALS = (
    "value [low, high]: median over processes of their medians, with its 95% interval; "
    "memory: the largest over processes"
)


def tables(summary: Summary) -> tuple[Table, ...]:
    """Every table of a report, in the order in which to read them."""
    return (
        replace(ratios(summary), frame=summary.ratios, above=True, grouped=True, warned=True),
        replace(crossover(summary), frame=summary.crossovers, above=True),
        replace(batches(summary), frame=summary.batches, above=True),
        replace(
            cells(summary), frame=_with_status(summary), grouped=True, warned=True, defines=True
        ),
        replace(setup(summary), frame=summary.setup),
    )


def _with_status(summary: Summary) -> pd.DataFrame:
    """The cells with how each ended; one that has no figures at all is a row without a metric."""
    keys = ["model", "seq_len", "batch_size", "point"]
    return summary.statuses.merge(summary.cells, on=keys, how="left", sort=False)


def stamped(summary: Summary) -> tuple[str, ...]:
    """The lines on conditions and noise floor that every table carries."""
    return stamp.conditions(summary.meta), stamp.noise_floor(summary.meta)


def cells(summary: Summary) -> Table:
    """One row per model and point: every figure, or how the cell failed, and its flags."""
    found = {(row["model"], row["point"], row["metric"]): row for row in records(summary.cells)}
    present = set(summary.cells["metric"])
    shown = [(tag, what) for tag, what in _CELL_COLUMNS if tag in present]
    # A bound is read beside the time it bounds, so it has that time's scale.
    scales = {tag: scale_of(summary.cells, tag.replace("_bound_s", "_s")) for tag, _ in shown}
    rows = []
    for row in records(summary.statuses):
        texts = [row["model"], units.tokens(row["seq_len"]), str(row["batch_size"]), ending(row)]
        for tag, what in shown:
            cell = found.get((row["model"], row["point"], tag), {})
            keys = _EDGES if what == "interval" else (what,)
            texts.append(printed([cell.get(key) for key in keys], scales[tag]))
        rows.append((*texts, row["flags"]))
    header = ["Model", "Context", "Batch", "Status"]
    header += [heading(tag, scales[tag], what) for tag, what in shown]
    numeric = (False, True, True, False, *(True for _ in shown), False)
    in_print = [i for i, (tag, what) in enumerate(shown, 4) if _is_in_print(tag, what)]
    return Table(
        "cells", "Measurements", (*header, "Flags"), tuple(rows), numeric,
        (_INTERVALS,), stamped(summary), (0, 1, 2, 3, *in_print), (_tails(),),
    )  # fmt: skip


def ending(row: Mapping[str, Any]) -> str:
    """How a cell ended, with the share of its blocks where only some failed."""
    status = str(row["status"])
    if status != "ok" and row["ok_blocks"]:
        status += f" in {row['blocks'] - row['ok_blocks']} of {row['blocks']}"
    return status


def _is_in_print(tag: str, what: str) -> bool:
    return tag in _IN_PRINT and what in ("value", "interval")


def _tails() -> str:
    """What the percentiles are over: steps, or means of steps too short for the clock (M4, M8)."""
    over = "the time per step of slices, each of several decode steps where one is short,"
    return (
        f"p90 and p99 describe {over} of all processes together; {units.DASH}: too few of them "
        "(p90 needs 29, p99 299)"
    )


def printed(found: Sequence[float | None], scale: units.Scale) -> str:
    """A value, or a value with its interval's ends."""
    value, low, high = (*found, None, None)[:3]
    return units.with_interval(value, low, high, scale.divisor)


def scale_of(table: pd.DataFrame, tag: str) -> units.Scale:
    """The scale that suits a metric's values in a table."""
    return units.scale_for(metric_of(tag).unit, table.loc[table["metric"] == tag, "value"])


def heading(tag: str, scale: units.Scale, what: str = "value") -> str:
    """A column's title, with its unit."""
    title = metric_of(tag).title
    if what not in ("value", "interval"):
        title += f" {what}"
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
            timed = tag in compare.TIMES
            if (row := by_metric.get(tag)) is None:
                texts += [units.DASH] * (1 + timed)
                continue
            edges = (row["low"], row["high"]) if timed else (None, None)
            texts.append(printed((row["value"], *edges), units.Scale("", 1.0)))
            if timed:
                said = verdict(row)
                # Why there is no ratio is said once, not for each metric.
                texts.append(units.DASH if row["note"] and said in texts else said)
        rows.append(tuple(texts))
    header = ["Baseline", "Context", "Batch", "Blocks"]
    numeric = [False, True, True, True]
    for tag in measured:
        header.append(metric_of(tag).title)
        numeric.append(True)
        if tag in compare.TIMES:
            header.append("Verdict")
            numeric.append(False)
    title = f"Ratios: {summary.models[0]} / baseline"
    return Table(
        "ratios", title, tuple(header), tuple(rows), tuple(numeric),
        ratio_notes(summary.ratios, summary.meta), stamped(summary), _ratios_in_print(header),
    )  # fmt: skip


def _ratios_in_print(header: Sequence[str]) -> tuple[int, ...] | None:
    """The columns of ratios that fit a page; three times with their verdicts leave no more room."""
    if metric_of("mean_tpot_s").title not in header:
        return None
    left_out = ("Blocks", *(metric_of(tag).title for tag in compare.MEMORY if tag != "state_bytes"))
    return tuple(i for i, title in enumerate(header) if title not in left_out)


def ratio_notes(ratios: pd.DataFrame, meta: Mapping[str, Any]) -> tuple[str, ...]:
    """How to read a table of ratios, and what its blocks could have told."""
    timed = ratios[ratios["metric"].isin(compare.TIMES)]
    interval = f"[low, high]: {100 * (1 - compare.alpha(meta)):.4g}% interval over blocks"
    if meta.get("stopped"):
        interval += ", of a run that might have ended at an earlier look: 94% of such hold"
    notes = [stamp.HOW_TO_READ, interval, _family(timed)]
    if told := resolution(timed):
        notes.append(told)
    if (timed["verdict"] == "inconclusive").any():
        notes.append(
            "inconclusive (tells 3.1%; 4 min more): a difference of 3.1% would have been told, and "
            "blocks of 4 minutes more would settle it, were centre and spread to stay"
        )
    if timed["alone"].any():
        notes.append(f"alone: {MEANING['alone']}; the ratio is that of the processes' medians")
    if said := stamp.ended(meta):
        notes.append(said)
    return tuple(notes)


def _family(timed: pd.DataFrame) -> str:
    """Which rows are the primary family, and what that means."""
    primary = timed[timed["primary"].astype(bool)]
    if primary.empty:
        return "no row was named as primary before the run: each interval holds for itself alone"
    named = "; ".join(
        f"{metric_of(metric).title} at {point}"
        for metric, point in dict.fromkeys(zip(primary["metric"], primary["point"], strict=True))
    )
    confidence = float(primary["confidence"].max())
    together = f", hold together (each {confidence:.1%})" if len(primary) > 1 else ""
    return f"primary, named before the run: {named}{together}; other rows are exploratory"


def resolution(timed: pd.DataFrame) -> str | None:
    """The smallest differences that a run could have told, by metric; None where there is none."""
    parts = [
        f"{metric_of(tag).title} {_percent(known.median())} (worst row {_percent(known.max())})"
        for tag in compare.TIMES
        if len(known := timed.loc[timed["metric"] == tag, "resolution"].dropna())
    ]
    if not parts:
        return None
    return f"smallest difference that 4 such runs in 5 would tell, median row: {', '.join(parts)}"


def _percent(share: float) -> str:
    return f"{units.significant(100 * share, 2)}%"


def _metrics(table: pd.DataFrame) -> set[str]:
    return set(table["metric"])


def _blocks(group: pd.DataFrame) -> str:
    """Blocks behind the ratios of one row."""
    least, most = group["n"].min(), group["n"].max()
    return str(most) if least == most else f"{least} to {most}"


def verdict(row: Mapping[str, Any]) -> str:
    """A ratio's verdict, or why there is none.

    An inconclusive one comes with the difference that its blocks could have told, and the time, or
    where that is not known the blocks, that would settle it.
    """
    if not row["verdict"]:
        return str(row["note"])
    said = f"{row['verdict']}, {compare.ALONE}" if row["alone"] else str(row["verdict"])
    if row["verdict"] != "inconclusive" or units.is_missing(row["resolution"]):
        return said
    details = [f"tells {_percent(row['resolution'])}"]
    if not units.is_missing(row["minutes_needed"]):
        details.append(f"{max(math.ceil(row['minutes_needed']), 1)} min more")
    elif not units.is_missing(row["n_needed"]):
        more = int(row["n_needed"] - row["n"])
        details.append(f"{more} block{'s' * (more > 1)} more")
    return f"{said} ({'; '.join(details)})"


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
    notes = ("the context at which the ratio crosses 1, interpolated on logarithms in each block",)
    title = f"Crossover of {summary.models[0]}"
    numeric = (False, False, True, False, False)
    return Table("crossover", title, header, tuple(rows), numeric, notes, stamped(summary))


def crossing(row: Mapping[str, Any]) -> str:
    """A crossover in words, with its interval; or in which direction it was not reached."""
    if row["status"] == compare.NO_CLAIM:
        return compare.NO_CLAIM
    lower, higher = _WORDS.get(str(row["metric"]), ("smaller", "larger"))
    if row["status"] == "reached":
        value, low, high = (row[edge] for edge in ("value", "low", "high"))
        at = f"{value:.0f}" if low == high else units.with_interval(value, low, high)
        return f"{at} tokens, {lower if row['direction'] == 'better' else higher} beyond"
    if row["status"] == "always below":
        return f"not reached: {lower} at every context"
    if row["status"] == "always above":
        return f"not reached: {higher} at every context"
    return f"unclear: {row['reason']}"


def batches(summary: Summary) -> Table:
    """How far each model's batch size can go, where several were tried."""
    rows = [
        (row["model"], units.tokens(row["seq_len"]), largest(row), stopped(row))
        for row in records(summary.batches)
    ]
    header = ("Model", "Context", "Largest batch", "Beyond it")
    notes = ("the largest batch size that ended ok in every block",)
    numeric = (False, True, True, False)
    title = "Largest batch that fits"
    return Table("batch", title, header, tuple(rows), numeric, notes, stamped(summary))


def largest(row: Mapping[str, Any]) -> str:
    """The largest batch size that fits."""
    return "none" if pd.isna(row["batch_size"]) else str(row["batch_size"])


def stopped(row: Mapping[str, Any]) -> str:
    """What keeps a larger batch from fitting, as far as was tried."""
    if pd.isna(row["stopped_at"]):
        return "none larger was tried"
    return f"{row['stopped_at']}: {str(row['stopped_by']).replace('_', ' ')}"


_WORDS = dict.fromkeys(compare.TIMES, ("faster", "slower"))


def setup(summary: Summary) -> Table:
    """What a fresh process costs each model before the first measurement."""
    found = {(row["model"], row["metric"]): row for row in records(summary.setup)}
    shown = [tag for tag in _SETUP_METRICS if tag in set(summary.setup["metric"])]
    scales = {tag: scale_of(summary.setup, tag) for tag in shown}

    def text(model: str, tag: str) -> str:
        row = found.get((model, tag), {})
        return printed([row.get(key) for key in _SETUP_METRICS[tag]], scales[tag])

    rows = tuple((model, *(text(model, tag) for tag in shown)) for model in summary.models)
    header = ("Model", *(heading(tag, scales[tag]) for tag in shown))
    numeric = (False, *(True for _ in shown))
    notes = ("cold start: of the first cell of each process",)
    return Table("setup", "Start of a process", header, rows, numeric, notes, stamped(summary))


def definitions(summary: Summary) -> tuple[tuple[str, str], ...]:
    """Title and definition of every metric that the tables show."""
    present = set(summary.cells["metric"]) | set(summary.setup["metric"])
    tags = dict.fromkeys((*(tag for tag, _ in _CELL_COLUMNS), *_SETUP_METRICS))
    known = [tag for tag in tags if tag in present]
    return tuple((metric_of(tag).title, metric_of(tag).definition) for tag in known)
