"""The figures of the recall suite: accuracy over length, over load and over the state's bytes.

Each is a pure function of the tidy frames that returns a Figure and its sidecar, which lists every
cell as shown or as left out. One panel a task. Colour and marker are the model's; where a panel has
several lines a model, the line's dashes say which load or length it is, at most three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from retbench.report import draw, stamp, theme, units
from retbench.report.frames import Floats, column, intervals, records
from retbench.report.quality import trained
from retbench.report.quality.recall_frames import guess, load_name
from retbench.report.selection import Sidecar

Drawn = tuple[Figure, Sidecar]
Lines = Mapping[str, list[int]]  # of each task the loads, or the lengths, that have a line

_DASHES: tuple[theme.LineStyle, ...] = ("-", (0, (4.5, 1.8)), (0, (1.2, 1.4)))
_DEGREES = {"load": ("lightest", "middle", "heaviest"), "length": ("shortest", "middle", "longest")}
_GREY = "#9a9a9a"
_GUESSED: theme.LineStyle = (0, (7.0, 1.6, 1.4, 1.6))  # where it belongs to no line in particular
_LANE = 0.075  # of the axes' height, as draw.lane_text has it
_SAME_HEIGHT = 0.05  # of accuracy: labels of points nearer than this would overlap
_WIDEST = 3  # panels in a row that draw.canvas has a width for
_KEYS = ["task", "seq_len", "load", "model"]


@dataclass(frozen=True)
class Recall:
    """What the figures are drawn from; see ``recall_frames`` for the frames.

    Attributes:
        meta: ``run.json``.
        models: in the order of the plan.
        tasks: in the order of the plan.
        accuracy: one row per task, length, load and model.
        states: state bytes per task, model and length.
        endings: how the final trainings ended, per task and model.
        length: the training length.
        chance: the accuracy of guessing among all answers, by task; see ``recall_frames.guess``.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    accuracy: pd.DataFrame
    states: pd.DataFrame
    endings: pd.DataFrame
    length: int
    chance: Mapping[str, float]


def figures(recall: Recall) -> dict[str, Callable[[], Drawn]]:
    """What draws each figure that there is data for, by name."""
    found: dict[str, Callable[[], Drawn]] = {}
    if recall.accuracy.empty:
        return found
    found["accuracy_length"] = lambda: over_length(recall)
    if recall.accuracy.groupby("task")["load"].nunique().max() > 1:
        found["accuracy_load"] = lambda: over_load(recall)
    if not recall.states.empty:
        found["accuracy_state"] = lambda: over_state(recall)
    return found


def over_length(recall: Recall) -> Drawn:
    """Accuracy over the evaluation length, a line a model and load."""
    title = "Accuracy over length"
    chosen = {task: spread(_loads(recall, task)) for task in recall.tasks}
    note = [f"dotted vertical line: training length, {units.tokens(recall.length)} tokens"]
    figure, panels = _canvas(recall, title, note, "load", chosen)
    drawn = []
    for ax, task in panels:
        own = recall.accuracy[recall.accuracy["task"] == task]
        lengths = sorted(int(length) for length in own["seq_len"].unique())
        draw.log2_axis(ax, lengths, "evaluation length (tokens)", tokens=True)
        ax.axvline(recall.length, color=theme.MUTED, linestyle=":", linewidth=1.0, zorder=0)
        of = f" ({_listed(chosen[task])} {load_name(task)})" if _counted(chosen[task]) else ""
        drawn += _panel(ax, recall, task, f"{task}{of}", "seq_len", "load", chosen)
        for load, dashes in zip(chosen[task], _dashes(chosen, task), strict=True):
            _guessed(ax, recall, task, load, dashes)
    return figure, _sidecar(recall, "accuracy_length", title, drawn, note, chosen)


def over_load(recall: Recall) -> Drawn:
    """Accuracy over the load, a line a model and length, in tasks of several loads."""
    title = "Accuracy over load"
    tasks = [task for task in recall.tasks if len(_loads(recall, task)) > 1]
    chosen = {task: spread(_lengths(recall, task), recall.length) for task in tasks}
    figure, panels = _canvas(recall, title, [], "length", chosen)
    drawn = []
    for ax, task in panels:
        draw.log2_axis(ax, _loads(recall, task), load_name(task), tokens=False)
        texts = _listed([units.tokens(length) for length in chosen[task]])
        heading = f"{task} (at {texts} tokens)"
        drawn += _panel(ax, recall, task, heading, "load", "seq_len", chosen)
        loads = _loads(recall, task)
        levels = [level for load in loads if (level := guess(recall.chance, task, load))]
        if levels:
            ax.plot(loads, levels, color=_GREY, linestyle=_GUESSED, linewidth=1.2, zorder=1)
    return figure, _sidecar(recall, "accuracy_load", title, drawn, [], chosen)


def over_state(recall: Recall) -> Drawn:
    """Accuracy over the bytes of the state, a point an evaluation length, at one load."""
    title = "Accuracy over state size"
    held = {task: [_common_load(recall, task)] for task in recall.tasks if _loads(recall, task)}
    note = ["labels: evaluation length in tokens", "state of one sequence"]
    figure, panels = _canvas(recall, title, note, "", held)
    styles = theme.styles(recall.models)
    drawn: list[pd.DataFrame] = []
    for ax, task in panels:
        own = recall.accuracy[
            (recall.accuracy["task"] == task) & (recall.accuracy["load"] == held[task][0])
        ].merge(recall.states, on=["task", "model", "seq_len"])
        _state_axis(ax, own["state_bytes"])
        _percent_axis(ax, recall, task)
        _guessed(ax, recall, task, held[task][0], "-")
        named: list[draw.Name] = []
        for model, style in styles.items():
            rows = own[own["model"] == model].sort_values("seq_len")
            if rows.empty:
                continue
            x = column(rows, "state_bytes")
            _line(ax, x, *intervals(rows), replace(style, line="-"))
            named += [(*place, style.color) for place in _labels(rows, recall.length)]
            drawn.append(rows)
        draw.names(ax, named, [])
        load = f" ({held[task][0]} {load_name(task)})" if held[task] != [1] else ""
        ax.set_title(f"{task}{load}", pad=6)
    return figure, _sidecar(recall, "accuracy_state", title, drawn, note, held)


def _labels(rows: pd.DataFrame, training: int) -> list[tuple[float, float, str]]:
    """Where to write which lengths beside a model's points, ascending in length.

    A state that grows is labelled at its ends and at the training length. Of a state that does not,
    the points lie above one another, and neighbours at about one height share a label.
    """
    places = [(row["state_bytes"], row["value"], int(row["seq_len"])) for row in records(rows)]
    if rows["state_bytes"].nunique() > 1:
        ends = (places[0][2], training, places[-1][2])
        return [(x, y, units.tokens(length)) for x, y, length in places if length in ends]
    runs: list[list[tuple[float, float, int]]] = []
    for place in places:
        if runs and abs(runs[-1][-1][1] - place[1]) < _SAME_HEIGHT:
            runs[-1].append(place)
        else:
            runs.append([place])
    return [
        (run[0][0], run[len(run) // 2][1],
         "–".join(dict.fromkeys(units.tokens(end[2]) for end in (run[0], run[-1]))))
        for run in runs
    ]  # fmt: skip


def spread(values: Sequence[int], also: int | None = None) -> list[int]:
    """At most three of ascending ``values``: the ends, and ``also`` or the middle one."""
    if len(values) <= len(_DASHES):
        return list(values)
    inner = values[1:-1]
    middle = also if also in inner else inner[len(inner) // 2]
    assert middle is not None
    return [values[0], middle, values[-1]]


def _canvas(
    recall: Recall, title: str, note: list[str], what: str, chosen: Lines
) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with a panel for each task, and in its legend what the dashes mean."""
    names = list(chosen)[:_WIDEST]
    most = _most(chosen)
    note += ["bars: 95% interval over seeds and sequences"]
    if recall.chance:
        note.append("grey lines: guessing among what was shown")
    legend = {
        model: replace(style, line="-") for model, style in theme.styles(recall.models).items()
    }
    if what and most > 1:
        degrees = (*_DEGREES[what][: most - 1], _DEGREES[what][-1])
        for degree, dashes in zip(degrees, _DASHES, strict=False):
            legend[f"{degree} {what}"] = theme.Style(theme.MUTED, "", "", dashes)
    figure, axes = draw.canvas(
        title, stamp.conditions(recall.meta), " · ".join(note), legend, max(len(names), 1)
    )
    return figure, list(zip(axes, names, strict=False))


def _panel(
    ax: Axes, recall: Recall, task: str, heading: str, along: str, held: str, lines: Lines
) -> list[pd.DataFrame]:
    """All lines of one panel; returns the cells it shows."""
    _percent_axis(ax, recall, task)
    chosen, dashes, drawn = lines[task], _dashes(lines, task), []
    own = recall.accuracy[recall.accuracy["task"] == task]
    for model, style in theme.styles(recall.models).items():
        for place, value in enumerate(chosen):
            rows = own[(own["model"] == model) & (own[held] == value)].sort_values(along)
            if rows.empty:
                continue
            x = column(rows, along) * _aside(recall, model)
            _line(ax, x, *intervals(rows), replace(style, line=dashes[place]))
            drawn.append(rows)
    ax.set_title(heading, pad=6)
    return drawn


def _dashes(lines: Lines, task: str) -> list[theme.LineStyle]:
    """The dashes of a panel's lines; the last one has the last of the legend, of two lines too."""
    count = len(lines[task])
    if count < 2:
        return list(_DASHES[:count])
    return [*_DASHES[: count - 1], _DASHES[_most(lines) - 1]]


def _guessed(ax: Axes, recall: Recall, task: str, load: int, dashes: theme.LineStyle) -> None:
    """The accuracy of guessing at a load, where it is known."""
    level = guess(recall.chance, task, load)
    if level is not None:
        ax.axhline(level, color=_GREY, linestyle=dashes, linewidth=1.2, zorder=1)


def _aside(recall: Recall, model: str) -> float:
    """A factor on x that sets the models' points side by side, so that no interval hides one."""
    place = recall.models.index(model) - (len(recall.models) - 1) / 2
    return float(2 ** (0.07 * place))


def _line(
    ax: Axes, x: Floats, value: Floats, low: Floats, high: Floats, style: theme.Style
) -> None:
    ax.plot(
        x, value, color=style.color, marker=style.marker, linestyle=style.line, linewidth=1.4,
        markeredgecolor="white", markeredgewidth=0.6, markersize=6, zorder=3,
    )  # fmt: skip
    ax.vlines(x, low, high, color=style.color, linewidth=1.1, alpha=0.75, zorder=2)


def _percent_axis(ax: Axes, recall: Recall, task: str) -> None:
    """A y axis from 0 to 100%, and lanes for models that failed."""
    failed = recall.endings[(recall.endings["task"] == task) & (recall.endings["status"] != "ok")]
    low, top = -0.08, 1.03  # room for labels below
    ax.set_ylim(low, low + (top - low) / (1 - _LANE * len(failed)))
    ax.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=theme.GRID, linewidth=0.6)
    if ax.get_subplotspec().colspan.start == 0:  # type: ignore[union-attr]
        ax.set_ylabel("accuracy")
    styles = theme.styles(recall.models)
    for lane, row in enumerate(records(failed)):
        draw.lane_text(ax, lane, f"× {trained.ending(row)}", styles[row["model"]])


def _state_axis(ax: Axes, sizes: pd.Series[Any]) -> None:
    """A log2 x axis of bytes with ticks at powers of two."""
    low, high = (float(edge) for edge in (sizes.min(), sizes.max()))
    low, high = low / 2.6, high * 1.8  # room for labels
    exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    step = -(-len(exponents) // 5)
    ticks = [2.0**k for k in exponents if k % step == 0]
    ax.set_xscale("log", base=2)
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(lambda value, _: size(value))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("state (bytes)")
    ax.grid(axis="x", color=theme.GRID, linewidth=0.6)


def size(bytes_: float) -> str:
    """A number of bytes in its own unit: 512 B, 64 KiB."""
    scale = units.scale_for("bytes", [bytes_])
    return f"{bytes_ / scale.divisor:.3g} {scale.symbol}"


def _loads(recall: Recall, task: str) -> list[int]:
    own = recall.accuracy[recall.accuracy["task"] == task]
    return sorted(int(load) for load in own["load"].unique())


def _lengths(recall: Recall, task: str) -> list[int]:
    own = recall.accuracy[recall.accuracy["task"] == task]
    return sorted(int(length) for length in own["seq_len"].unique())


def _common_load(recall: Recall, task: str) -> int:
    """The heaviest of the loads that were measured at the most lengths."""
    own = recall.accuracy[recall.accuracy["task"] == task]
    lengths = own.groupby("load")["seq_len"].nunique()
    return int(lengths[lengths == lengths.max()].index.max())


def _counted(loads: list[int]) -> bool:
    """Whether loads are worth naming: there are some, and not just a single needle."""
    return loads not in ([], [1])


def _most(lines: Lines) -> int:
    return max((len(values) for values in lines.values()), default=1)


def _listed(values: Sequence[int | str]) -> str:
    return ", ".join(str(value) for value in values)


def _sidecar(
    recall: Recall, name: str, title: str, drawn: list[pd.DataFrame], note: list[str],
    chosen: Lines,
) -> Sidecar:  # fmt: skip
    """Every cell as shown with its value or as left out, and why."""
    shown = pd.concat(drawn) if drawn else recall.accuracy.iloc[:0]
    columns = [*_KEYS, "value", "low", "high", "n"]
    listed = shown[columns].astype(object).where(shown[columns].notna(), None)
    present = set(shown[_KEYS].itertuples(index=False, name=None))
    left_out: list[dict[str, Any]] = [
        {key: row[key] for key in _KEYS} | {"why": "not a line of this figure"}
        for row in records(recall.accuracy)
        if tuple(row[key] for key in _KEYS) not in present
    ]
    for row in records(recall.endings[recall.endings["status"] != "ok"]):
        left_out.append({
            "task": row["task"], "model": row["model"], "why": row["status"],
            "cause": row["cause"], "blocks": row["blocks"] - row["ok_blocks"],
        })  # fmt: skip
    return {
        "figure": name, "title": title, "caption": stamp.conditions(recall.meta),
        "shown": listed.to_dict("records"), "left_out": left_out,
        "note": " · ".join(note), "lines": dict(chosen),
    }  # fmt: skip
