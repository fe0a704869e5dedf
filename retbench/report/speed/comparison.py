"""How speeds compare: ratios with their verdicts, where they cross 1, and what is still open.

Both as tables and as answers, one line a question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd

from retbench.config.run import MEMORY_BLOCKS
from retbench.metrics import METRICS
from retbench.report import axes, compare, stamp, terms, units
from retbench.report.content import open_line
from retbench.report.flags import MEANING
from retbench.report.frames import Row, column, records
from retbench.report.speed.tables import in_order
from retbench.report.summary import Summary
from retbench.report.tables import BATCH, CONTEXT, Column, Table, name, wide
from retbench.store import Run, RunMeta

SETTLED = (
    "inconclusive (+4 min): blocks of 4 minutes more would settle it, were centre and spread to "
    "stay; (+4 min, ±0.3%): only with --precision 0.3%, or the run ends before"
)
CROSSOVER_IS = "the context at which the ratio crosses 1, interpolated on logarithms in each block"
CROSSING_COLUMNS = (
    Column("Contexts", lambda row: f"{units.tokens(row['shortest'])} to "
           f"{units.tokens(row['longest'])}", style="name"),
    Column("Crossover", lambda row: crossing(row), rank=0, style="sentence"),
)  # fmt: skip
# In which order ratios are left out where there is no room; the first time stays.
_RANKS = {"mean_tpot_s": 4, "prefill_peak_bytes": 3, "decode_peak_bytes": 2, "state_bytes": 1,
          "step_peak_bytes": 2, "activations_bytes": 1, "token_j": 2, "mean_token_j": 5,
          "prefill_j": 4, "step_j": 2}  # fmt: skip


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
    """The blocks behind the ratios of a row: of times, where it has any."""
    found = {tag: cell["n"] for tag, cell in row.items() if isinstance(cell, dict)}
    timed = {n for tag, n in found.items() if tag in compare.TIMES}
    counts = sorted(timed or set(found.values()))
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def ratio_notes(ratios: pd.DataFrame, meta: Mapping[str, Any]) -> list[str]:
    """How to read a table of ratios, and what its blocks could have told."""
    timed = ratios[ratios["metric"].isin(compare.TIMES)]
    interval = f"[low, high]: {100 * (1 - terms.alpha(meta)):.4g}% interval over blocks"
    if terms.was_looked_at(meta):
        interval += ", of a run that might have ended at an earlier look: 94% of such hold"
    notes = [stamp.HOW_TO_READ, interval, _family(timed)]
    if told := resolution(timed):
        notes.append(told)
    if timed["alone"].any():
        notes.append(f"alone: {MEANING['alone']}; the ratio is that of the processes' medians")
    read = ratios.loc[ratios["metric"].isin(compare.MEMORY), "n"] == MEMORY_BLOCKS
    if read.any() and timed["n"].max() > MEMORY_BLOCKS:
        notes.append(f"memory: read in the first {MEMORY_BLOCKS} blocks")
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
    if row["status"] == "not seen":
        return f"no crossing seen; {row['reason']}"
    side = {"always below": lower, "always above": higher}.get(row["status"], "the same")
    where = f"every context that has a value; {row['reason']}" if row["reason"] else "every context"
    return f"not reached: {side} at {where}"


def claimed(crossovers: pd.DataFrame) -> pd.DataFrame:
    """The crossovers of a run that makes claims."""
    return crossovers[crossovers["status"] != compare.NO_CLAIM]


def crossovers(summary: Summary, note: str = CROSSOVER_IS) -> Table:
    """From which context on the subject wins or loses.

    That a state is the smaller one throughout needs no measurement, and is not said.
    """
    shown = claimed(summary.crossovers)
    shown = shown[(shown["metric"] != "state_bytes") | (shown["status"] == "reached")]
    columns = [
        name("Metric", lambda row: METRICS[row["metric"]].title),
        name("Baseline", "baseline"), BATCH, *CROSSING_COLUMNS,
    ]  # fmt: skip
    return Table(
        "crossover", f"Crossover of {summary.models[0]}", shown, columns,
        (note,), above=True, cited={"value": ""},
        ids=("metric", "subject", "baseline",
             *(["batch_size"] if summary.configuration.get("grid") else [])),
    )  # fmt: skip


def answers(summary: Summary, tags: Sequence[str]) -> Iterator[str]:
    """How the subject compares with each baseline at the longest context, and where they cross.

    Args:
        summary: of the run; a smoke run has no answers (M2).
        tags: the metrics to speak of, the most important first.
    """
    if terms.is_smoke(summary.meta):
        return
    first, *others = summary.meta["plan"]["contenders"]
    variants_last = sorted(others, key=lambda other: other["family"] == first["family"])
    subject = first["label"]
    on_sweep = summary.ratios[axes.on_sweep(summary.points, summary.ratios, "context")]
    for baseline in (other["label"] for other in variants_last):
        rows = on_sweep[(on_sweep["baseline"] == baseline) & on_sweep["value"].notna()]
        if rows.empty:
            yield f"{subject} and {baseline} have no context that both could run"
            continue
        longest = rows["seq_len"].max()
        at = {row["metric"]: row for row in records(rows[rows["seq_len"] == longest])}
        said = "; ".join(said_of(at[tag]) for tag in tags if tag in at)
        yield f"{subject} against {baseline} at {units.tokens(longest)} tokens: {said}"
    crossed = summary.crossovers[summary.crossovers["status"] == "reached"]
    for row in records(crossed[crossed["metric"].isin(compare.TIMES)]):
        batch = f" at batch {row['batch_size']}" if summary.configuration.get("grid") else ""
        yield f"{METRICS[row['metric']].title} against {row['baseline']}{batch}: {crossing(row)}"


def said_of(row: Row) -> str:
    """What a ratio says of its metric."""
    title = METRICS[row["metric"]].title
    timed = row["metric"] in compare.TIMES
    if not timed:  # the same in every block, or nearly
        row = row | {"low": math.nan, "high": math.nan}
    if not row["verdict"]:
        return f"{title} not compared ({row['note']})"
    if row["verdict"] in ("inconclusive", "equivalent"):
        word = "open" if row["verdict"] == "inconclusive" else "the same"
        return f"{title} {word} ({units.ratio_of(row)})"
    words = ("faster", "slower") if timed else ("smaller", "larger")
    return f"{title} {units.factor(row, *words)}"


def unsettled(summary: Summary) -> str:
    """How many ratios of times are open, and what would settle them; empty where none is."""
    timed = summary.timed
    undecided = timed[timed["verdict"] == "inconclusive"]
    needed = undecided["minutes_needed"].dropna()
    taken = sum(summary.meta.get("block_s", {}).values()) / 60
    way = "repeat the run with"
    if len(needed):
        way += f" --minutes {math.ceil(taken + needed.max())}"
    if len(precisions := undecided["precision_needed"].dropna()):
        way += f" --precision {units.below(precisions.min())}"
    return open_line(len(undecided), f"{len(timed)} ratios of times", len(needed), way)


def still_open(run: Run, alpha: float) -> list[str]:
    """Name the ratios of times that are neither decided nor as narrow as the run was asked.

    They are those that the report will show, from the same code. A ratio that a failure leaves
    without any block is not waited for.

    Args:
        run: the run so far.
        alpha: of the intervals of this look (see :func:`retbench.stats.comparison.level`).
    """
    meta = cast("RunMeta", {**run.meta, "stopped": {"alpha": alpha}})
    timed = Summary(replace(run, meta=meta)).timed
    narrow = np.log(column(timed, "high") / column(timed, "low")) / 2 <= terms.narrow(meta)
    rows = timed[(timed["verdict"] == "inconclusive") & ~narrow]
    return [
        f"{row['metric']} of {row['subject']} / {row['baseline']} at {row['point']}"
        for row in records(rows)
    ]
