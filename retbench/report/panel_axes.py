"""The axes of a panel: scales, ticks, limits around the values, the margin of ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as DrawnAxis
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from retbench.report import theme
from retbench.report.figure import Axis, Figure, Panel

Legend = dict[str, Line2D]

_REACH = 1.5  # how far beyond the values an interval may stretch an axis
_DRAWABLE = (1e-290, 1e290)  # sizes beyond, at the edge of float64, have no room around them
_PAD = 0.06  # free space at both ends of an axis, as a share of it
_NARROW_IN = 4.0  # a panel of rows, its texts included
_TICK_IN = 0.42  # least distance of labelled ticks


def frame_panel(ax: Axes, figure: Figure, panel: Panel, *, width_in: float, outer: bool) -> None:
    """Scales, limits, labels and the margin of a panel.

    Args:
        ax: where.
        figure: the declaration.
        panel: which one.
        width_in: of the panel, in inches.
        outer: whether it is the first of its row, and names the y axis.
    """
    in_rows = figure.geometry == "rows"
    sizes, axis = (panel.x, ax.xaxis) if in_rows else (panel.y, ax.yaxis)
    if not in_rows:
        _x_axis(ax, figure, panel, width_in)
    drawn = figure.panels if figure.shared else (panel,)
    low, high = _around(value for each in drawn for value in _held(figure, each))
    if sizes.share:
        low, high = -0.03, 1.03
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        _log_axis(
            ax, axis, low, high, sizes, 6 if not in_rows else 5 if width_in > _NARROW_IN else 4
        )
    (ax.set_xlim if in_rows else ax.set_ylim)(low, high)
    ax.grid(axis="both")
    ax.set_title(panel.title, pad=5)
    if outer or not figure.shared:
        axis.set_label_text(sizes.label)
    if panel.margin is not None:
        _margin(ax, panel, panel.margin, axis)
    for place in panel.marks.values():
        ax.axvline(place / panel.x.divisor, color=theme.MUTED, linestyle=":", lw=1.0, zorder=0)


def _margin(ax: Axes, panel: Panel, margin: float, axis: DrawnAxis) -> None:
    """What counts as no difference, and what its two sides mean."""
    below, above = panel.sides
    look: dict[str, Any] = {"color": theme.MARGIN, "alpha": 0.6, "lw": 0, "zorder": 0}
    line: dict[str, Any] = {"color": theme.INK, "linewidth": 0.7, "zorder": 1}
    if axis is ax.xaxis:
        ax.axvspan(1 / (1 + margin), 1 + margin, **look)
        ax.axvline(1.0, **line)
        ax.set_xlabel(f"← {below}   {panel.x.label}   {above} →", loc="left")
        return
    ax.axhspan(1 / (1 + margin), 1 + margin, **look)
    ax.axhline(1.0, **line)
    look = {"transform": ax.transAxes, "size": 7, "color": theme.MUTED, "rotation": 90}
    ax.text(1.01, 0.0, f"← {below}", va="bottom", **look)
    ax.text(1.01, 1.0, f"{above} →", va="top", **look)


def _held(figure: Figure, panel: Panel) -> list[float]:
    """The values that the axis of sizes must hold.

    An interval from two processes can be huge: whiskers may leave the axes, centres may not.
    """
    rows = figure.rows(panel)
    values = rows["value"].dropna()
    divisor = (panel.x if figure.geometry == "rows" else panel.y).divisor
    curves = [c.value / divisor for c in figure.curves if c.panel == panel.key]
    lows = rows["low"].clip(lower=values.min() / _REACH)
    highs = rows["high"].clip(upper=values.max() * _REACH)
    found = [*values, *lows, *highs, *np.concatenate([[], *curves])]
    return found if panel.margin is None else [*found, 1 / (1 + panel.margin), 1 + panel.margin]


def _around(values: Iterable[float]) -> tuple[float, float]:
    """Limits of a log axis: a factor of 1.2 at least, so that noise does not look like a trend."""
    sizes = [value for value in values if _DRAWABLE[0] < value < _DRAWABLE[1]] or [1.0]
    low, high = min(sizes), max(sizes)
    widen = math.sqrt(max(1.2 * low / high, 1.0))
    unit = math.log(high / low * widen**2) * _PAD / (1 - 2 * _PAD)
    return low / widen * math.exp(-unit), high * widen * math.exp(unit)


def _log_axis(
    ax: Axes, axis: DrawnAxis, low: float, high: float, sizes: Axis, most: int = 6
) -> None:
    """Logarithmic, with nearly as many ticks as there is room for, all at round numbers."""
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        locator = LogLocator(subs=subs, numticks=99)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) >= most - 2:
            axis.set_major_locator(locator)
            break
    else:
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: sizes.text(value)))
    axis.set_minor_locator(NullLocator())


def _x_axis(ax: Axes, figure: Figure, panel: Panel, width_in: float) -> None:
    axis = panel.x
    ax.set_xlabel(axis.label)
    if axis.ticks:
        ticks = [tick / axis.divisor for tick in axis.ticks]
        ax.set_xscale("log", base=2)
        step = 1 + int(len(ticks) * _TICK_IN > width_in - 0.8)
        shown = {ticks[-1 - place] for place in range(0, len(ticks), step)}
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        text = {tick: axis.text(tick) if tick in shown else "" for tick in ticks}
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.get(value, "")))
        ax.xaxis.set_minor_locator(NullLocator())
        margin = 2**0.3 if len(ticks) > 1 else 2.0
        ax.set_xlim(min(ticks) / margin, max(ticks) * margin)
        return
    curves = [curve.x / axis.divisor for curve in figure.curves if curve.panel == panel.key]
    places = [*figure.rows(panel)["x"].dropna(), *np.concatenate([[], *curves])]
    low, high = _around(places)
    _log_axis(ax, ax.xaxis, low, high, axis)
    ax.set_xlim(low, high)
