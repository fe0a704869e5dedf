"""The marks of a panel: lines over a sweep, or rows with numbers; and the lanes of failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform, offset_copy

from retbench.report import theme
from retbench.report.figure import Curve, Figure, Panel
from retbench.report.frames import Floats, column, records, where
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


@dataclass(frozen=True)
class Marks:
    """What draws the marks of one panel.

    The marks of values are labelled with their series, for
    :func:`retbench.report.figure_data.marks`.

    Attributes:
        ax: where.
        figure: the declaration.
        panel: which one of it.
        legend: takes an entry for each name that was drawn.
        notes: takes how to read what was drawn, a clause each, with repetitions.
    """

    ax: Axes
    figure: Figure
    panel: Panel
    legend: dict[str, Line2D]
    notes: list[str]

    def lines(self) -> None:
        """A line a series over the x axis, with intervals; of ratios also where they cross 1."""
        figure = self.figure
        every = figure.rows(self.panel)
        rows = every.dropna(subset=["value"])
        names = [name for name in figure.styles if (rows["series"] == name).any()]
        apart = min(_DODGE_PT, _DODGED_PT / max(len(names), 1)) if rows["low"].notna().any() else 0
        for place, name in enumerate(names):
            own = every[every["series"] == name]
            # What failed may have no place: it stays behind the row that it follows.
            own = own.sort_values("x", kind="stable", key=lambda x: x.ffill())
            self._series(own, name, apart * (place - (len(names) - 1) / 2))
        for curve in figure.curves:
            if curve.panel == self.panel.key:
                self._curve(curve)
        if figure.interval and len(rows) and rows["low"].isna().all():
            self.notes.append(f"no intervals: a single {figure.each}")
        self.notes.extend(f"dotted: {name}" for name in self.panel.marks)
        self._crossings()

    def rows(self) -> None:
        """A row a comparison, its marks on the x axis and its number at the right."""
        ax, figure = self.ax, self.figure
        rows = figure.rows(self.panel)
        labels = list(dict.fromkeys(figure.data["row"]))
        crowded = rows.groupby("row")["series"].nunique().max() > 1
        for place, label in enumerate(labels):
            own = rows[rows["row"] == label]
            known = own.dropna(subset=["value"])
            if len(known) > 1:
                ends = [known["value"].min(), known["value"].max()]
                ax.plot(ends, [place, place], color=theme.MARGIN, linewidth=2.2, zorder=1)
            for nth, row in enumerate(records(known)):
                # Where two coincide both are seen.
                self._row(row, place, 3.0 * (nth - (len(known) - 1) / 2) if crowded else 0.0)
                if crowded:
                    marker = _marker(figure.styles[row["series"]], False)
                    self.legend.setdefault(row["series"], Line2D([], [], **marker))
                elif len(row["each"]) > 1 and row["n"] <= _EACH_TO:
                    below = self._moved(0.0, -_EACH_PT)
                    self._dots(row["each"], [place] * len(row["each"]), row["series"], below)
            text = next((text for text in own["text"] if isinstance(text, str)), "")
            ax.annotate(text, (1, place), xycoords=ax.get_yaxis_transform(), xytext=(6, 0),
                        textcoords="offset points", va="center", size="small")  # fmt: skip
        outer = ax.get_subplotspec().colspan.start == 0  # type: ignore[union-attr]
        named = [figure.named(label) if outer else "" for label in labels]
        ax.set_yticks(range(len(labels)), named)
        ax.set_ylim(len(labels) - 0.5, -0.5)

    def _row(self, row: dict[str, Any], place: int, down_pt: float) -> None:
        """The mark of a row of the frame, and its interval."""
        style, at = self.figure.styles[row["series"]], self._moved(0.0, -down_pt)
        edges = np.array([row["low"]]), np.array([row["high"]])
        self._whiskers(np.array([place]), *edges, style, at)
        hollow = row["open"] is True
        look = _marker(style, hollow)
        self.ax.plot([row["value"]], [place], label=row["series"], transform=at, **look)
        if hollow:
            self.notes.append(self.figure.opened)

    def _series(self, rows: pd.DataFrame, name: str, aside_pt: float) -> None:
        """The line of one series, interrupted where it has no value, its marks, their intervals."""
        ax, style = self.ax, self.figure.styles[name]
        x, value, low, high = (column(rows, key) for key in ("x", "value", "low", "high"))
        known = np.isfinite(low) & np.isfinite(high)
        banded = rows["n"].max() >= BAND_FROM and known.sum() > 1
        at = self._moved(0.0 if banded else aside_pt, 0.0)
        # Ratios are joined thinly: it is their marks that say whether there is a verdict.
        gaps = np.searchsorted(x, self._failed(name, x))
        line = np.insert(x, gaps, np.nan), np.insert(value, gaps, np.nan)
        ax.plot(*line, color=style.color, linestyle=style.line, transform=at, zorder=3)
        hollow = (rows["open"] == True).to_numpy(bool)  # noqa: E712 (missing is no)
        valued = np.isfinite(value)
        for mask, open_ in ((valued & ~hollow, False), (valued & hollow, True)):
            if mask.any() and style.marker:
                ax.plot(x[mask], value[mask], label=name, transform=at, **_marker(style, open_))
                if open_:
                    self.notes.append(self.figure.opened)
        entry = _marker(style, False) | {"linestyle": style.line}
        self.legend.setdefault(name, Line2D([], [], **entry))
        if banded:
            first, last = (
                np.insert(np.where(known, edge, np.nan), gaps, np.nan) for edge in (low, high)
            )
            ax.fill_between(line[0], first, last, color=style.color, alpha=0.16, lw=0, zorder=2)
            self.notes.append(f"band: {self.figure.interval}")
            self._cut(x[known], low[known], high[known], style, at)
            return
        self._whiskers(x, low, high, style, at)
        rows, x = rows[valued], x[valued]
        several = rows["each"].map(len).max() > 1
        if several and not style.marker:  # of a curve they are thin lines
            for own in zip(*rows["each"], strict=False):
                ax.plot(x, own, color=style.color, linewidth=0.5, alpha=0.5, zorder=2)
            self.notes.append(f"thin lines: one {self.figure.each} each")
            return
        beside = self._moved(aside_pt + _EACH_PT, 0.0)
        for place, values, n in zip(x, rows["each"], rows["n"], strict=True):
            if several and n <= _EACH_TO:
                self._dots([place] * len(values), values, name, beside)

    def _failed(self, name: str, drawn: Floats) -> Floats:
        """Where on the x axis a series failed and has no value, ascending."""
        own = where(self.figure.failures, {"panel": self.panel.key, "series": name})
        places = np.unique(own["x"].dropna().to_numpy(dtype=np.float64)) / self.panel.x.divisor
        return places[~np.isin(places, drawn)]

    def _dots(self, x: Sequence[float], y: Sequence[float], name: str, at: Transform) -> None:
        """The values of single processes or seeds, small."""
        self.ax.plot(x, y, ".", color=self.figure.styles[name].color, transform=at, markersize=3.5,
                     alpha=0.6, markeredgewidth=0, zorder=2)  # fmt: skip
        self.notes.append(f"small dots: one {self.figure.each} each")

    def _moved(self, right_pt: float, up_pt: float) -> Transform:
        """The data's transform, moved by that many points."""
        root = self.ax.get_figure(root=True)
        return offset_copy(self.ax.transData, root, right_pt, up_pt, units="points")

    def _whiskers(
        self, place: Floats, low: Floats, high: Floats, style: Style, at: Transform
    ) -> None:
        """Thin intervals; one that leaves the frame ends there in an arrowhead."""
        known = low < high
        if not known.any():
            return
        interval = place[known], low[known], high[known]
        draw = self.ax.hlines if self.figure.geometry == "rows" else self.ax.vlines
        draw(*interval, color=style.color, linewidth=1.0, alpha=0.8, transform=at, zorder=2)
        self.notes.append(f"whisker: {self.figure.interval}")
        self._cut(*interval, style, at)

    def _cut(self, place: Floats, low: Floats, high: Floats, style: Style, at: Transform) -> None:
        """An arrowhead at the frame for each interval that goes on beyond it."""
        in_rows = self.figure.geometry == "rows"
        ends, heads = (self.ax.get_xlim(), "<>") if in_rows else (self.ax.get_ylim(), "v^")
        for edge, outside, head in zip(ends, (low < ends[0], high > ends[1]), heads, strict=True):
            if not outside.any():
                continue
            along, across = place[outside], np.full(int(outside.sum()), edge)
            self.ax.plot(
                *((across, along) if in_rows else (along, across)), head, color=style.color,
                markersize=4, markeredgewidth=0, transform=at, clip_on=False, zorder=4,
            )  # fmt: skip
            self.notes.append("arrowhead: the interval goes on beyond the axis")

    def _curve(self, curve: Curve) -> None:
        """A line without marks: a bound, a fit, guessing; a grey one is named at its right end."""
        style = self.figure.styles.get(curve.series, theme.GREY)
        x, value = curve.x / self.panel.x.divisor, curve.value / self.panel.y.divisor
        look: Any = {"color": style.color, "linestyle": curve.line, "linewidth": 1.0}
        self.ax.plot(x, value, alpha=0.85, zorder=1, **look)
        if curve.label and curve.series:
            self.legend.setdefault(curve.label, Line2D([], [], **look))
        elif curve.label:
            self.ax.annotate(
                self.figure.named(curve.label), (x[-1], value[-1]), xytext=(3, 0),
                textcoords="offset points", va="center", size=7, color=style.color,
            )  # fmt: skip

    def _crossings(self) -> None:
        """A bracket above the x axis for each place where a ratio crosses 1."""
        found = [each for each in self.figure.crossings if each.panel == self.panel.key]
        for place, crossing in enumerate(found):
            x = self.panel.x
            first, last = x.ticks[0] / x.divisor, x.ticks[-1] / x.divisor
            height = 0.04 + 0.05 * place
            low, high = max(crossing.low, first), min(crossing.high, last)
            look: Any = {"color": self.figure.styles[crossing.series].color, "zorder": 4,
                         "transform": self.ax.get_xaxis_transform()}  # fmt: skip
            self.ax.plot([low, high], [height] * 2, linewidth=1.2, **look)
            self.ax.plot(
                [low], [height], "<" if crossing.low < first else "|", markersize=5, **look
            )
            self.ax.plot(
                [high], [height], ">" if crossing.high > last else "|", markersize=5, **look
            )
            look |= {"zorder": 5, "markerfacecolor": "white"}
            self.ax.plot([crossing.value], [height], "D", markersize=4, **look)
            self.notes.append("bracket: where the ratio crosses 1, with its interval")

    def failure_lanes(self) -> int:
        """Draw a lane below the axis for each series with failures; returns how many there are."""
        failed = where(self.figure.failures, {"panel": self.panel.key})
        lanes = list(dict.fromkeys(failed["series"]))
        for lane, name in enumerate(lanes):
            own = records(failed[failed["series"] == name])
            color, down = self.figure.styles[name].color, -_LANES_PT - _LANE_PT * lane
            text = f"{self.figure.named(name)}: {statuses([row['status'] for row in own])}"
            placed = [row for row in own if row["x"] == row["x"]]
            if len(placed) == len(self.panel.x.ticks) > 1:
                text, placed = f"{text} everywhere", []
            for row in placed:
                implied = row["status"] == IMPLIED
                alpha, more = (0.4, " (faint: implied by a smaller one)") if implied else (1.0, "")
                self._below(row["x"] / self.panel.x.divisor, (0, down), "×", ha="center", size=11,
                            weight="bold", color=color, alpha=alpha)  # fmt: skip
                self.notes.append(f"×: failed{more}")
            if placed:
                first = min(row["x"] for row in placed) / self.panel.x.divisor
                self._below(first, (-7, down), text, ha="right", size=7, color=color)
            else:
                self._below(self.ax.get_xlim()[0], (0, down), text, size=7, color=color)
        if lanes:
            self.ax.tick_params(axis="x", pad=3 + _LANES_PT + _LANE_PT * (len(lanes) - 1))
        return len(lanes)

    def _below(self, x: float, by_pt: tuple[float, float], text: str, **look: Any) -> None:
        """A text below the axis, moved from its place on it by that many points."""
        self.ax.annotate(
            text, (x, 0), xycoords=self.ax.get_xaxis_transform(), xytext=by_pt, va="center",
            textcoords="offset points", annotation_clip=False, **look,
        )  # fmt: skip


def _marker(style: Style, open_: bool) -> dict[str, Any]:
    return {
        "color": style.color, "marker": style.marker, "markersize": _MARKER_PT, "linestyle": "",
        "markerfacecolor": "white" if open_ else style.color,
        "markeredgecolor": style.color if open_ else "white",
        "markeredgewidth": 1.1 if open_ else 0.5, "zorder": 4,
    }  # fmt: skip


def statuses(labels: Sequence[str]) -> str:
    """The different statuses of a series; what an oom implies goes without saying."""
    different = list(dict.fromkeys(labels))
    if any(label.startswith("oom") and label != IMPLIED for label in different):
        different = [label for label in different if label != IMPLIED]
    return ", ".join(different).replace("_", " ")
