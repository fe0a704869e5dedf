"""What a figure shows and leaves out, and why, and where its marks are: one format for all suites.

A reader can point at the marks, whose values are said in words.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from retbench.report import units
from retbench.report.figure import Figure, Panel
from retbench.report.frames import Row, records

if TYPE_CHECKING:
    from retbench.store import Run

ELSEWHERE, UNMEASURED = "not in this figure", "not measured"
_HIDDEN = ("panel", "x", "each", "row", "text", "note", "cause", "point", "model")


def sidecar(figure: Figure, ends: Sequence[Row], notes: Iterable[str]) -> dict[str, Any]:
    """What is kept beside a figure: its texts, its marks, and the cells that it does not show.

    Args:
        figure: the declaration.
        ends: of the run's cells, see :func:`cells`: each counts for each of the figure's metrics.
        notes: how to read it.

    Returns:
        ``shown`` has a row a mark, with the model and the point of its cell, and the ``subject`` of
        a ratio; ``left_out`` a row for each cell of the plan that has no mark, with the reason.
    """
    drawn = figure.data[figure.data["value"].notna()]
    kept = [str(name) for name in drawn if name not in _HIDDEN]
    shown = [
        units.plain({name: row[name] for name in ("model", "point", *kept)})
        for row in records(drawn)
    ]
    metrics = list(dict.fromkeys(drawn.get("metric", ()))) or [None]
    present = {
        (row[side], row["point"], row.get("metric"))
        for row in records(drawn) for side in ("model", "subject") if side in row
    }  # fmt: skip
    left_out = [
        end | ({} if metric is None else {"metric": metric})
        for end in ends
        for metric in metrics
        if (end["model"], end["point"], metric) not in present or end["why"] != ELSEWHERE
    ]
    return {
        "figure": figure.name, "title": figure.title, "caption": figure.caption,
        "caveat": figure.caveat, "note": " · ".join(notes), "shown": shown, "left_out": left_out,
    }  # fmt: skip


def cells(run: Run) -> list[Row]:
    """Every cell of the plan, and how it ended: ``why`` is its status, or that it is elsewhere."""
    ended: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for row in records(run.statuses()[["model", "point", "status", "cause"]]):
        ended[row["model"], row["point"]].append(row)
    found = []
    for contender, point in itertools.product(run.plan.contenders, run.points):
        own = ended.get((contender.label, point), [])
        failed = [row for row in own if row["status"] != "ok"]
        worst = Counter(row["status"] for row in failed).most_common(1)
        why = worst[0][0] if worst else ELSEWHERE if own else UNMEASURED
        causes = (row["cause"] for row in failed if not pd.isna(row["cause"]))
        found.append({
            "model": contender.label, "point": point, "why": why, "cause": next(causes, None),
            "blocks": len(failed) or len(own),
        })  # fmt: skip
    return found


def marks(figure: Figure, drawing: Drawing) -> list[dict[str, Any]]:
    """The marks of the values of a figure.

    Args:
        figure: the declaration.
        drawing: of it, laid out.

    Returns:
        ``x`` and ``y``, from the left and from the upper edge as shares of the drawing's width and
        height, and ``text``.
    """
    width, height = drawing.bbox.width, drawing.bbox.height
    return [
        {"x": round(x / width, 4), "y": round(1 - y / height, 4), "text": text}
        for panel, ax in zip(figure.panels, drawing.axes, strict=True)
        for x, y, text in _of_panel(figure, panel, ax)
    ]


def _of_panel(figure: Figure, panel: Panel, ax: Axes) -> Iterator[tuple[float, float, str]]:
    """Place in pixels and text of each mark; the geometries label the lines that are marks."""
    in_rows, sizes = figure.geometry == "rows", figure.sizes(panel)
    order = {label: place for place, label in enumerate(dict.fromkeys(figure.data.get("row", ())))}
    texts: dict[tuple[str, float, float], str] = {}
    for row in records(figure.rows(panel).dropna(subset=["value"])):
        name, x, value = str(row["series"]), row["x"], row["value"]
        number = units.with_interval(value, row["low"], row["high"])
        if sizes.share:
            number = f"{value:.1%}"
        if in_rows:
            texts[name, value, order[row["row"]]] = f"{row['row']}, {name}: {sizes.label} {number}"
        else:
            at = panel.x.text(x * panel.x.divisor)
            texts[name, x, value] = f"{name} at {at}: {sizes.label} {number}"
    for line in ax.lines:
        name = str(line.get_label())
        if name in figure.styles:
            data = np.asarray(line.get_xydata(), dtype=np.float64)
            for (x, y), place in zip(data, line.get_transform().transform(data), strict=True):
                yield *place, texts[name, x, y]
