"""Draws a declared figure: header, legend and footer around panels of one of three geometries.

A mark is a centre with a thin whisker, beside the values of its single processes where those are
few; from :data:`BAND_FROM` on a band takes their place. Failures have lanes below the axis, apart
from all data, so that nothing is hidden and nothing is left out. The legend is made of what was
drawn, and the footer says how to read it.
"""

from __future__ import annotations

from typing import Any

from retbench.report import theme  # isort: skip (before matplotlib, see there)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.figure import FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from retbench.report.figure import Figure
from retbench.report.marks import Marks
from retbench.report.panel_axes import frame_panel

_PANEL_IN = (3.6, 3.1)  # width and height of a panel, with its labels
_SMALL_IN = (2.7, 2.2)  # where there are more than three in a row or a grid of them
_ALONE_IN = 6.0  # width of a single panel
_ROW_IN = 0.3  # height of a row of the geometry ``rows``
_PAPER_IN = (2.0, 1.55)  # least width of a panel in print; of one of many
_MANY = 4  # more panels are small ones


def draw(figure: Figure, paper_in: float | None = None) -> tuple[Drawing, tuple[str, ...]]:
    """Draw a figure.

    Args:
        figure: the declaration.
        paper_in: its width in print, in inches: without title, conditions and footer, which belong
            into the caption there; None for the screen.

    Returns:
        The drawing, and how to read it, a clause each.
    """
    places, size = _places(figure, paper_in)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04)
    drawing = Drawing(figsize=size, dpi=theme.DPI, layout=layout)
    FigureCanvasAgg(drawing)
    body = _header(drawing, figure) if paper_in is None else drawing
    rows, columns = (1 + max(axis) for axis in zip(*places, strict=True))
    grid = body.add_gridspec(rows, columns)
    legend: dict[str, Line2D] = {}
    notes: list[str] = []
    lanes = 0
    axes = {place: body.add_subplot(grid[place]) for place in places}
    for panel, place in zip(figure.panels, places, strict=True):
        ax = axes[place]
        frame_panel(ax, figure, panel, width_in=size[0] / columns, outer=place[1] == 0)
        marks = Marks(ax, figure, panel, legend, notes)
        (marks.rows if figure.geometry == "rows" else marks.lines)()
        lanes = max(lanes, marks.failure_lanes())
    for (row, column), ax in axes.items():
        below = axes.get((row + 1, column))
        if below and below.get_xlabel() == ax.get_xlabel():
            ax.set_xlabel("")
    in_order = dict.fromkeys([*(name for name in figure.styles if name in legend), *legend])
    entries = {figure.named(name): legend[name] for name in in_order}
    taken = lanes * 0.14 * rows + _legend(drawing, body, entries)
    notes = list(dict.fromkeys([*notes, *figure.notes]))
    if paper_in is None:
        footer = drawing.supxlabel(**_wrapped(" · ".join(notes)), size=7)
        footer.set_color(theme.MUTED)
        taken += footer.get_window_extent().height / theme.DPI
    drawing.set_size_inches(size[0], size[1] + taken)
    layout.execute(drawing)
    drawing.set_layout_engine(None)  # laid out once, for every format alike
    return drawing, tuple(notes)


def _wrapped(text: str) -> dict[str, Any]:
    """Arguments of a text at the left that is broken into lines, in which a dollar is a dollar.

    Where matplotlib breaks lines it measures formulas whether or not it is to parse them.
    """
    escaped = text.replace("$", r"\$")
    return {"t": escaped, "parse_math": True, "x": 0.01, "ha": "left", "wrap": True}


def _places(
    figure: Figure, paper_in: float | None
) -> tuple[list[tuple[int, int]], tuple[float, float]]:
    """Row and column of each panel, and width and height of them all in inches."""
    fitting, many = figure.columns, len(figure.panels) > _MANY
    if paper_in is not None:
        fitting = max(1, min(fitting, int(paper_in / _PAPER_IN[many])))
    places: list[tuple[int, int]] = []
    row, column, group = 0, 0, figure.panels[0].group
    for panel in figure.panels:
        if column == fitting or panel.group != group:
            row, column, group = row + 1, 0, panel.group
        places.append((row, column))
        column += 1
    rows, columns = (1 + max(axis) for axis in zip(*places, strict=True))
    width, height = _SMALL_IN if many else _PANEL_IN
    if columns == 1 and figure.geometry != "rows":
        width = _ALONE_IN
    if figure.geometry == "rows":
        most = max(figure.rows(panel)["row"].nunique() for panel in figure.panels)
        width, height = 7.2 if columns == 1 else 4.6, 1.05 + _ROW_IN * max(most, 2)
    if paper_in is not None:
        width = paper_in / columns
        height = height if figure.geometry == "rows" else (1.3 if many else 1.9)
    return places, (width * columns, height * rows)


def _header(drawing: Drawing, figure: Figure) -> FigureBase:
    """Title, conditions and caveat; returns what is below them."""
    lines: list[tuple[str, dict[str, Any]]] = [
        (figure.title, {"size": 12, "weight": "bold"}),
        (figure.caption, {"size": 7.5, "color": theme.MUTED}),
        (figure.caveat, {"size": 8.5, "weight": "bold", "color": theme.ALARM}),
    ]
    level: FigureBase = drawing
    for text, look in lines:
        if not text:
            continue
        level.suptitle(**_wrapped(text), **look)
        level = level.subfigures()  # type: ignore[assignment]
        width, height = drawing.get_size_inches()
        drawing.set_size_inches(width, height + 0.24)
    return level


def _legend(drawing: Drawing, body: FigureBase, entries: dict[str, Line2D]) -> float:
    """The legend over the panels, in as many columns as fit; returns its height in inches."""
    if not entries:
        return 0.0
    # Matplotlib leaves out a label that begins with an underscore.
    labels = [f" {name}" if name.startswith("_") else name for name in entries]
    for columns in range(len(entries), 0, -1):
        legend = body.legend(
            handles=list(entries.values()), labels=labels, loc="outside upper left", ncols=columns,
            handlelength=2.6, columnspacing=1.6, borderaxespad=0.2,
        )  # fmt: skip
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= 0.98 * drawing.bbox.width:
            return float(extent.height) / theme.DPI
        legend.remove()
    raise AssertionError("one column is always taken")
