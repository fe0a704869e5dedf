"""How a time or a memory figure grows: the exponent of a power law over context and batch size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

from retbench.config.plan import Axis
from retbench.metrics import METRICS
from retbench.report import axes, terms, units
from retbench.report.frames import Row, by_block, positions, records
from retbench.report.summary import Summary
from retbench.report.tables import Column, Table, name
from retbench.stats.power_law import power_law

LEAST_SIZES = 3
"""Fewer lie on every power law."""

NEAR = 0.1
"""How far an interval may reach from a whole exponent to have its word."""

_WORDS = ("constant", "linear", "quadratic")
COLUMNS = [
    "metric", "model", "along", "held", "smallest", "largest", "value", "low", "high", "n", "word",
]  # fmt: skip


def table(summary: Summary, tags: Sequence[str]) -> Table:
    """One row per metric, model and sweep of three sizes or more.

    Args:
        summary: of the run.
        tags: the metrics, in the order of the rows.
    """
    frame = pd.DataFrame(fitted(summary, tags), columns=COLUMNS)
    plain = summary.statuses[axes.is_plain(summary.points, summary.statuses)]
    held = {axis: axes.held_at(plain, axis, summary.configuration) for axis in axes.COLUMN}
    cells = (summary.cells[key] for key in ("metric", "model", "point"))
    along = partial(_along, records(plain.assign(**held)), set(zip(*cells, strict=True)))
    columns = [
        name("Metric", lambda row: METRICS[row["metric"]].title),
        name("Model", "model"),
        name("Along", along),
        Column("At", partial(_at, summary), style="name"),
        Column("Exponent", _exponent, rank=0),
        name("Growth", "word"),
    ]  # fmt: skip
    notes = (
        "exponent: slope of the metric's logarithm over that of the size, by least squares in each "
        "block; [low, high]: 95% interval over blocks, Student's t; memory too",
        f"growth: constant, linear, quadratic where the interval lies within {NEAR} of 0, 1, 2",
    )
    return Table(
        "exponents", "Growth", frame, columns, notes, grouped=True, cited={"value": "exponent"},
        ids=("metric", "model", "along", "held"),
    )  # fmt: skip


def fitted(summary: Summary, tags: Sequence[str]) -> Iterator[Row]:
    """The fits, by metric, model, sweep and what it holds; a smoke run earns none (M2)."""
    if terms.is_smoke(summary.meta):
        return
    plain = summary.processes[axes.is_plain(summary.points, summary.processes)]
    sweeps: dict[tuple[str, str], list[tuple[Axis, int, Any]]] = {}
    for axis in axes.COLUMN:
        held_at = plain.assign(held=axes.held_at(plain, axis, summary.configuration))
        for (tag, model, held), rows in positions(held_at, ["metric", "model", "held"]).items():
            sweeps.setdefault((tag, model), []).append((axis, int(held), rows))
    numbers = plain[["block", *axes.COLUMN.values(), "value"]]
    for tag, model in itertools.product(tags, summary.models):
        for axis, held, rows in sweeps.get((tag, model), ()):
            fit = _fit(numbers.iloc[rows], axis)
            if fit is not None:
                yield {"metric": tag, "model": model, "along": axis, "held": held} | fit


def _at(summary: Summary, row: Row) -> str:
    """What a sweep does not vary, in words."""
    if row["along"] == "batch":
        return f"context {units.tokens(row['held'])}"
    if "tokens_per_step" in summary.configuration:
        return f"{row['held']:,} tokens a step"
    return f"batch {row['held']}"


def _exponent(row: Row) -> str:
    """To two decimals: the third says nothing of how a figure grows."""
    value, low, high = (f"{row[edge]:z.2f}" for edge in ("value", "low", "high"))
    return value if math.isnan(row["low"]) else f"{value} [{low}, {high}]"


def _fit(rows: pd.DataFrame, axis: Axis) -> Row | None:
    _, sizes, found = by_block(rows, axes.COLUMN[axis])
    if len(sizes) < LEAST_SIZES:
        return None
    law = power_law(sizes, found)
    if law is None:
        return None
    exponent = law.exponent  # of a law that falls
    low, high = (math.nan if edge is None else -edge for edge in (exponent.high, exponent.low))
    return {
        "smallest": int(sizes.min()), "largest": int(sizes.max()), "value": -exponent.value,
        "low": low, "high": high, "n": exponent.n, "word": _word(low, high),
    }  # fmt: skip


def _word(low: float, high: float) -> str:
    """What an exponent with that interval is called; empty where it is none of the whole ones."""
    words = (
        word for exponent, word in enumerate(_WORDS)
        if exponent - NEAR <= low and high <= exponent + NEAR
    )  # fmt: skip
    return next(words, "")


def _along(planned: Sequence[Row], known: Collection[tuple[str, str, str]], row: Row) -> str:
    """What a sweep varies, between which sizes, and at which of them there is no value.

    Args:
        planned: the plain cells, with what a sweep along each axis holds there.
        known: metric, model and point of all that has a value.
        row: of the table.
    """
    axis, model = row["along"], row["model"]
    text = units.tokens if axis == "context" else str
    ends = " to ".join(map(text, (row["smallest"], row["largest"])))
    points = {
        cell[axes.COLUMN[axis]]: cell["point"]
        for cell in planned
        if cell["model"] == model and cell[axis] == row["held"]
    }
    found = {size for size, point in points.items() if (row["metric"], model, point) in known}
    return ", ".join(filter(None, (axis, ends, units.gaps(found, sorted(points), text))))
