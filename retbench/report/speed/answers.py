"""What a run on speed says, one line a question: who is faster, from where on, and what is open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import axes, compare, terms, units
from retbench.report.content import open_line
from retbench.report.frames import Row, records
from retbench.report.speed.ratio_tables import crossing
from retbench.report.summary import Summary


def answers(summary: Summary, tags: Sequence[str]) -> Iterator[str]:
    """How the subject compares with each baseline at the longest context, and where they cross.

    Args:
        summary: of the run; a smoke run has no answers (M2).
        tags: the metrics to speak of, the most important first.
    """
    if terms.is_smoke(summary.meta):
        return
    subject, *_ = summary.models
    on_sweep = summary.ratios[axes.on_sweep(summary.points, summary.ratios, "context")]
    for baseline in baselines(summary.meta):
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


def baselines(meta: Mapping[str, Any]) -> list[str]:
    """The baselines, variants of the subject last."""
    subject, *others = meta["plan"]["contenders"]
    others = sorted(others, key=lambda other: other["family"] == subject["family"])
    return [other["label"] for other in others]


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


def still_open(ratios: pd.DataFrame, meta: Mapping[str, Any]) -> str:
    """How many ratios of times are open, and what would settle them; empty where none is."""
    timed = ratios[ratios["metric"].isin(compare.TIMES) & (ratios["n"] > 0)]
    unsettled = timed[timed["verdict"] == "inconclusive"]
    needed = unsettled["minutes_needed"].dropna()
    taken = sum(meta.get("block_s", {}).values()) / 60
    options = f"--minutes {math.ceil(taken + needed.max())}" if len(needed) else ""
    if len(precisions := unsettled["precision_needed"].dropna()):
        options += f" --precision {units.below(precisions.min())}"
    return open_line(len(unsettled), f"{len(timed)} ratios of times", len(needed), options)
