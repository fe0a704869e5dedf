"""The figures of the kernels suite: time, rate and ratio over context, a panel a direction.

Each is a pure function of the tidy frames that returns a Figure and its sidecar, which lists every
cell of the run as shown or as left out. There is one of each kind for every head dimension, type
and batch size. An operation none of whose cells succeeded there is named under the figure; it has
no line and no place in the legend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes

from retbench.machine import ceilings as ceiling
from retbench.metrics import METRICS
from retbench.report import compare, draw, stamp, theme, units
from retbench.report.content import Drawn
from retbench.report.frames import Row, column, intervals, records
from retbench.report.selection import Sidecar
from retbench.report.speed.kernels_frames import Kernels, at

_REACH = 1.5  # how far beyond the values an interval may stretch the y axis
_INTERVAL = "bars: 95% interval over processes"
_NO_INTERVAL = "no intervals: they need two processes"


@dataclass(frozen=True)
class _Sheet:
    """One figure's share of the run.

    Attributes:
        kernels: the run.
        setting: head dimension, type and batch size.
        cells: the rows of the metric that is drawn.
        statuses: how its cells ended.
    """

    kernels: Kernels
    setting: Row
    cells: pd.DataFrame
    statuses: pd.DataFrame

    def drawn(self) -> dict[str, theme.Style]:
        """Operations with anything to draw, each in the style it has in all figures."""
        alive = set(self.cells["model"])
        styles = theme.styles(self.kernels.models)
        return {model: style for model, style in styles.items() if model in alive}

    def note(self, *parts: str) -> str:
        """The footnote: how to read it, and who is not in it."""
        failed = self.statuses[self.statuses["status"] != "ok"]
        marks = ["×: failed"] if failed["model"].isin(list(self.drawn())).any() else []
        lost = [name for name in self.kernels.models if name not in self.drawn()]
        absent = [f"no cell succeeded: {', '.join(lost)}"] if lost else []
        return " · ".join((*parts, *marks, *absent))

    def title(self, what: str) -> str:
        """What is drawn, and of which heads."""
        text = f"{what}, d_k {self.setting['head_dim']}, {self.setting['dtype']}"
        batch = self.setting["batch_size"]
        return text if batch == 1 else f"{text}, batch {batch}"

    def caption(self) -> str:
        """The conditions, with this figure's type alone."""
        meta = self.kernels.meta
        own = {**meta["configuration"], "dtypes": [self.setting["dtype"]]}
        return stamp.conditions({**meta, "configuration": own})

    def interval(self) -> str:
        """What the bars are."""
        return _INTERVAL if self.cells["low"].notna().any() else _NO_INTERVAL

    def panels(self, figure_title: str, note: str, legend: dict[str, theme.Style]) -> list[Axes]:
        """Axes along the contexts, one a direction."""
        directions = self.kernels.planned("direction")
        _, axes = draw.canvas(figure_title, self.caption(), note, legend, len(directions))
        for ax, direction in zip(axes, directions, strict=True):
            draw.log2_axis(ax, self.kernels.planned("seq_len"), "context (tokens)", tokens=True)
            ax.set_title(_DIRECTIONS[direction], pad=6)
        return axes

    def failures(self, direction: str) -> dict[str, tuple[list[int], list[str]]]:
        """Contexts and statuses of the failed cells of every operation that is drawn."""
        rows = self.statuses[self.statuses["direction"] == direction]
        found: dict[str, tuple[list[int], list[str]]] = {}
        for row in records(rows[rows["status"] != "ok"].sort_values("seq_len")):
            if row["model"] in self.drawn():
                places, labels = found.setdefault(row["model"], ([], []))
                places.append(row["seq_len"])
                labels.append(row["status"])
        return found


_DIRECTIONS = {"forward": "Forward", "train": "Forward and backward"}


def figures(kernels: Kernels) -> dict[str, Callable[[], Drawn]]:
    """What draws each figure, by name."""
    found: dict[str, Callable[[], Drawn]] = {}
    for setting in _sheets(kernels):
        name = _name(kernels, setting)
        for kind, draw_it in (("time", time_figure), ("rate", rate_figure)):
            found[f"{kind}_{name}"] = _bound(draw_it, kernels, setting, f"{kind}_{name}")
        if len(kernels.models) > 1:
            found[f"ratio_{name}"] = _bound(ratio_figure, kernels, setting, f"ratio_{name}")
    return found


def _bound(
    function: Callable[[Kernels, Row, str], Drawn], kernels: Kernels, setting: Row, name: str
) -> Callable[[], Drawn]:
    return lambda: function(kernels, setting, name)


def _sheets(kernels: Kernels) -> Iterator[Row]:
    """The settings without their direction, each once."""
    seen = []
    for setting in kernels.settings():
        sheet = {name: value for name, value in setting.items() if name != "direction"}
        if sheet not in seen:
            seen.append(sheet)
            yield sheet


def _name(kernels: Kernels, setting: Mapping[str, object]) -> str:
    name = f"d{setting['head_dim']}_{setting['dtype']}"
    several = len(kernels.planned("batch_size")) > 1
    return f"{name}_b{setting['batch_size']}" if several else name


def _sheet(kernels: Kernels, setting: Row, metric: str) -> _Sheet:
    cells = kernels.cells[kernels.cells["metric"] == metric]
    return _Sheet(kernels, setting, at(cells, setting), at(kernels.statuses, setting))


def time_figure(kernels: Kernels, setting: Row, name: str) -> Drawn:
    """Time of a call over the context."""
    sheet = _sheet(kernels, setting, "kernel_s")
    title = sheet.title("Time of a call")
    note = sheet.note(sheet.interval())
    axes = sheet.panels(title, note, sheet.drawn())
    scale = units.scale_for("s", sheet.cells["value"])
    for ax, direction in zip(axes, kernels.planned("direction"), strict=True):
        _lines(ax, sheet, direction, scale.divisor, None)
    axes[0].set_ylabel(f"time ({scale.symbol})")
    return axes[0].figure, _sidecar(sheet, name, title, note, sheet.cells)  # type: ignore[return-value]


def rate_figure(kernels: Kernels, setting: Row, name: str) -> Drawn:
    """Analytic FLOPs over time, under the machine's matmul rate."""
    sheet = _sheet(kernels, setting, "kernel_flop_per_s")
    title = sheet.title("Rate")
    peak = ceiling.matmul_rate(kernels.meta.get("ceilings"), str(setting["dtype"]))
    parts = [f"rate: {METRICS['kernel_flop_per_s'].definition}", sheet.interval()]
    parts += ["dashed: measured matmul rate"] if peak else []
    note = sheet.note(*parts)
    axes = sheet.panels(title, note, sheet.drawn())
    scale = units.scale_for("flop/s", sheet.cells["value"])
    for ax, direction in zip(axes, kernels.planned("direction"), strict=True):
        _lines(ax, sheet, direction, scale.divisor, peak)
    axes[0].set_ylabel(f"rate ({scale.symbol})")
    return axes[0].figure, _sidecar(sheet, name, title, note, sheet.cells)  # type: ignore[return-value]


def _lines(
    ax: Axes, sheet: _Sheet, direction: str, divisor: float, ceiling_at: float | None
) -> None:
    """All operations of one panel: lines, intervals, failures, and what bounds them."""
    cells = sheet.cells[sheet.cells["direction"] == direction].sort_values("seq_len")
    values = [*_extent(cells, divisor), *([ceiling_at / divisor] if ceiling_at else [])]
    _failures(ax, sheet, direction, values)
    if ceiling_at:
        ax.axhline(ceiling_at / divisor, color=theme.INK, linestyle=theme.BOUND, linewidth=1.0)
    for model, style in sheet.drawn().items():
        _line(ax, cells[cells["model"] == model], divisor, style)


def _failures(ax: Axes, sheet: _Sheet, direction: str, values: list[float]) -> None:
    """The y axis around values, and above it a lane for every operation that has failed cells.

    Of so many operations several have the same marker, so that the name says whose lane it is,
    where there is room for it.
    """
    failed, contexts = sheet.failures(direction), sheet.kernels.planned("seq_len")
    draw.log_y(ax, values, len(failed))
    styles = {model: style for model, style in sheet.drawn().items() if model in failed}
    for lane, (model, style) in enumerate(styles.items()):
        places, labels = failed[model]
        if places == contexts:
            text = f"{model}: {draw.statuses(labels)} at every context"
            draw.lane_text(ax, lane, text, style)
            continue
        named = replace(style, glyph=f"{style.glyph} {model}:")
        draw.failures(ax, lane, places, labels, style if contexts[0] in places else named)


def _extent(rows: pd.DataFrame, divisor: float = 1.0) -> list[float]:
    """The values that the y axis must hold.

    An interval from two processes can be huge: the bars may leave the axes, the lines may not.
    """
    lows = rows["low"].clip(lower=rows["value"].min() / _REACH)
    highs = rows["high"].clip(upper=rows["value"].max() * _REACH)
    return [float(value) / divisor for value in pd.concat([rows["value"], lows, highs])]


def _line(ax: Axes, rows: pd.DataFrame, divisor: float, style: theme.Style) -> None:
    """A line with upright bars for its intervals: bands of so many lines would hide each other."""
    x, (value, low, high) = column(rows, "seq_len"), intervals(rows, divisor)
    ax.plot(
        x, value, color=style.color, marker=style.marker, linestyle=style.line,
        markeredgecolor="white", markeredgewidth=0.6, markersize=6.5, zorder=3,
    )  # fmt: skip
    ax.vlines(x, low, high, color=style.color, linewidth=1.1, alpha=0.75, zorder=2)


def ratio_figure(kernels: Kernels, setting: Row, name: str) -> Drawn:
    """The subject's time over each other operation's, along the context."""
    subject, *baselines = kernels.models
    sheet = _sheet(kernels, setting, "kernel_s")
    rows = at(kernels.ratios, setting).sort_values("seq_len", kind="stable")
    known = rows[rows["value"].notna()]
    threshold = compare.threshold(kernels.meta, "kernel_s")
    title = sheet.title(f"Time of {subject} over that of each other operation")
    note = sheet.note(
        f"below 1: {subject} is faster", f"grey: margin or noise floor, ±{threshold:.1%}",
        "bars: the verdict's interval, paired by block",
    )  # fmt: skip
    styles = theme.styles(kernels.models)
    compared = [name for name in baselines if name in set(known["baseline"])]
    axes = sheet.panels(title, note, {name: styles[name] for name in compared})
    for ax, direction in zip(axes, kernels.planned("direction"), strict=True):
        own = known[known["direction"] == direction]
        edges = (1 / (1 + threshold), 1 + threshold)
        _failures(ax, sheet, direction, [*_extent(own), *edges])
        ax.axhspan(*edges, color="#bdbdbd", alpha=0.45, linewidth=0, zorder=0)
        ax.axhline(1.0, color=theme.INK, linewidth=0.9, zorder=1)
        for baseline in compared:
            _line(ax, own[own["baseline"] == baseline], 1.0, styles[baseline])
    axes[0].set_ylabel("ratio of times")
    shown = known.assign(model=known["baseline"], unit="ratio")
    return axes[0].figure, _sidecar(sheet, name, title, note, shown)  # type: ignore[return-value]


def _sidecar(sheet: _Sheet, name: str, title: str, note: str, shown: pd.DataFrame) -> Sidecar:
    """Every cell of the run: shown with its value, or left out and why."""
    columns = ["model", "point", "metric", "unit", "value", "low", "high", "n"]
    listed = shown[columns].astype(object).where(shown[columns].notna(), None)
    present = set(shown[["model", "point"]].itertuples(index=False, name=None))
    here = set(sheet.statuses["point"])
    left_out = []
    for row in records(sheet.kernels.statuses):
        if (row["model"], row["point"]) in present:
            continue
        failed = row["status"] != "ok"
        other = "in another figure" if row["point"] not in here else "not compared"
        left_out.append({
            "model": row["model"], "point": row["point"],
            "why": row["status"] if failed else other,
            "cause": row["cause"] if failed else None,
        })  # fmt: skip
    return {
        "figure": name, "title": title, "caption": sheet.caption(),
        "shown": listed.to_dict("records"), "left_out": left_out, "note": note,
    }  # fmt: skip
