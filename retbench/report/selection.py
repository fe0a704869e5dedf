"""Which cells a figure shows, which it leaves out, and why.

Every figure is drawn from what these functions select, and its sidecar lists every cell of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from retbench.config.plan import Axis
from retbench.report import axes, stamp
from retbench.report.frames import records
from retbench.report.summary import Summary

Sidecar = dict[str, Any]


def planned(summary: Summary, axis: Axis) -> list[int]:
    """The planned values of an axis, those that failed included."""
    column, on_axis = along(summary, summary.statuses, axis)
    return sorted({int(value) for value in summary.statuses.loc[on_axis, column]})


def along(summary: Summary, table: pd.DataFrame, axis: Axis) -> tuple[str, pd.Series]:
    """The column that varies along an axis, and which rows of ``table`` lie on it."""
    return axes.COLUMN[axis], axes.on_sweep(summary.points, table, axis)


def cells_of(summary: Summary, metric: str, axis: Axis) -> pd.DataFrame:
    """A metric's cells along an axis, ascending."""
    cells = summary.cells[summary.cells["metric"] == metric]
    column, on_axis = along(summary, cells, axis)
    return cells[on_axis].sort_values(column, kind="stable")


def failures_on(summary: Summary, axis: Axis) -> tuple[dict[str, tuple[list[int], list[str]]], str]:
    """Places and labels of the cells that failed, per model; a share where some blocks were ok."""
    column, on_axis = along(summary, summary.statuses, axis)
    rows = summary.statuses[on_axis & (summary.statuses["status"] != "ok")].sort_values(
        column, kind="stable"
    )
    found: dict[str, tuple[list[int], list[str]]] = {}
    for row in records(rows):
        label = row["status"]
        if row["ok_blocks"]:
            label += f" {row['blocks'] - row['ok_blocks']}/{row['blocks']}"
        places, labels = found.setdefault(row["model"], ([], []))
        places.append(row[column])
        labels.append(label)
    return found, column


def sidecar_of(
    summary: Summary, name: str, title: str, metrics: Sequence[str], drawn: pd.DataFrame
) -> Sidecar:
    """Every cell of the run for the figure's metrics: shown with its value, or left out and why."""
    columns = ["model", "point", "metric", "unit", "value", "low", "high", "n"]
    shown = drawn[columns].astype(object).where(drawn[columns].notna(), None).to_dict("records")
    present = {(row["model"], row["point"], row["metric"]) for row in shown}
    places = summary.cells[["model", "point", "metric"]]
    known = set(places.itertuples(index=False, name=None))
    left_out = []
    for row in records(summary.statuses):
        for metric in metrics:
            key = (row["model"], row["point"], metric)
            failed = row["status"] != "ok"
            if key in present and not failed:
                continue
            measured = key in known
            why = row["status"] if failed else "not on this axis" if measured else "not measured"
            left_out.append({
                "model": row["model"], "point": row["point"], "metric": metric, "why": why,
                "cause": row["cause"] if failed else None,
                "blocks": row["blocks"] - row["ok_blocks"] if failed else row["blocks"],
            })  # fmt: skip
    caption = stamp.conditions(summary.meta)
    return {
        "figure": name, "title": title, "caption": caption, "shown": shown, "left_out": left_out
    }  # fmt: skip
