"""The figures of the perplexity and ablation suites: curves, tuning, lengths, positions, ratios."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from retbench.report import theme, units
from retbench.report.figure import DECIDED, FAILURES, Axis, Curve, Figure, Panel, tuples
from retbench.report.frames import EDGES, column, groups, lookup, records
from retbench.report.quality.trained import (
    CROSSED,
    MARGIN,
    PAIRED,
    Tested,
    Tests,
    ending,
    final_point,
    seed_ratios,
)
from retbench.stats.estimate import exp

_LOSS = Axis("loss (nats per token)")
_DEV_LOSS = Axis("dev loss (nats per token)")


@dataclass(frozen=True)
class Perplexity:
    """What tables and figures are made from; see ``loss_frames`` for the frames.

    Attributes:
        meta: ``run.json``.
        models: in the order of the plan.
        is_ablation: whether the models are a whole and its variants.
        tested: what was tested, by phase, window and model.
        losses: one row per phase, window and model.
        ratios: one row per pair of models.
        scalars: one row per model.
        tuning: one row per model and learning rate.
        curves: one row per model, block and step.
        positions: one row per model, window, bucket and block.
        endings: one row per model.
        caveat: what forbids or weakens claims; empty where nothing does.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    is_ablation: bool
    tested: Tests
    losses: pd.DataFrame
    ratios: pd.DataFrame
    scalars: pd.DataFrame
    tuning: pd.DataFrame
    curves: pd.DataFrame
    positions: pd.DataFrame
    endings: pd.DataFrame
    caveat: str

    @property
    def context(self) -> int:
        """Tokens of a training sequence."""
        return int(self.meta["configuration"]["context"][0])

    @property
    def protocol(self) -> str:
        """Window and stride of the test."""
        tested = self.losses.loc[self.losses["phase"] == "test", "protocol"]
        return ", ".join(dict.fromkeys(tested)) or "not measured"

    def at(self, phase: str) -> pd.DataFrame:
        """The losses of one phase."""
        return self.losses[self.losses["phase"] == phase]


def figures(found: Perplexity) -> Iterator[Figure]:
    """Each figure that there is data for, the answer first."""
    if found.ratios["value"].notna().any():
        yield ratios(found)
    if found.curves["dev_loss"].notna().any():
        yield loss_curves(found)
    if found.tuning["final_dev_loss"].notna().any():
        yield tuning(found)
    if found.at("length")["seq_len"].nunique() > 1:
        yield lengths(found)
    if len(found.positions):
        yield positions(found)


def loss_curves(found: Perplexity) -> Figure:
    """Dev loss over tokens, over FLOPs and over time."""
    rows = found.curves[found.curves["dev_loss"].notna()]
    panels = (
        Panel("tokens", "", Axis("tokens trained on (thousands)", divisor=1e3), _DEV_LOSS),
        Panel("flops", "", Axis("TFLOP", divisor=1e12), _DEV_LOSS),
        Panel("train_s", "", Axis("seconds of training"), _DEV_LOSS),
    )
    data = [_over_seeds(found, rows, "index", "dev_loss", panel.key) for panel in panels]
    return _figure(
        found, "loss_curves", "Dev loss over tokens, FLOPs and time", panels,
        pd.concat([own.assign(panel=p.key) for own, p in zip(data, panels, strict=True)]),
        shared=True,
        styles={m: replace(style, marker="") for m, style in theme.of_plan(found.meta).items()},
    )  # fmt: skip


def tuning(found: Perplexity) -> Figure:
    """Dev loss over the learning rate; the chosen rate's mark is filled."""
    table = found.tuning.assign(
        panel="", series=found.tuning["model"], x=found.tuning["learning_rate"],
        value=found.tuning["final_dev_loss"], n=1, open=~found.tuning["chosen"],
    )  # fmt: skip
    known = table[table["value"].notna()].sort_values("x")
    panel = Panel("", "", Axis("learning rate"), _DEV_LOSS)
    return _figure(
        found, "tuning", "Dev loss over the learning rate", (panel,), known,
        notes=("one training each",), failures=table[table["value"].isna()][FAILURES],
        opened="filled: chosen",
    )  # fmt: skip


def lengths(found: Perplexity) -> Figure:
    """Perplexity over the length: in windows alone, and as a model would read a longer text.

    That is with the state carried on, or in sliding windows of the training's length.
    """
    rows = found.at("length").sort_values("seq_len")
    ticks = tuple(sorted({int(length) for length in rows["seq_len"]}))
    data = rows.assign(
        panel="", series=rows["model"], x=rows["seq_len"], value=rows["perplexity"],
        low=rows["perplexity_low"], high=rows["perplexity_high"], point=final_point(found.meta),
        each=tuples(
            (_perplexities(found.tested.get(("length", r["seq_len"], r["model"])))
             for r in records(rows)), rows,
        ),
    )  # fmt: skip
    carried = found.at("carried")
    slid = found.at("test")
    ways = {"state carried": (carried, np.array(ticks)), "sliding windows": (
        slid[~slid["model"].isin(carried["model"])],
        np.array([n for n in ticks if n >= found.context]),
    )}  # fmt: skip
    alone = lookup(rows, ["model", "seq_len"], "perplexity")
    curves, alike = [], []
    for way, (table, x) in ways.items():
        for (model,), own in groups(table, ["model"]):
            level = own["perplexity"].iloc[0]
            apart = [abs(math.log(level / alone.get((model, n), math.inf))) for n in x]
            if max(apart) <= math.log1p(MARGIN):
                alike.append(f"{model}, {way}")
                continue
            levels = np.full(len(x), level)
            curves.append(Curve("", str(model), x, levels, f"{model}, {way}", theme.CARRIED))
    left_out = f"left out, for it lies within {units.rough(MARGIN)} of the model's line: "
    panel = Panel(
        "", "", Axis("evaluation length (tokens)", ticks, units.tokens), Axis("perplexity"),
        marks={f"training length, {units.tokens(found.context)} tokens": found.context},
    )  # fmt: skip
    return _figure(
        found, "perplexity_length", "Perplexity over the evaluation length", (panel,),
        data[["panel", "series", "model", "point", "x", "seq_len", *EDGES, "n", "each"]],
        interval=CROSSED, curves=curves, notes=(left_out + "; ".join(alike),) if alike else (),
    )  # fmt: skip


def positions(found: Perplexity) -> Figure:
    """Loss by position in the window, a panel for each window."""
    panels, data = [], []
    for (window,), rows in groups(found.positions, ["seq_len"]):
        ticks = tuple(sorted({int(edge) for edge in rows["index"]}))
        x = Axis("position (tokens)", ticks, units.tokens)
        panels.append(Panel(str(window), f"Window of {units.tokens(window)} tokens", x, _LOSS))
        data.append(_over_seeds(found, rows, "index", "value", "index").assign(panel=str(window)))
    return _figure(
        found, "loss_position", "Loss by position in the window", tuple(panels), pd.concat(data),
        notes=("a mark: mean over the positions from the mark before up to it",), shared=True,
    )  # fmt: skip


def ratios(found: Perplexity) -> Figure:
    """The ratios of perplexities with their intervals, a row a pair, the largest first."""
    table = found.ratios.sort_values("value", ascending=False, na_position="last")
    named = "subject" if found.is_ablation else "baseline"
    data = table.assign(
        panel="", series=table[named], model=table["baseline"], point=final_point(found.meta),
        open=~table["verdict"].isin(DECIDED),
        row=table[named],
        text=[
            r["note"] or f"{units.ratio_of(r)}  {units.verdict(r, 'seed')}"
            for r in records(table)
        ],
        each=tuples(
            (seed_ratios(found.tested, ("test", found.context), r)
             for r in records(table)), table,
        ),
    )  # fmt: skip
    sides = ("better without the part", "the part helps")
    first = found.models[0]
    title = f"Perplexity {'over that of' if found.is_ablation else 'of'} {first}"
    title += "" if found.is_ablation else " over each baseline's"
    panel = Panel(
        "", "", Axis("ratio"), margin=MARGIN,
        sides=sides if found.is_ablation else (f"{first} better", "worse"),
    )  # fmt: skip
    return _figure(
        found, "ratios", title, (panel,), data, geometry="rows",
        notes=(f"grey: margin ±{units.rough(MARGIN)}",), interval=PAIRED,
    )  # fmt: skip


def _perplexities(test: Tested | None) -> tuple[float, ...]:
    return () if test is None else tuple(exp(loss) for loss in test.losses)


def _over_seeds(
    found: Perplexity, rows: pd.DataFrame, by: str, of: str, along: str
) -> pd.DataFrame:
    """Mean over the seeds, and the value of each, for each model and value of ``by``."""
    table = []
    for (model, _), group in groups(rows, ["model", by]):
        values = column(group.sort_values("block"), of)
        table.append({
            "series": model, "model": model, "point": final_point(found.meta), "along": along,
            "x": float(column(group, along).mean()), "value": float(values.mean()),
            "n": len(values), "each": tuple(values),
        })  # fmt: skip
    return pd.DataFrame(table)


def _figure(
    found: Perplexity, name: str, title: str, panels: tuple[Panel, ...], data: pd.DataFrame, *,
    geometry: Any = "lines", notes: tuple[str, ...] = (), **more: Any,
) -> Figure:  # fmt: skip
    failed = records(found.endings[found.endings["status"] != "ok"])
    endings = pd.DataFrame(
        [(panel.key, row["model"], math.nan, ending(row)) for panel in panels for row in failed],
        columns=FAILURES,
    )
    # A pair that is missing has a row of its own, a rate that failed its place on the axis.
    more.setdefault("failures", endings.iloc[:0] if geometry == "rows" else endings)
    return Figure.of(
        found.meta,
        name,
        title,
        panels,
        data,
        geometry=geometry,
        notes=notes,
        each="seed",
        caveat=found.caveat,
        **more,
    )
