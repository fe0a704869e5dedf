"""The figures of a projection: the paper's Figure 6 at the bound.

The paper's points (Sun et al. 2023, arXiv 2307.08621) are drawn beside the bounds where these are
of its model (6.7B) and its device (A100-80GB). They were read from the vector drawings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retbench.report import units
from retbench.report.figure import Axis, Curve, Figure, Panel

# The paper's Figure 6: GB, words/s and ms; the sizes of its batch are reconstructed (8).
_LENGTHS = (2048, 3072, 4096, 5120, 6144, 7168, 8192)
_PAPER: Mapping[str, tuple[Sequence[int], Mapping[str, Sequence[float]], float]] = {
    "held_bytes": (_LENGTHS, {
        "transformer": (21.402, 25.716, 30.031, 34.345, 38.658, 42.972, 47.286),
        "retnet": (13.865,) * 7}, 1e9),
    "mean_tokens_per_s": (_LENGTHS, {
        "transformer": (90.52, 68.34, 57.77, 48.29, 45.75, 40.92, 36.74),
        "retnet": (310.44, 309.75, 309.30, 308.85, 310.84, 310.88, 310.27)}, 1.0),
    "tpot_bound_s": (tuple(range(1, 9)), {
        "transformer": (95.54, 127.75, 171.75, 209.01, 254.26, 294.57, 335.63, 377.69),
        "retnet": (23.18, 23.54, 23.96, 23.56, 24.38, 23.82, 23.97, 24.24)}, 1e-3),
}  # fmt: skip


IS = "bound, not a measurement"


def conditions(meta: Mapping[str, Any]) -> str:
    """What all bounds of a projection are of."""
    asked = meta["configuration"]
    return f"{asked['preset']} · {asked['dtype']} · data sheets of {', '.join(meta['hardware'])}"


def usual_batch(meta: Mapping[str, Any]) -> int:
    """The batch size of what is drawn over the context: the paper's 8 where it is there."""
    sizes = meta["configuration"]["batch"]
    return 8 if 8 in sizes else int(sizes[-1])


def figures(wide: pd.DataFrame, meta: Mapping[str, Any]) -> Iterator[Figure]:
    """For each device the paper's Figure 6 at the bound.

    Args:
        wide: one row per device, model, batch size and context, a column a metric.
        meta: ``run.json`` of the projection.
    """
    asked, batch = meta["configuration"], usual_batch(meta)
    at = units.tokens(asked["batch_context"])
    context = Axis("context (tokens)", tuple(asked["context"]), units.tokens)
    sizes = Axis("batch size (sequences)", tuple(asked["batch"]))
    over_context = (
        Panel("held_bytes", "", context, Axis("weights and state (GB)", divisor=1e9)),
        Panel("mean_tokens_per_s", "", context, Axis("mean tokens/s")),
    )
    step = Panel("tpot_bound_s", "", sizes, Axis("step (ms)", divisor=1e-3))
    for device in meta["hardware"]:
        own = wide[wide["hardware"] == device]
        lengths = own[(own["batch_size"] == batch) & own["seq_len"].isin(asked["context"])]
        batches = own[own["seq_len"] == asked["batch_context"]].sort_values("batch_size")
        yield _over(
            meta, device, f"context_{device}", f"At best on {device}, batch {batch}",
            lengths.assign(x=lengths["seq_len"]), over_context,
            ("mean: over a generation from nothing to the context",),
        )  # fmt: skip
        if len(asked["batch"]) > 1 and len(batches):
            title = f"A step at best on {device}, {at} tokens"
            rows = batches.assign(x=batches["batch_size"])
            yield _over(meta, device, f"batch_{device}", title, rows, (step,))


def _over(
    meta: Mapping[str, Any], device: str, name: str, title: str, rows: pd.DataFrame,
    panels: Sequence[Panel], notes: tuple[str, ...] = (),
) -> Figure:  # fmt: skip
    """Metrics over ``x``, a panel each, and the paper's points where there are such."""
    data = pd.concat(
        rows.assign(panel=panel.key, metric=panel.key, value=rows[panel.key]) for panel in panels
    )
    data = data.assign(series=data["model"], low=None, high=None, each=None)
    curves = list(_paper(meta, panels, device))
    said = ("thin dashes: the paper's measured points",) if curves else ()
    return Figure.of(
        meta, name, title, panels, data, curves=curves, caption=conditions(meta),
        caveat=IS.upper(), notes=(*said, *notes),
    )  # fmt: skip


def _paper(meta: Mapping[str, Any], panels: Sequence[Panel], device: str) -> Iterator[Curve]:
    """The paper's points, where it measured what is projected."""
    asked = meta["configuration"]
    if (asked["preset"], device) != ("6.7b", "a100-80gb") or 8 not in asked["batch"]:
        return
    for panel in panels:
        if asked["batch_context"] != 8192 and panel.key == "tpot_bound_s":
            continue
        x, by_model, unit = _PAPER[panel.key]
        for model, values in by_model.items():
            if model in asked["models"]:
                yield Curve(panel.key, model, np.array(x, float), np.array(values) * unit)
