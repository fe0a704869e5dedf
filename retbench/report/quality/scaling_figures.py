"""The figures of the scaling suite: loss over parameters, loss over FLOPs, ratio over parameters.

The marks are measured, the thin dashed lines fitted to them; a line ends where its marks do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from retbench.report import stamp, theme, units
from retbench.report.figure import DECIDED, FAILURES, Axis, Curve, Figure, Panel, tuples
from retbench.report.frames import EDGES, records
from retbench.report.quality.scaling_frames import ALONG, Along, Laws
from retbench.report.quality.trained import (
    CROSSED,
    MARGIN,
    PAIRED,
    Tests,
    ending,
    final_point,
    seed_ratios,
)

TITLES: dict[Along, str] = {"parameters": "parameters", "train_flops": "training FLOPs"}
_NAMES: dict[Along, str] = {"parameters": "loss_parameters", "train_flops": "loss_flops"}
_AXES: dict[Along, str] = {
    "parameters": "non-embedding parameters", "train_flops": "FLOPs of one training",
}  # fmt: skip
_TEXTS: dict[Along, EngFormatter] = {
    "parameters": EngFormatter(sep=""), "train_flops": EngFormatter("FLOP"),
}  # fmt: skip


@dataclass(frozen=True)
class Scaling:
    """What the figures are drawn from; see ``scaling_frames`` for the frames.

    Attributes:
        meta: ``run.json``.
        models: the subject, then the baselines.
        presets: in the order of the plan.
        tested: what was tested, by preset and model.
        table: one row per preset and model.
        ratios: one row per preset and baseline.
        endings: how the final trainings ended, per preset and model.
        laws: the fits over each size.
        caveat: what forbids or weakens claims; empty where nothing does.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    presets: tuple[str, ...]
    tested: Tests
    table: pd.DataFrame
    ratios: pd.DataFrame
    endings: pd.DataFrame
    laws: Mapping[Along, Laws]
    caveat: str


def figures(scaling: Scaling) -> Iterator[Figure]:
    """Each figure that there is data for."""
    for along in ALONG:
        if scaling.table[along].notna().any():
            yield loss(scaling, along)
    if scaling.ratios["value"].notna().any():
        yield ratio(scaling)


def loss(scaling: Scaling, along: Along) -> Figure:
    """Test loss over a size, both logarithmic, with the fitted power laws."""
    fits = scaling.laws[along].plain
    table = scaling.table[scaling.table[along].notna()].sort_values(along)
    data = table.assign(
        panel="", series=table["model"], x=table[along], value=table["loss"],
        low=table["loss_low"], high=table["loss_high"],
        point=[final_point(scaling.meta, "preset", preset) for preset in table["preset"]],
        each=tuples(
            (scaling.tested[r["preset"], r["model"]].losses for r in records(table)), table,
        ),
    )  # fmt: skip
    curves = []
    for model, law in fits.items():
        x = np.geomspace(law.smallest, law.largest, 50)
        exponent = units.significant(law.exponent.value, 2)
        curves.append(Curve("", model, x, law.at(x), f"{model}: exponent {exponent}"))
    failed = records(scaling.endings[scaling.endings["status"] != "ok"])
    lost = [("", row["model"], math.nan, f"{row['preset']} {ending(row)}") for row in failed]
    unjoined = {
        model: replace(style, line="") for model, style in theme.of_plan(scaling.meta).items()
    }
    keys = ["panel", "series", "preset", "model", "point", "x", along, *EDGES, "n", "each"]
    return _figure(
        scaling, _NAMES[along], f"Test loss over {TITLES[along]}",
        Panel("", "", Axis(_AXES[along], text=_TEXTS[along]),
              Axis("test loss (nats per token)")),
        data[keys], lost, ("thin dashes: fitted power law",) if curves else (),
        styles=unjoined, interval=CROSSED, curves=curves,
    )  # fmt: skip


def ratio(scaling: Scaling) -> Figure:
    """Perplexity of the subject over each baseline's, over parameters."""
    subject = scaling.models[0]
    table = scaling.ratios.sort_values("parameters")
    data = table.assign(
        panel="", series=table["baseline"], model=table["baseline"], x=table["parameters"],
        point=[final_point(scaling.meta, "preset", preset) for preset in table["preset"]],
        open=~table["verdict"].isin(DECIDED),
        each=tuples(
            (seed_ratios(scaling.tested, (r["preset"],), r) for r in records(table)), table,
        ),
    )  # fmt: skip
    missing = records(data[data["value"].isna()])
    lost = [("", row["model"], math.nan, f"{row['preset']} no pair") for row in missing]
    panel = Panel(
        "", "", Axis(_AXES["parameters"], text=_TEXTS["parameters"]),
        Axis("ratio of perplexities"), MARGIN, (f"{subject} better", "worse"),
    )  # fmt: skip
    return _figure(
        scaling, "ratio_parameters", f"Perplexity of {subject} over each baseline's", panel,
        data[data["value"].notna()], lost, (f"grey: margin ±{units.rough(MARGIN)}",),
        interval=PAIRED,
    )  # fmt: skip


def _figure(
    scaling: Scaling, name: str, title: str, panel: Panel, data: pd.DataFrame,
    lost: Sequence[tuple[str, str, float, str]], notes: tuple[str, ...], **more: Any,
) -> Figure:  # fmt: skip
    return Figure.of(
        scaling.meta, name, title, (panel,), data, notes=notes, each="seed",
        caption=conditions(scaling.meta, scaling.presets), caveat=scaling.caveat,
        failures=pd.DataFrame(lost, columns=FAILURES), **more,
    )  # fmt: skip


def conditions(meta: Mapping[str, Any], presets: Sequence[str]) -> str:
    """The conditions of the run, with its presets in place of the one of the configuration."""
    named = presets[0] if len(presets) == 1 else f"{presets[0]} to {presets[-1]}"
    return stamp.conditions({**meta, "configuration": {**meta["configuration"], "preset": named}})
