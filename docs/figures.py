"""Draws the two figures of ``measurement.md`` from the recordings in ``results/``.

python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from retbench.stats.comparison import paired_centre
from retbench.store import open_run

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "results"
METRICS = {"tpot_s": "TPOT", "mean_tpot_s": "mean TPOT", "ttft_s": "TTFT"}
COLOURS = ("#0072b2", "#d55e00")


def noise() -> Figure:
    """Ratio of a model to itself, and to its slowed copy, a mark a block."""
    frame = open_run(RESULTS / "cpu-10m-audit").frame()
    keys = ["metric", "point", "block", "trial"]
    timed = frame[frame["metric"].isin(METRICS)]
    wide = timed.pivot_table(index=keys, columns="model", values="value")
    figure = Figure(figsize=(7.5, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    rows = list(wide.groupby(level=["metric", "point"], sort=False).groups)
    for at, (metric, point) in enumerate(rows):
        for other, colour, shift in (("B", COLOURS[0], -0.12), ("slowed", COLOURS[1], 0.12)):
            logs = np.log(wide.loc[metric, point]["A"] / wide.loc[metric, point][other]).dropna()
            blocks = logs.groupby(level="block").apply(lambda x: paired_centre(x.to_numpy()))
            axes.plot(np.exp(blocks), [at + shift] * len(blocks), "o", color=colour, alpha=0.7)
    axes.axvline(1, color=COLOURS[0], linewidth=0.8)
    axes.axvline(1 / 1.05, color=COLOURS[1], linewidth=0.8, linestyle="dashed")
    labels = [f"{METRICS[m]}, {p.split(',')[0].removeprefix('context=')} tokens" for m, p in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel("ratio of a block; blue: to itself (1), orange: to a copy slowed by 5% (0.952)")
    return figure


def spinning() -> Figure:
    """Seconds of a step by wait policy, alone and beside a busy process, over the quiet default."""
    table = pd.read_csv(RESULTS / "spinning.csv")
    keys = ["metric", "policy", "neighbours"]
    seconds = table.groupby(keys, sort=False)["seconds"].median()
    figure = Figure(figsize=(7.5, 3.0), dpi=120, layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("decode", "train"), strict=True):
        wide = (seconds[metric] / seconds[metric, "default", 0]).unstack("neighbours")
        wide = wide.reindex(dict.fromkeys(table["policy"]))
        at = np.arange(len(wide))
        for shift, neighbours, colour in ((-0.18, 0, COLOURS[0]), (0.18, 1, COLOURS[1])):
            axes.barh(at + shift, wide[neighbours], 0.34, color=colour)
        axes.set_yticks(at, wide.index)
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric} step over the quiet default's")
    figure.suptitle("blue: quiet; orange: beside one busy process", fontsize=9)
    return figure


if __name__ == "__main__":
    noise().savefig(DOCS / "noise.png")
    spinning().savefig(DOCS / "spinning.png")
