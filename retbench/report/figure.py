"""What a figure is: a declaration over a frame, which a few geometries draw.

A suite says what is shown, over what, by whom and how to read it; nothing here draws, and nothing
here knows a suite. :mod:`retbench.report.drawing` draws any of them, and
:mod:`retbench.report.figure_data` lists what each one shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from retbench.report import stamp, terms, theme, units
from retbench.report.frames import EDGES, Floats
from retbench.report.theme import BOUND, LineStyle, Style

COLUMNS = ["panel", "series", "x", "value", "low", "high", "n", "open", "each", "row", "text"]
FAILURES = ["panel", "series", "x", "status"]
DECIDED = ("faster", "slower", "smaller", "larger", "better", "worse", "equivalent")


def plain(value: float) -> str:
    """A number with its thousands set apart, as ticks have it."""
    return f"{value:,.10g}"


@dataclass(frozen=True)
class Axis:
    """One direction of a panel.

    Attributes:
        label: what it measures, with the unit that it is drawn in.
        ticks: the planned values, in powers of two; where empty they are chosen.
        text: how a tick is written.
        divisor: of the frame's values, to the unit of the label.
        share: whether it goes from 0 to 1; it is logarithmic otherwise.
    """

    label: str
    ticks: tuple[float, ...] = ()
    text: Callable[[float], str] = plain
    divisor: float = 1.0
    share: bool = False

    @classmethod
    def scaled(cls, title: str, unit: str, values: Iterable[float]) -> Axis:
        """An axis in the scale that suits its values, which are in ``unit``."""
        scale = units.scale_for(unit, values)
        label = f"{title} ({scale.symbol})" if scale.symbol else title
        return cls(label, divisor=scale.divisor)


@dataclass(frozen=True)
class Curve:
    """A line that was not measured point by point: a bound, a fit, guessing.

    Attributes:
        panel: which one it is in.
        series: whose colour it has; grey where nobody's.
        x: shape (points,), in the unit of the frame.
        value: likewise.
        label: its entry in the legend; none where empty.
        line: its dashes.
    """

    panel: str
    series: str
    x: Floats
    value: Floats
    label: str = ""
    line: LineStyle = BOUND


@dataclass(frozen=True)
class Crossing:
    """A context at which two sides are equal, with its interval, inside what was measured."""

    panel: str
    series: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        key: of its rows in the frame.
        title: over it.
        x: its horizontal axis.
        y: its vertical axis.
        margin: of a panel of ratios, the relative difference that counts as none; None elsewhere.
        sides: of a panel of ratios, what a value below 1 and one above it mean.
        marks: vertical lines, by what they mark.
        group: panels of one group stand in rows of their own.
    """

    key: str
    title: str
    x: Axis
    y: Axis = field(default_factory=lambda: Axis(""))
    margin: float | None = None
    sides: tuple[str, str] = ("", "")
    marks: Mapping[str, float] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure as data.

    Attributes:
        name: of its files.
        title: what it shows.
        panels: in reading order.
        data: one row a mark, or without a value a gap in its line, with the columns
            :data:`COLUMNS` as far as they apply (``open``: whether the mark is hollow; ``each``:
            the values of single processes or seeds; ``row`` and ``text`` of the geometry
            ``rows``), and the coordinates of its cell: ``model``, ``point``, and ``subject`` and
            ``metric`` where there are such.
        styles: of the series.
        caption: the conditions.
        geometry: ``lines`` of one quantity over another, or ``rows``, one a thing that is compared,
            with its number at the right.
        notes: how to read it, beyond what the geometry says itself.
        interval: what an interval covers; empty where there are none.
        each: what has a value of its own, e.g. ``process``.
        opened: what a hollow mark means.
        failures: the columns :data:`FAILURES`; ``x`` is missing where it has no place on the axis.
        curves: what is drawn beside the data.
        crossings: where ratios cross 1.
        columns: panels in a row, at most.
        shared: whether all panels have the same limits of sizes.
        caveat: what forbids claims from it; empty where nothing does.
        named: how the label of a series, or of a row, is written.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    data: pd.DataFrame
    styles: Mapping[str, Style]
    caption: str
    geometry: Literal["lines", "rows"] = "lines"
    notes: tuple[str, ...] = ()
    interval: str = ""
    each: str = "process"
    opened: str = "open: inconclusive, or no claim"
    failures: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FAILURES))
    curves: Sequence[Curve] = ()
    crossings: Sequence[Crossing] = ()
    columns: int = 3
    shared: bool = False
    caveat: str = ""
    named: Callable[[str], str] = str

    @classmethod
    def of(
        cls, meta: Mapping[str, Any], name: str, title: str, panels: Iterable[Panel],
        data: pd.DataFrame, **more: Any,
    ) -> Figure:  # fmt: skip
        """A figure of a run, whose models, conditions and profile it takes from ``run.json``."""
        given = {
            "styles": theme.of_plan(meta), "caption": stamp.conditions(meta),
            "caveat": "SMOKE: no claims" if terms.is_smoke(meta) else "",
        }  # fmt: skip
        return cls(name, title, tuple(panels), data, **(given | more))

    def sizes(self, panel: Panel) -> Axis:
        """The axis of a panel that its values lie along."""
        return panel.x if self.geometry == "rows" else panel.y

    def rows(self, panel: Panel) -> pd.DataFrame:
        """The marks of a panel, in the units of its axes, with all of :data:`COLUMNS`."""
        own = self.data[self.data["panel"] == panel.key]
        own = own.reindex(columns=list(dict.fromkeys([*COLUMNS, *own])))
        divisor = self.sizes(panel).divisor
        for name in EDGES:
            given = own[name].astype(float) / divisor
            own[name] = given.where(np.isfinite(given))  # an infinite loss has no place
        own["x"] = own["x"].astype(float) / panel.x.divisor
        values = (value if isinstance(value, tuple) else () for value in own["each"])
        return own.assign(each=tuples([np.array(each) / divisor for each in values], own))


def tuples(values: Iterable[Sequence[float] | Floats], like: pd.DataFrame) -> pd.Series[Any]:
    """A column of tuples for the rows of a frame."""
    return pd.Series([tuple(each) for each in values], index=like.index, dtype=object)
