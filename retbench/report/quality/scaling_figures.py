"""The figures of the scaling suite: loss over parameters, loss over FLOPs, ratio over parameters.

Each is a pure function of the tidy frames that returns a Figure and its sidecar. The points are
measured, the thin dashed lines fitted to them; a line ends where its points do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from retbench.report import draw, stamp, theme, units
from retbench.report.frames import Floats, column, intervals, records
from retbench.report.quality import trained
from retbench.report.quality.scaling_frames import ALONG, Along, Laws
from retbench.report.selection import Sidecar

Drawn = tuple[Figure, Sidecar]
MARGIN = 0.01  # of perplexity

TITLES: dict[Along, str] = {"parameters": "parameters", "train_flops": "training FLOPs"}
_NAMES: dict[Along, str] = {"parameters": "loss_parameters", "train_flops": "loss_flops"}
_AXES: dict[Along, str] = {
    "parameters": "non-embedding parameters", "train_flops": "FLOPs of one training",
}  # fmt: skip


@dataclass(frozen=True)
class Scaling:
    """What the figures are drawn from; see ``scaling_frames`` for the frames.

    Attributes:
        meta: ``run.json``.
        models: the subject, then the baselines.
        presets: in the order of the plan.
        table: one row per preset and model.
        ratios: one row per preset and baseline.
        endings: how the final trainings ended, per preset and model.
        laws: the fits over each size.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    presets: tuple[str, ...]
    table: pd.DataFrame
    ratios: pd.DataFrame
    endings: pd.DataFrame
    laws: Mapping[Along, Laws]


def figures(scaling: Scaling) -> dict[str, Callable[[], Drawn]]:
    """What draws each figure that there is data for, by name."""
    found: dict[str, Callable[[], Drawn]] = {}
    for along in ALONG:
        if scaling.table[along].notna().any():
            found[_NAMES[along]] = lambda along=along: loss(scaling, along)  # type: ignore[misc]
    if scaling.ratios["value"].notna().any():
        found["ratio_parameters"] = lambda: ratio(scaling)
    return found


def loss(scaling: Scaling, along: Along) -> Drawn:
    """Test loss over a size, both logarithmic, with the fitted power laws."""
    title = f"Test loss over {TITLES[along]}"
    fits = scaling.laws[along]
    note = [
        "bars: 95% interval over seeds and documents",
        *(["dashed: fitted power law"] if fits.plain else []),
        *_marks(scaling),
    ]
    styles = theme.styles(scaling.models)
    legend = {
        f"{model}{_exponent(fits, model)}": replace(style, line=theme.BOUND)
        for model, style in styles.items()
    }
    figure, (ax,) = draw.canvas(
        title, conditions(scaling.meta, scaling.presets), " · ".join(note), legend, 1
    )
    table = scaling.table[scaling.table[along].notna()].sort_values(along)
    failed = scaling.endings[scaling.endings["status"] != "ok"]
    lanes = list(dict.fromkeys(failed["model"]))
    _size_axis(ax, column(table, along), along)
    edges = [column(table, f"loss{end}") for end in ("", "_low", "_high")]
    draw.log_y(ax, np.concatenate(edges), len(lanes))
    for model, style in styles.items():
        own = table[table["model"] == model]
        if len(own):
            _points(ax, own, along, style)
        if model in fits.plain:
            law = fits.plain[model]
            x = np.geomspace(law.smallest, law.largest, 50)
            ax.plot(x, law.at(x), color=style.color, linestyle=theme.BOUND, linewidth=1.1, zorder=1)
        if model in lanes:
            _failed(ax, lanes.index(model), failed[failed["model"] == model], style)
    ax.set_ylabel("test loss (nats per token)")
    shown = [
        {"preset": r["preset"], "model": r["model"], along: r[along], "value": r["loss"],
         "low": _known(r["loss_low"]), "high": _known(r["loss_high"]), "n": r["n"]}
        for r in records(table)
    ]  # fmt: skip
    lines = {
        model: {"exponent": law.exponent.value, "scale": law.scale.value}
        for model, law in fits.plain.items()
    }
    return figure, _sidecar(scaling, _NAMES[along], title, shown, note) | {"fits": lines}


def ratio(scaling: Scaling) -> Drawn:
    """Perplexity of the subject over each baseline's, over parameters."""
    subject, *baselines = scaling.models
    title = f"Ratio of perplexities: {subject} over its baselines"
    note = [
        f"below 1: {subject} is better", f"grey: margin ±{MARGIN:.0%}",
        "bars: 95% interval, paired by seed and document", *_marks(scaling),
    ]  # fmt: skip
    styles = theme.styles(scaling.models)
    legend = {f"{subject} / {name}": styles[name] for name in baselines}
    figure, (ax,) = draw.canvas(
        title, conditions(scaling.meta, scaling.presets), " · ".join(note), legend, 1
    )
    table = scaling.ratios.sort_values("parameters")
    known = table[table["value"].notna()]
    lost = table[table["value"].isna()]
    lanes = list(dict.fromkeys(lost["baseline"]))
    edges = (1 / (1 + MARGIN), 1 + MARGIN)
    _size_axis(ax, column(known, "parameters"), "parameters")
    draw.log_y(ax, [*np.concatenate(intervals(known)), *edges], len(lanes))
    ax.axhspan(*edges, color="#bdbdbd", alpha=0.45, linewidth=0, zorder=0)
    ax.axhline(1.0, color=theme.INK, linewidth=0.9, zorder=1)
    for place, baseline in enumerate(baselines):
        own = known[known["baseline"] == baseline]
        x = column(own, "parameters") * 1.02 ** (place - (len(baselines) - 1) / 2)
        _bars(ax, x, own, styles[baseline])
        if baseline in lanes:
            names = ", ".join(lost.loc[lost["baseline"] == baseline, "preset"])
            draw.lane_text(ax, lanes.index(baseline), f"× {names}: no pair", styles[baseline])
    ax.set_ylabel("ratio of perplexities")
    shown = [
        {key: row[key] for key in ("preset", "baseline", "parameters", "value", "n")}
        | {end: _known(row[end]) for end in ("low", "high")}
        for row in records(known)
    ]
    return figure, _sidecar(scaling, "ratio_parameters", title, shown, note)


def _points(ax: Axes, own: pd.DataFrame, along: Along, style: theme.Style) -> None:
    renamed = own.rename(columns={"loss": "value", "loss_low": "low", "loss_high": "high"})
    _bars(ax, column(own, along), renamed, style, joined=False)


def _bars(ax: Axes, x: Any, rows: pd.DataFrame, style: theme.Style, joined: bool = True) -> None:
    """Points with their intervals; joined by a line unless a fit does that."""
    value, low, high = intervals(rows)
    ax.plot(
        x, value, color=style.color, marker=style.marker, markersize=6.5, markeredgecolor="white",
        markeredgewidth=0.6, linestyle=style.line if joined else "none", linewidth=1.4, zorder=3,
    )  # fmt: skip
    ax.vlines(x, low, high, color=style.color, linewidth=1.3, alpha=0.8, zorder=2)


def _failed(ax: Axes, lane: int, rows: pd.DataFrame, style: theme.Style) -> None:
    texts = [f"{row['preset']} {trained.ending(row)}" for row in records(rows)]
    draw.lane_text(ax, lane, f"× {'; '.join(texts)}", style)


def _exponent(fits: Laws, model: str) -> str:
    """The fitted exponent, for the legend."""
    law = fits.plain.get(model)
    return "" if law is None else f" (exponent {units.significant(law.exponent.value, 2)})"


def _size_axis(ax: Axes, sizes: Floats, along: Along) -> None:
    """A logarithmic x axis with a tick at each group of sizes that were measured."""
    values = sorted(float(size) for size in sizes)
    low, high = values[0] / 1.5, values[-1] * 1.5
    ticks: list[float] = []
    for value in values:
        if not ticks or value > ticks[-1] * (high / low) ** 0.08:
            ticks.append(value)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([count(tick, along) for tick in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", color=theme.GRID, linewidth=0.6)
    ax.set_xlabel(_AXES[along])


def count(number: float, along: Along = "parameters") -> str:
    """A number of parameters (1.05M, 1.3B) or of FLOPs (2.46 TFLOP) as people write it."""
    if along == "train_flops":
        scale = units.scale_for("flop", [number])
        return f"{units.significant(number / scale.divisor)} {scale.symbol}"
    if number >= 1e15:
        return units.significant(number)
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{units.significant(number / size)}{letter}"
    return f"{number:.0f}"


def conditions(meta: Mapping[str, Any], presets: Sequence[str]) -> str:
    """The conditions of the run, with its presets in place of the one of the configuration."""
    named = presets[0] if len(presets) == 1 else f"{presets[0]} to {presets[-1]}"
    return stamp.conditions({**meta, "configuration": {**meta["configuration"], "preset": named}})


def _marks(scaling: Scaling) -> list[str]:
    return ["×: failed"] if (scaling.endings["status"] != "ok").any() else []


def _known(value: float) -> float | None:
    return None if units.is_missing(value) else float(value)


def _sidecar(
    scaling: Scaling, name: str, title: str, shown: list[dict[str, Any]], note: list[str]
) -> Sidecar:
    """Every cell as shown with its value, or as left out and why."""
    failed = scaling.endings[scaling.endings["status"] != "ok"]
    return {
        "figure": name, "title": title, "shown": shown,
        "caption": conditions(scaling.meta, scaling.presets),
        "left_out": [
            {"preset": row["preset"], "model": row["model"], "why": row["status"],
             "cause": row["cause"], "blocks": row["blocks"] - row["ok_blocks"]}
            for row in records(failed)
        ],
        "note": " · ".join(note),
    }  # fmt: skip
