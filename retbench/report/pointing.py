"""What a reader can point at: the marks of a drawing, with their values in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from retbench.report import units
from retbench.report.figure import Axis, Figure, Panel
from retbench.report.frames import Row, records


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
    in_rows = figure.geometry == "rows"
    order = {label: place for place, label in enumerate(dict.fromkeys(figure.data.get("row", ())))}
    known: dict[tuple[str, float, float], Row] = {}
    for row in records(figure.rows(panel).dropna(subset=["value"])):
        at = (row["value"], order[row["row"]]) if in_rows else (row["x"], row["value"])
        known[(str(row["series"]), *at)] = row
    for line in ax.lines:
        name = str(line.get_label())
        if name not in figure.styles:
            continue
        data = np.asarray(line.get_xydata(), dtype=np.float64)
        for (x, y), (right, up) in zip(data, line.get_transform().transform(data), strict=True):
            row = known[name, x, y]
            yield right, up, _text(panel, name, row, str(row["row"]) if in_rows else None)


def _text(panel: Panel, name: str, row: Row, label: str | None) -> str:
    """A mark in words: whose it is, where, and its value with the interval."""
    if label is not None:
        return f"{label}, {name}: {panel.x.label} {_number(row, panel.x)}"
    at = panel.x.text(row["x"] * panel.x.divisor)
    return f"{name} at {at}: {panel.y.label} {_number(row, panel.y)}"


def _number(row: Row, axis: Axis) -> str:
    if axis.share:
        return f"{row['value']:.1%}"
    return units.with_interval(row["value"], row["low"], row["high"])
