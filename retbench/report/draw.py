"""What the figures are drawn with: axes with honest ticks, lines with bands, marks for failures.

Functions here take axes and plain numbers and know nothing of runs. Failures have lanes of their
own at the top edge, above all data, so that nothing is hidden and nothing is left out.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from retbench.report import theme, units
from retbench.report.frames import Floats
from retbench.report.theme import Style

_LANE = 0.075  # height of a lane of failures, as a share of the axes
_PAD = 0.06  # free space above and below the data, likewise
_HEIGHT_IN = 4.3
_HEAD_IN = 0.86  # title, caption and legend
_FOOT_IN = 0.78  # x label and footnote
_LEGEND_ROW_IN = 0.18
_ENTRY_IN = 0.66  # a legend's line and the gaps around it
_LETTER_IN = 0.072  # of its text
_WIDTHS_IN = {1: 6.6, 2: 9.6, 3: 11.4}
_NAME_PT = 7.5  # size of a name
_MARK_PT = 4.5  # from the middle of a marker to its edge
# Where a name may stand: from its point to the middle of its near edge, in points.
_BESIDE = tuple(
    (dx * reach, dy * reach)
    for reach in (1.0, 1.6, 2.4)
    for dx, dy in ((6, -7), (-6, 7), (6, 7), (-6, -7), (0, -11), (0, 11))
)

IMPLIED = "oom_implied"

Name = tuple[float, float, str, str]
Box = tuple[float, float, float, float]


def canvas(
    title: str, caption: str, footnote: str, models: dict[str, Style], panels: int
) -> tuple[Figure, list[Axes]]:
    """A figure with its texts and legend outside the axes, and empty axes.

    Args:
        title: what the figure shows.
        caption: the conditions, on one line under the title.
        footnote: how to read the marks.
        models: label and style of each entry of the legend.
        panels: number of axes, side by side.
    """
    width = _WIDTHS_IN[panels]
    columns = _legend_columns(list(models), width - 0.24)
    further = 0 if not models else -(-len(models) // columns) - 1
    height = _HEIGHT_IN + further * _LEGEND_ROW_IN
    figure = Figure(figsize=(width, height), dpi=theme.DPI)
    left = 0.86 / width
    axes = [figure.add_subplot(1, panels, place + 1) for place in range(panels)]
    head = _HEAD_IN + further * _LEGEND_ROW_IN + (0.2 if panels > 1 else 0)
    figure.subplots_adjust(
        left=left, right=1 - 0.18 / width, bottom=_FOOT_IN / height, top=1 - head / height,
        wspace=0.24,
    )  # fmt: skip
    edge = 0.12 / width
    figure.text(edge, 1 - 0.12 / height, title, size=12, weight="bold", va="top")
    caption = textwrap.shorten(caption, int(width * 17.5), placeholder=" …")
    figure.text(edge, 1 - 0.37 / height, caption, size=7.5, color=theme.MUTED, va="top")
    handles = [
        Line2D([], [], color=s.color, marker=s.marker, linestyle=s.line, label=label)
        for label, s in models.items()
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(edge, 1 - 0.53 / height),
        ncols=columns, fontsize=8.5, handlelength=3.2, columnspacing=1.8, borderpad=0,
        borderaxespad=0.1,
    )  # fmt: skip
    lines = textwrap.fill(footnote, int(width * 19), break_on_hyphens=False)
    figure.text(edge, 0.07 / height, lines, size=7, color=theme.MUTED, va="bottom")
    return figure, axes


def _legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Entries of a row of the legend, so that the columns fit into that width."""
    for rows in range(1, len(labels)):
        # A legend is filled column by column.
        columns = [labels[start : start + rows] for start in range(0, len(labels), rows)]
        widest = [max(map(len, column)) for column in columns]
        if sum(_ENTRY_IN + size * _LETTER_IN for size in widest) <= width_in:
            return len(columns)
    return 1


def log2_axis(axes: Axes, at: Sequence[int], label: str, *, tokens: bool) -> None:
    """A log2 x axis with a tick at each planned value; every second labelled where they crowd."""
    axes.set_xscale("log", base=2)
    at = sorted(at)
    room = axes.get_window_extent().width / theme.DPI / max(len(at), 1)
    texts = [units.tokens(value) if tokens else str(value) for value in at]
    if room < 0.12 + 0.075 * max(map(len, texts), default=0):
        texts = [text if (len(at) - 1 - i) % 2 == 0 else "" for i, text in enumerate(texts)]
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_major_formatter(FixedFormatter(texts))
    axes.xaxis.set_minor_locator(NullLocator())
    if at:
        margin = 2**0.25 if len(at) > 1 else 2.0
        axes.set_xlim(at[0] / margin, at[-1] * margin)
    axes.set_xlabel(label)
    axes.grid(axis="x", color=theme.GRID, linewidth=0.6)


def log_x(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis around measured ``values``."""
    low, high = _extent(values)
    axes.set_xscale("log")
    _ticks(axes.xaxis, log_ticks(low / 1.15, high * 1.15))
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.grid(axis="x", color=theme.GRID, linewidth=0.6)


def log_y(axes: Axes, values: Iterable[float], lanes: int = 0) -> None:
    """A logarithmic y axis around ``values``, with ``lanes`` kept free at the top for failures."""
    low, high = _extent(values)
    taken = 2 * _PAD + lanes * _LANE
    unit = (math.log(high) - math.log(low)) / (1 - taken)
    axes.set_yscale("log")
    _ticks(axes.yaxis, log_ticks(low * math.exp(-_PAD * unit), high * math.exp(_PAD * unit)))
    axes.set_ylim(low * math.exp(-_PAD * unit), high * math.exp((_PAD + lanes * _LANE) * unit))
    axes.grid(axis="y", color=theme.GRID, linewidth=0.6)


def _ticks(axis: Axis, at: list[float]) -> None:
    axis.set_major_locator(FixedLocator(at))
    axis.set_major_formatter(FixedFormatter([f"{tick:,.10g}" for tick in at]))
    axis.set_minor_locator(NullLocator())


def _extent(values: Iterable[float]) -> tuple[float, float]:
    """The range to show: at least a factor of 1.2, so that noise does not look like a trend."""
    sizes = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(sizes), max(sizes)
    widen = math.sqrt(max(1.2 * low / high, 1.0))
    return low / widen, high * widen


def log_ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers from ``low`` to ``high`` for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [float(f"{d}e{k}") for k in decades for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (5, 2, 1) if (high - low) / (m * step) >= 3)
    first = math.ceil(low / step)
    return [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step) + 1)]


def series(axes: Axes, x: Floats, value: Floats, low: Floats, high: Floats, style: Style) -> None:
    """One model's line with its interval: a band, or an error bar where there is one point.

    Args:
        axes: where to draw.
        x: shape (points,), ascending.
        value: shape (points,), in the unit of the axis.
        low: lower ends of the intervals; NaN where there is none.
        high: upper ends, likewise.
        style: the model's.
    """
    axes.plot(
        x, value, color=style.color, marker=style.marker, linestyle=style.line,
        markeredgecolor="white", markeredgewidth=0.6, markersize=6.5, zorder=3,
    )  # fmt: skip
    known = np.isfinite(low) & np.isfinite(high)
    if known.sum() > 1:
        axes.fill_between(
            x[known], low[known], high[known], color=style.color, alpha=0.18, linewidth=0, zorder=2
        )
    elif known.any():
        reach = np.abs(np.stack([value - low, high - value]))[:, known]
        axes.errorbar(
            x[known], value[known], yerr=reach, color=style.color, capsize=3, linestyle="none"
        )


def bound(axes: Axes, x: Floats, value: Floats, style: Style) -> None:
    """An analytic bound: a thin dashed line in the model's colour, without markers."""
    axes.plot(
        x, value, color=style.color, linestyle=theme.BOUND, linewidth=1.0, alpha=0.85, zorder=1
    )


def failures(
    axes: Axes, lane: int, x: Sequence[float], labels: Sequence[str], style: Style
) -> None:
    """Marks of cells that failed, in a lane at the top edge; lane 0 is the highest.

    Neighbouring marks share the label to their left, which names their statuses in order, after
    the model's marker (for readers in greyscale). A cell that was skipped after a smaller one ran
    out of memory is drawn faint.
    """
    y = 1 - (lane + 0.5) * _LANE
    at_top = axes.get_xaxis_transform()
    marks = list(zip(x, labels, strict=True))
    for implied, alpha in ((False, 1.0), (True, 0.4)):
        places = [place for place, label in marks if (label == IMPLIED) == implied]
        axes.plot(
            places, [y] * len(places), transform=at_top, color=style.color, marker="x",
            markersize=6, markeredgewidth=1.8, linestyle="none", alpha=alpha, clip_on=False,
        )  # fmt: skip
    ticks = [float(tick) for tick in axes.xaxis.get_majorticklocs()]
    for run in _neighbours(marks, ticks):
        axes.annotate(
            f"{style.glyph} {statuses([label for _, label in run])}", (run[0][0], y),
            xycoords=at_top, xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
            size=7, color=style.color,
        )  # fmt: skip


def _neighbours(
    marks: Sequence[tuple[float, str]], ticks: Sequence[float]
) -> Iterator[list[tuple[float, str]]]:
    """Runs of marks at successive ticks."""
    run: list[tuple[float, str]] = []
    for place, label in marks:
        if run and ticks.index(place) != ticks.index(run[-1][0]) + 1:
            yield run
            run = []
        run.append((place, label))
    if run:
        yield run


def statuses(labels: Sequence[str]) -> str:
    """The different statuses of neighbouring failures; what an oom implies goes without saying."""
    different = list(dict.fromkeys(labels))
    if any(label.startswith("oom") and label != IMPLIED for label in different):
        different = [label for label in different if label != IMPLIED]
    return ", ".join(different).replace("_", " ")


def names(axes: Axes, points: Sequence[Name], bars: Sequence[tuple[float, float, float]]) -> None:
    """A text beside each point, where it hides no marker, no bar and no other text.

    Args:
        axes: where to draw; its limits must be final.
        points: ``(x, y, text, colour)`` of each.
        bars: ``(left, right, y)`` of each horizontal bar.
    """
    places = [axes.transData.transform((x, y)) / theme.DPI * 72 for x, y, _, _ in points]
    taken = [(x - _MARK_PT, y - _MARK_PT, x + _MARK_PT, y + _MARK_PT) for x, y in places]
    for low, high, y in bars:
        ends = axes.transData.transform([(low, y), (high, y)]) / theme.DPI * 72
        taken.append((ends[0, 0], ends[0, 1] - 1.0, ends[1, 0], ends[1, 1] + 1.0))
    for (x, y, text, color), (left, bottom) in zip(points, places, strict=True):
        width, height = 0.64 * _NAME_PT * len(text), 0.8 * _NAME_PT
        spots = [
            (
                left + dx - (width if dx < 0 else width / 2 if not dx else 0),
                bottom + dy - height / 2,
            )
            for dx, dy in _BESIDE
        ]
        boxes = [(a, b, a + width, b + height) for a, b in spots]
        best = min(range(len(boxes)), key=lambda i: (_overlaps(boxes[i], taken), i))
        taken.append(boxes[best])
        axes.annotate(
            text, (x, y), xytext=(spots[best][0] - left, spots[best][1] - bottom),
            textcoords="offset points", size=_NAME_PT, color=color, va="baseline",
        )  # fmt: skip


def _overlaps(box: Box, others: Iterable[Box]) -> float:
    """The area that a box (left, bottom, right, top) shares with others."""
    return sum(
        max(min(box[2], right) - max(box[0], left), 0.0)
        * max(min(box[3], top) - max(box[1], bottom), 0.0)
        for left, bottom, right, top in others
    )


def listed(values: Sequence[int], labels: Sequence[str]) -> str:
    """Failed values with their statuses; those of one status together."""
    runs: list[tuple[list[int], list[str]]] = []
    for value, label in zip(values, labels, strict=True):
        implied = label == IMPLIED and runs and runs[-1][1][0].startswith("oom")
        if implied or (runs and label == runs[-1][1][0]):
            runs[-1][0].append(value)
            runs[-1][1].append(label)
        else:
            runs.append(([value], [label]))
    return " · ".join(f"× {', '.join(map(str, at))}: {statuses(ended)}" for at, ended in runs)


def lane_text(axes: Axes, lane: int, text: str, style: Style) -> None:
    """A line of text in a lane of failures, where they have no place on the x axis."""
    axes.annotate(
        f"{style.glyph} {text}", (0.0, 1 - (lane + 0.5) * _LANE), xycoords="axes fraction",
        xytext=(6, 0), textcoords="offset points", ha="left", va="center", size=7,
        color=style.color,
    )  # fmt: skip
