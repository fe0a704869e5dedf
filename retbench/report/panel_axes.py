"""The axes of a panel: scales, ticks, limits around the values, the margin of ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis as DrawnAxis

from retbench.report import theme
from retbench.report.figure import Axis, Figure, Panel

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
    in_rows, sizes = figure.geometry == "rows", figure.sizes(panel)
    axis = ax.xaxis if in_rows else ax.yaxis
    if not in_rows:
        _x_axis(ax, figure, panel, width_in)
    if sizes.share:
        axis.set_major_locator(ticker.FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
        (ax.set_xlim if in_rows else ax.set_ylim)(-0.03, 1.03)
    else:
        drawn = figure.panels if figure.shared else (panel,)
        values = [value for each in drawn for value in _held(figure, each)]
        most = 6 if not in_rows else 5 if width_in > _NARROW_IN else 4
        _log_axis(ax, axis, values, sizes, most)
    ax.grid(axis="both")
    ax.set_title(panel.title, pad=5)
    if outer or not figure.shared:
        axis.set_label_text(sizes.label)
    if panel.margin is not None:
        _margin(ax, figure, panel, panel.margin)
    for place in panel.marks.values():
        ax.axvline(place / panel.x.divisor, color=theme.MUTED, linestyle=":", lw=1.0, zorder=0)


def _margin(ax: Axes, figure: Figure, panel: Panel, margin: float) -> None:
    """What counts as no difference, and what its two sides mean."""
    subject, _, rest = panel.sides[0].partition(" ")
    below, above = f"← {figure.named(subject)} {rest}".rstrip(), f"{panel.sides[1]} →"
    look: dict[str, Any] = {"color": theme.MARGIN, "alpha": 0.6, "lw": 0, "zorder": 0}
    line: dict[str, Any] = {"color": theme.INK, "linewidth": 0.7, "zorder": 1}
    if figure.geometry == "rows":
        ax.axvspan(1 / (1 + margin), 1 + margin, **look)
        ax.axvline(1.0, **line)
        ax.set_xlabel(f"{below}   {panel.x.label}   {above}", loc="left")
        return
    ax.axhspan(1 / (1 + margin), 1 + margin, **look)
    ax.axhline(1.0, **line)
    look = {"transform": ax.transAxes, "size": 7, "color": theme.MUTED, "rotation": 90}
    ax.text(1.01, 0.0, below, va="bottom", **look)
    ax.text(1.01, 1.0, above, va="top", **look)


def _held(figure: Figure, panel: Panel) -> list[float]:
    """The values that the axis of sizes must hold.

    An interval from two processes can be huge: whiskers may leave the axes, centres may not.
    """
    rows = figure.rows(panel)
    values = rows["value"].dropna()
    divisor = figure.sizes(panel).divisor
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
    ax: Axes, axis: DrawnAxis, values: Iterable[float], sizes: Axis, most: int = 6
) -> None:
    """Logarithmic, with nearly as many ticks as there is room for, all at round numbers."""
    low, high = _around(values)
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        locator = ticker.LogLocator(subs=subs, numticks=99)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) >= most - 2:
            axis.set_major_locator(locator)
            break
    else:
        axis.set_major_locator(ticker.MaxNLocator(most, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: sizes.text(value)))
    axis.set_minor_locator(ticker.NullLocator())
    (ax.set_xlim if axis is ax.xaxis else ax.set_ylim)(low, high)


def _x_axis(ax: Axes, figure: Figure, panel: Panel, width_in: float) -> None:
    axis = panel.x
    ax.set_xlabel(axis.label)
    if not axis.ticks:
        curves = [curve.x / axis.divisor for curve in figure.curves if curve.panel == panel.key]
        places = [*figure.rows(panel)["x"].dropna(), *np.concatenate([[], *curves])]
        _log_axis(ax, ax.xaxis, places, axis)
        return
    ticks = [tick / axis.divisor for tick in axis.ticks]
    ax.set_xscale("log", base=2)
    step = 1 + int(len(ticks) * _TICK_IN > width_in - 0.8)
    shown = ticks[::-step]  # the last one always is
    ax.set_xticks(ticks, [axis.text(tick) if tick in shown else "" for tick in ticks])
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    margin = 2**0.3 if len(ticks) > 1 else 2.0
    ax.set_xlim(min(ticks) / margin, max(ticks) * margin)
