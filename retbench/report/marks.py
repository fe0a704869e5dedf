"""The geometries: lines over a sweep, and rows with numbers; and the lanes of failures.

Each draws one panel from its rows, adds what it drew to the legend, and returns how to read it. The
marks of values are labelled with their series, for :mod:`retbench.report.pointing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, Transform

from retbench.report import theme
from retbench.report.figure import Curve, Figure, Panel
from retbench.report.frames import Floats, column, records
from retbench.report.panel_axes import Legend
from retbench.report.theme import Style

BAND_FROM = 10
"""Processes, or seeds, from which on an interval is drawn as a band and not as a whisker."""
_EACH_TO = 5  # as many have their own values shown
_EACH_PT = 2.2  # beside the whisker
_DODGE_PT = 4.0  # between the marks of neighbouring series
_DODGED_PT = 14.0  # from the first to the last, at most
_LANES_PT = 8.0  # from the axis to the middle of the first lane of failures
_LANE_PT = 10.0  # height of a lane
_MARKER_PT = 5.5
IMPLIED = "oom_implied"


def draw_lines(ax: Axes, figure: Figure, panel: Panel, legend: Legend) -> list[str]:
    """A line a series over the x axis, with intervals; of ratios also where they cross 1."""
    rows = figure.rows(panel).dropna(subset=["value"])
    names = [name for name in figure.styles if (rows["series"] == name).any()]
    apart = min(_DODGE_PT, _DODGED_PT / max(len(names), 1)) if rows["low"].notna().any() else 0.0
    notes: list[str] = []
    for place, name in enumerate(names):
        own = rows[rows["series"] == name].sort_values("x", kind="stable")
        aside = apart * (place - (len(names) - 1) / 2)
        failed = _failed(figure, panel, name)
        notes += _series(ax, own, figure, figure.styles[name], name, legend, aside, failed)
    for curve in figure.curves:
        if curve.panel == panel.key:
            _curve(ax, figure, panel, curve, legend)
    if figure.interval and len(rows) and rows["low"].isna().all():
        notes.append(f"no intervals: a single {figure.each}")
    notes += [f"dotted: {name}" for name in panel.marks]
    return notes + _crossings(ax, figure, panel)


def draw_rows(ax: Axes, figure: Figure, panel: Panel, legend: Legend) -> list[str]:
    """A row a comparison, its marks on the x axis and its number at the right."""
    rows = figure.rows(panel)
    labels = list(dict.fromkeys(figure.data["row"]))
    crowded = rows.groupby("row")["series"].nunique().max() > 1
    notes: list[str] = []
    for place, label in enumerate(labels):
        own = rows[rows["row"] == label]
        known = own.dropna(subset=["value"])
        if len(known) > 1:
            ends = [known["value"].min(), known["value"].max()]
            ax.plot(ends, [place, place], color=theme.MARGIN, linewidth=2.2, zorder=1)
        for row in records(known):
            name, style = str(row["series"]), figure.styles[row["series"]]
            # Where two coincide both are seen.
            up = (list(known["series"]).index(name) - (len(known) - 1) / 2) * 3.0 if crowded else 0
            at = _moved(ax, 0.0, -up)
            low, high = np.array([row["low"]]), np.array([row["high"]])
            notes += _whiskers(ax, np.array([place]), low, high, style, at, figure, upright=False)
            hollow = row["open"] is True
            ax.plot([row["value"]], [place], label=name, transform=at, **_marker(style, hollow))
            notes += [figure.opened] if hollow else []
            if not crowded and len(row["each"]) > 1 and row["n"] <= _EACH_TO:
                below = _moved(ax, 0.0, -_EACH_PT)
                places = [place] * len(row["each"])
                notes += _dots(ax, row["each"], places, style, below, figure)
            if crowded:
                legend.setdefault(name, Line2D([], [], label=name, **_marker(style, False)))
        text = next((text for text in own["text"] if isinstance(text, str)), "")
        ax.annotate(text, (1, place), xycoords=ax.get_yaxis_transform(), xytext=(6, 0),
                    textcoords="offset points", va="center", size="small")  # fmt: skip
    outer = ax.get_subplotspec().colspan.start == 0  # type: ignore[union-attr]
    ax.set_yticks(range(len(labels)), labels if outer else [""] * len(labels))
    ax.set_ylim(len(labels) - 0.5, -0.5)
    return notes


def _series(
    ax: Axes, rows: pd.DataFrame, figure: Figure, style: Style, name: str, legend: Legend,
    aside_pt: float, failed: Floats,
) -> list[str]:  # fmt: skip
    """The line of one series, interrupted where it failed, its marks, and their intervals."""
    x, value, low, high = (column(rows, key) for key in ("x", "value", "low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    banded = rows["n"].max() >= BAND_FROM and known.sum() > 1
    at = _moved(ax, 0.0 if banded else aside_pt, 0.0)
    # Ratios are joined thinly: it is their marks that say whether there is a verdict.
    gaps = np.searchsorted(x, failed[~np.isin(failed, x)])
    line = np.insert(x, gaps, np.nan), np.insert(value, gaps, np.nan)
    ax.plot(*line, color=style.color, linestyle=style.line, transform=at, zorder=3)
    notes = []
    hollow = (rows["open"] == True).to_numpy(bool)  # noqa: E712 (missing is no)
    for mask, open_ in ((~hollow, False), (hollow, True)):
        if mask.any() and style.marker:
            ax.plot(x[mask], value[mask], label=name, transform=at, **_marker(style, open_))
            notes += [figure.opened] if open_ else []
    entry = _marker(style, False) | {"linestyle": style.line}
    legend.setdefault(name, Line2D([], [], label=name, **entry))
    if banded:
        first, last = (
            np.insert(np.where(known, edge, np.nan), gaps, np.nan) for edge in (low, high)
        )
        ax.fill_between(line[0], first, last, color=style.color, alpha=0.16, lw=0, zorder=2)
        notes.append(f"band: {figure.interval}")
        return notes + _cut(ax, x[known], low[known], high[known], style, at, figure)
    notes += _whiskers(ax, x[known], low[known], high[known], style, at, figure)
    several = rows["each"].map(len).max() > 1
    if several and not style.marker:  # of a curve they are thin lines
        for own in zip(*rows["each"], strict=False):
            ax.plot(x, own, color=style.color, linewidth=0.5, alpha=0.5, zorder=2)
        return [*notes, f"thin lines: one {figure.each} each"]
    beside = _moved(ax, aside_pt + _EACH_PT, 0.0)
    for place, values, n in zip(x, rows["each"], rows["n"], strict=True):
        if several and n <= _EACH_TO:
            notes += _dots(ax, [place] * len(values), values, style, beside, figure)
    return notes


def _dots(
    ax: Axes, x: Sequence[float], y: Sequence[float], style: Style, at: Transform, figure: Figure
) -> list[str]:
    """The values of single processes or seeds, small."""
    look: Any = {"markersize": 3.5, "alpha": 0.6, "markeredgewidth": 0, "zorder": 2}
    ax.plot(x, y, ".", color=style.color, transform=at, **look)
    return [f"small dots: one {figure.each} each"]


def _failed(figure: Figure, panel: Panel, name: str) -> Floats:
    """Where on the x axis a series failed, ascending."""
    rows = figure.failures
    own = rows[(rows["panel"] == panel.key) & (rows["series"] == name)]
    return np.unique(own["x"].dropna().to_numpy(dtype=np.float64)) / panel.x.divisor


def _marker(style: Style, open_: bool) -> dict[str, Any]:
    return {
        "color": style.color, "marker": style.marker, "markersize": _MARKER_PT, "linestyle": "",
        "markerfacecolor": "white" if open_ else style.color,
        "markeredgecolor": style.color if open_ else "white",
        "markeredgewidth": 1.1 if open_ else 0.5, "zorder": 4,
    }  # fmt: skip


def _moved(ax: Axes, right_pt: float, up_pt: float) -> Transform:
    """The data's transform, moved by that many points."""
    scale = ax.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    return ax.transData + ScaledTranslation(right_pt / 72, up_pt / 72, scale)


def _whiskers(
    ax: Axes, place: Floats, low: Floats, high: Floats, style: Style, at: Transform,
    figure: Figure, *, upright: bool = True,
) -> list[str]:  # fmt: skip
    """Thin intervals; one that leaves the frame ends there in an arrowhead."""
    known = np.isfinite(low) & np.isfinite(high) & (low < high)
    if not known.any():
        return []
    draw = ax.vlines if upright else ax.hlines
    draw(place[known], low[known], high[known], color=style.color, linewidth=1.0, alpha=0.8,
         transform=at, zorder=2)  # fmt: skip
    cut = _cut(ax, place[known], low[known], high[known], style, at, figure, upright=upright)
    return [f"whisker: {figure.interval}", *cut]


def _cut(
    ax: Axes, place: Floats, low: Floats, high: Floats, style: Style, at: Transform,
    figure: Figure, *, upright: bool = True,
) -> list[str]:  # fmt: skip
    """An arrowhead at the frame for each interval that goes on beyond it."""
    ends = ax.get_ylim() if upright else ax.get_xlim()
    notes = []
    for edge, outside, marker in (
        (ends[0], low < ends[0], "v" if upright else "<"),
        (ends[1], high > ends[1], "^" if upright else ">"),
    ):
        if not outside.any():
            continue
        along, across = place[outside], np.full(int(outside.sum()), edge)
        ax.plot(
            *((along, across) if upright else (across, along)), marker, color=style.color,
            markersize=4, markeredgewidth=0, transform=at, clip_on=False, zorder=4,
        )  # fmt: skip
        notes.append("arrowhead: the interval goes on beyond the axis")
    return notes


def _curve(ax: Axes, figure: Figure, panel: Panel, curve: Curve, legend: Legend) -> None:
    """A line without marks: a bound, a fit, guessing; grey ones are named at their right end."""
    style = figure.styles.get(curve.series, theme.GREY)
    x, value = curve.x / panel.x.divisor, curve.value / panel.y.divisor
    ax.plot(x, value, color=style.color, linestyle=curve.line, linewidth=1.0, alpha=0.85, zorder=1)
    if curve.label and curve.series:
        entry = Line2D([], [], color=style.color, linestyle=curve.line, lw=1.0, label=curve.label)
        legend.setdefault(curve.label, entry)
    elif curve.label:
        ax.annotate(curve.label, (x[-1], value[-1]), xytext=(3, 0), textcoords="offset points",
                    va="center", size=7, color=style.color)  # fmt: skip


def _crossings(ax: Axes, figure: Figure, panel: Panel) -> list[str]:
    """A bracket above the x axis for each place where a ratio crosses 1."""
    found = [crossing for crossing in figure.crossings if crossing.panel == panel.key]
    if not found:
        return []
    first, last = (edge / panel.x.divisor for edge in (panel.x.ticks[0], panel.x.ticks[-1]))
    for place, crossing in enumerate(found):
        color, height = figure.styles[crossing.series].color, 0.04 + 0.05 * place
        low, high = max(crossing.low, first), min(crossing.high, last)
        ends = ("<" if crossing.low < first else "|", ">" if crossing.high > last else "|")
        at = ax.get_xaxis_transform()
        ax.plot([low, high], [height] * 2, color=color, linewidth=1.2, transform=at, zorder=4)
        for x, marker in zip((low, high), ends, strict=True):
            ax.plot([x], [height], marker, color=color, markersize=5, transform=at, zorder=4)
        ax.plot([crossing.value], [height], "D", color=color, markersize=4, transform=at, zorder=5,
                markerfacecolor="white")  # fmt: skip
    return ["bracket: where the ratio crosses 1, with its interval"]


def failure_lanes(ax: Axes, figure: Figure, panel: Panel) -> tuple[int, list[str]]:
    """A lane below the axis for each series with failures; how many, and how to read them."""
    failed = figure.failures[figure.failures["panel"] == panel.key]
    lanes = list(dict.fromkeys(failed["series"]))
    notes = []
    for lane, name in enumerate(lanes):
        own = records(failed[failed["series"] == name])
        color, down = figure.styles[name].color, -_LANES_PT - _LANE_PT * lane
        text = f"{name}: {statuses([row['status'] for row in own])}"
        placed = [row for row in own if row["x"] == row["x"]]
        if len(placed) == len(panel.x.ticks) > 1:
            text, placed = f"{text} everywhere", []
        for row in placed:
            implied = row["status"] == IMPLIED
            _below(ax, row["x"] / panel.x.divisor, (0, down), "×", ha="center", size=11,
                   weight="bold", color=color, alpha=0.4 if implied else 1.0)  # fmt: skip
            notes.append("×: failed" + (" (faint: implied by a smaller one)" if implied else ""))
        if placed:
            first = min(row["x"] for row in placed) / panel.x.divisor
            _below(ax, first, (-7, down), text, ha="right", size=7, color=color)
        else:
            _below(ax, ax.get_xlim()[0], (0, down), text, size=7, color=color)
    if lanes:
        ax.tick_params(axis="x", pad=3 + _LANES_PT + _LANE_PT * (len(lanes) - 1))
    return len(lanes), notes


def _below(ax: Axes, x: float, by_pt: tuple[float, float], text: str, **look: Any) -> None:
    """A text below the axis, moved from its place on it by that many points."""
    ax.annotate(
        text, (x, 0), xycoords=ax.get_xaxis_transform(), xytext=by_pt, va="center",
        textcoords="offset points", annotation_clip=False, **look,
    )  # fmt: skip


def statuses(labels: Sequence[str]) -> str:
    """The different statuses of a series; what an oom implies goes without saying."""
    different = list(dict.fromkeys(labels))
    if any(label.startswith("oom") and label != IMPLIED for label in different):
        different = [label for label in different if label != IMPLIED]
    return ", ".join(different).replace("_", " ")
