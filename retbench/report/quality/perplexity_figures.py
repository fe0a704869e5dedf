"""The figures of the perplexity and ablation suites: curves, tuning, lengths, positions.

Each is a pure function of the tidy frames that returns a Figure and its sidecar. Lines are means
over seeds, bands their range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retbench.report import draw, stamp, theme, units
from retbench.report.frames import column, groups, intervals, records
from retbench.report.quality.perplexity_tables import Perplexity
from retbench.report.quality.trained import ending
from retbench.report.selection import Sidecar

Drawn = tuple[Figure, Sidecar]

_CARRIED: theme.LineStyle = (0, (1.2, 1.3))
_SPREAD = "line: mean over seeds, band: their range"


def figures(found: Perplexity) -> dict[str, Callable[[], Drawn]]:
    """What draws each figure that there is data for, by name."""
    made: dict[str, Callable[[], Drawn]] = {}
    if found.curves["dev_loss"].notna().any():
        made["loss_curves"] = lambda: loss_curves(found)
    if found.tuning["final_dev_loss"].notna().any():
        made["tuning"] = lambda: tuning(found)
    if found.at("length")["seq_len"].nunique() > 1:
        made["perplexity_length"] = lambda: lengths(found)
    if len(found.positions):
        made["loss_position"] = lambda: positions(found)
    if found.ratios["value"].notna().any():
        made["ratios"] = lambda: ratios(found)
    return made


def loss_curves(found: Perplexity) -> Drawn:
    """Dev loss over tokens, over FLOPs and over time."""
    title = "Dev loss over tokens, FLOPs and time"
    figure, axes, note = _canvas(found, title, [_SPREAD], panels=3)
    rows = found.curves[found.curves["dev_loss"].notna()]
    shown: list[dict[str, Any]] = []
    axes_of = (
        ("tokens", "thousand tokens trained on", 1e3),
        ("flops", "TFLOP", 1e12),
        ("train_s", "seconds of training", 1.0),
    )
    for ax, (along, label, divisor) in zip(axes, axes_of, strict=True):
        draw.log_y(ax, rows["dev_loss"])
        draw.log_x(ax, rows[along] / divisor)
        ax.set_xlabel(label)
        for model, style in theme.styles(found.models).items():
            own = rows[rows["model"] == model]
            if len(own):
                curve = _over_seeds(own, "trial", "dev_loss", along)
                x = column(curve, along) / divisor
                _line(ax, x, *intervals(curve), replace(style, marker=""))
                shown += [{"model": model, "along": along, **row} for row in records(curve)]
    axes[0].set_ylabel("dev loss (nats per token)")
    return figure, _sidecar(found, "loss_curves", title, shown, note)


def tuning(found: Perplexity) -> Drawn:
    """Dev loss over the learning rate; the chosen rate has a ring."""
    title = "Dev loss over the learning rate"
    note = ["one training each", "ring: chosen"]
    lost = found.tuning[found.tuning["final_dev_loss"].isna()]
    if len(lost):
        note.append("×: failed")
    figure, (ax,), text = _canvas(found, title, note)
    known = found.tuning[found.tuning["final_dev_loss"].notna()].sort_values("learning_rate")
    lanes = {model: lane for lane, model in enumerate(dict.fromkeys(lost["model"]))}
    draw.log_y(ax, known["final_dev_loss"], len(lanes))
    draw.log_x(ax, known["learning_rate"])
    for model, style in theme.styles(found.models).items():
        own = known[known["model"] == model]
        x, y = column(own, "learning_rate"), column(own, "final_dev_loss")
        ax.plot(x, y, color=style.color, marker=style.marker, linestyle=style.line, zorder=3)
        best = own[own["chosen"]]
        ax.plot(
            best["learning_rate"], best["final_dev_loss"], marker="o", markersize=13,
            markerfacecolor="none", markeredgecolor=style.color, linestyle="none", zorder=4,
        )  # fmt: skip
        if model in lanes:
            rates = lost.loc[lost["model"] == model, "learning_rate"]
            failed = f"× {', '.join(f'{rate:g}' for rate in rates)}"
            draw.lane_text(ax, lanes[model], failed, style)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("dev loss (nats per token)")
    shown = [_plain(row) for row in records(known)]
    return figure, _sidecar(found, "tuning", title, shown, text)


def lengths(found: Perplexity) -> Drawn:
    """Perplexity over the evaluation length: windows alone, and with the state carried on."""
    title = "Perplexity over the evaluation length"
    drawn_as = "dashed" if found.carried_once else "dotted"
    note = [
        "band: 95% interval over seeds and documents",
        f"vertical line: training length, {units.tokens(found.context)}",
        *(
            [f"{drawn_as}: the state is carried on from window to window"]
            if len(found.at("carried"))
            else []
        ),
    ]
    figure, (ax,), text = _canvas(found, title, note)
    rows = found.losses[found.losses["phase"].isin(("length", "carried"))].sort_values("seq_len")
    named = {
        f"perplexity{end}": name
        for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    rows = rows.rename(columns=named)
    tested = sorted({int(n) for n in rows["seq_len"]})
    draw.log2_axis(ax, tested, "evaluation length (tokens)", tokens=True)
    draw.log_y(ax, np.concatenate(intervals(rows)))
    ax.axvline(found.context, color="#8a8a8a", linewidth=0.9, zorder=0)
    for model, style in theme.styles(found.models).items():
        for phase, drawn in (
            ("length", replace(style, line="-")), ("carried", replace(style, line=_CARRIED))
        ):  # fmt: skip
            own = rows[(rows["model"] == model) & (rows["phase"] == phase)]
            if len(own) and phase == "carried" and found.carried_once:
                (row,) = records(own)
                ax.axhline(row["value"], color=style.color, linestyle="--", zorder=3)
            elif len(own):
                _line(ax, column(own, "seq_len"), *intervals(own), drawn)
    ax.set_ylabel("perplexity")
    keys = ["model", "phase", "seq_len", "value", "low", "high", "n"]
    shown = [_plain(row) for row in records(rows[keys])]
    return figure, _sidecar(found, "perplexity_length", title, shown, text)


def positions(found: Perplexity) -> Drawn:
    """Loss by position in the window, a panel for each window."""
    title = "Loss by position in the window"
    windows = sorted({int(window) for window in found.positions["seq_len"]})
    note = [_SPREAD, "a point: mean over the positions from the point before up to it"]
    names = [f"window of {units.tokens(window)} tokens" for window in windows]
    if len(windows) == 1:  # a single panel has no room for a title of its own
        note += names
    figure, axes, text = _canvas(found, title, note, panels=len(windows))
    shown: list[dict[str, Any]] = []
    for ax, window, name in zip(axes, windows, names, strict=True):
        rows = found.positions[found.positions["seq_len"] == window]
        edges = sorted({int(edge) for edge in rows["trial"]})
        draw.log2_axis(ax, edges, "position (tokens)", tokens=True)
        draw.log_y(ax, found.positions["value"])
        if len(windows) > 1:
            ax.set_title(name, pad=6)
        for model, style in theme.styles(found.models).items():
            own = rows[rows["model"] == model]
            if len(own):
                curve = _over_seeds(own, "trial", "value", "trial")
                _line(ax, column(curve, "trial"), *intervals(curve), style)
                shown += [{"model": model, "window": window, **row} for row in records(curve)]
    axes[0].set_ylabel("loss (nats per token)")
    return figure, _sidecar(found, "loss_position", title, shown, text)


def ratios(found: Perplexity) -> Drawn:
    """The ratios of perplexities with their intervals, one row a pair."""
    title = "Ratio of perplexities"
    what = (
        "above 1: the part left out helps" if found.is_ablation else "below 1: the first is better"
    )
    note = [what, "grey: margin ±1%", "bars: 95% interval, paired by seed and document"]
    figure, (ax,), text = _canvas(found, title, note)
    known = found.ratios[found.ratios["value"].notna()].reset_index(drop=True)
    styles = theme.styles(found.models)
    named = "subject" if found.is_ablation else "baseline"
    ax.axvspan(1 / 1.01, 1.01, color="#bdbdbd", alpha=0.45, linewidth=0, zorder=0)
    ax.axvline(1.0, color=theme.INK, linewidth=0.9, zorder=1)
    for place, row in enumerate(records(known)):
        style = styles[row[named]]
        ax.hlines(place, row["low"], row["high"], color=style.color, linewidth=1.6, zorder=2)
        ax.plot(row["value"], place, color=style.color, marker=style.marker, markersize=7, zorder=3)
    ax.set_yticks(range(len(known)), [f"{r['subject']} /\n{r['baseline']}" for r in records(known)])
    ax.set_ylim(len(known) - 0.5, -0.5)
    ax.grid(axis="x", color=theme.GRID, linewidth=0.6)
    figure.subplots_adjust(left=0.26)
    ax.set_xlabel("ratio of perplexities")
    shown = [_plain(row) for row in records(known)]
    return figure, _sidecar(found, "ratios", title, shown, text)


def _over_seeds(rows: pd.DataFrame, by: str, of: str, along: str) -> pd.DataFrame:
    """Mean and range over the seeds, one row for each value of ``by``, ascending."""
    table = []
    for (key,), group in groups(rows, [by]):
        values = column(group, of)
        place = float(column(group, along).mean())
        table.append({
            along: place, "value": float(values.mean()), "low": float(values.min()),
            "high": float(values.max()), "n": len(values), by: int(key),
        })  # fmt: skip
    return pd.DataFrame(table)


def _line(ax: Axes, x: Any, value: Any, low: Any, high: Any, style: theme.Style) -> None:
    """A line with its band; markers where the style has one."""
    ax.plot(
        x, value, color=style.color, marker=style.marker or None, linestyle=style.line,
        markeredgecolor="white", markeredgewidth=0.6, zorder=3,
    )  # fmt: skip
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        ax.fill_between(
            x[known], low[known], high[known], color=style.color, alpha=0.15, linewidth=0, zorder=2
        )


def _canvas(
    found: Perplexity, title: str, note: Sequence[str], panels: int = 1
) -> tuple[Figure, list[Axes], str]:
    failed = found.endings[found.endings["status"] != "ok"]
    marks = [f"× {row['model']}: {ending(row)}" for row in records(failed)]
    text = " · ".join((*note, *marks))
    styles = theme.styles(found.models)
    figure, axes = draw.canvas(title, stamp.conditions(found.meta), text, styles, panels)
    return figure, axes, text


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if _is_nothing(value) else value for key, value in row.items()}


def _is_nothing(value: Any) -> bool:
    return value is pd.NA or (isinstance(value, float) and units.is_missing(value))


def _sidecar(
    found: Perplexity, name: str, title: str, shown: Sequence[dict[str, Any]], note: str
) -> Sidecar:
    """Every cell as shown with its value, or as left out and why."""
    failed = records(found.endings[found.endings["status"] != "ok"])
    return {
        "figure": name, "title": title, "caption": stamp.conditions(found.meta),
        "shown": list(shown),
        "left_out": [
            {"model": row["model"], "why": row["status"], "cause": row["cause"],
             "blocks": row["blocks"] - row["ok_blocks"]}
            for row in failed
        ],
        "note": note,
    }  # fmt: skip
