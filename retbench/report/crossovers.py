"""The context at which two models are equal: where their ratio crosses 1, and how well one knows.

Every block gives a crossing of its own (:mod:`retbench.stats.crossover`); what they say together is
told only where it says enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench import metrics
from retbench.config.plan import Point
from retbench.report import axes, terms, units
from retbench.report.compare import NO_CLAIM
from retbench.report.frames import by_block, column, groups
from retbench.stats.crossover import Crossover, crossover

if TYPE_CHECKING:
    from retbench.report.summary import Reduced

WIDEST = 1.5  # factor from low to high beyond which a crossover's interval says too little

COLUMNS = [
    "metric", "subject", "baseline", "batch_size", "status", "value", "low", "high", "direction",
    "reason", "shortest", "longest", "n",
]  # fmt: skip


def crossovers(
    found: Reduced, points: Mapping[str, Point], meta: Mapping[str, Any]
) -> pd.DataFrame:
    """The context from which on the ratio has changed sides, per metric, baseline and sweep.

    A smoke run earns none (M2): its rows have the status "no claim".

    Args:
        found: whose blocks are compared.
        points: of the plan, by id.
        meta: ``run.json``.

    Returns:
        No row for a time of which one side alone runs fused, unless the run was asked;
        ``batch_size`` is None where it is another at each context.
    """
    along = found.pairs[axes.is_plain(points, found.pairs)]
    if not meta["configuration"].get("compare_unfused"):
        along = along[along["unfused"] == ""]
    subject, *baselines = found.models
    rows = []
    crossable = [tag for tag in metrics.compared() if metrics.METRICS[tag].crosses]
    for metric, baseline in itertools.product(crossable, baselines):
        own = along[(along["metric"] == metric) & (along["baseline"] == baseline)]
        held = axes.held_at(own, "context", meta["configuration"])
        for _, sweep in groups(own.assign(held=held), ["held"]):
            sizes = sweep["batch_size"].unique()
            crossed = crossing(sweep, meta)
            if crossed is not None:
                batch_size = sizes[0] if len(sizes) == 1 else None
                rows.append((metric, subject, baseline, batch_size, *crossed))
    return table(rows, COLUMNS)


def table(rows: Sequence[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """Crossovers as a frame, whose numbers are floats where all of them are missing, too."""
    numbers = dict.fromkeys(("value", "low", "high"), "float64")
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def crossing(paired: pd.DataFrame, meta: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Where a ratio crosses 1; None where it is known at fewer than two contexts.

    Args:
        paired: the ratio of each block and context, of one metric and baseline.
        meta: ``run.json``; a smoke run earns no claim (M2).

    Returns:
        Status, value, low, high, direction, and the reason where it is unclear, or which contexts
        between others have no value; then the shortest and the longest context, and the number of
        blocks.
    """
    known = by_block(paired[np.isfinite(column(paired, "ratio"))], "seq_len", "ratio")
    if known.shape[1] < 2:
        return None
    found = crossover(known.columns.to_numpy(), known.to_numpy(), 1 - terms.alpha(meta))
    status, reason = (found.status, found.reason) if not terms.is_smoke(meta) else (NO_CLAIM, "")
    if status == "reached" and (reason := _vagueness(found)):
        status = "unclear"
    elif status not in (NO_CLAIM, "unclear"):
        reason = _gaps(known.columns.to_numpy(), meta["configuration"]["context"])
    claim: tuple[Any, ...] = (None, None, None, None)
    if status not in (NO_CLAIM, "unclear"):
        claim = found.value, found.low, found.high, found.direction
    return status, *claim, reason, known.columns.min(), known.columns.max(), found.n


def _gaps(known: Iterable[int], planned: Iterable[int]) -> str:
    """At which planned contexts between known ones there is no value; empty where at none."""
    lengths = sorted(known)
    gaps = [size for size in planned if lengths[0] < size < lengths[-1] and size not in lengths]
    return f"no value at {', '.join(map(units.tokens, gaps))}" if gaps else ""


def _vagueness(found: Crossover) -> str:
    """Why a crossover that all blocks have says too little; empty where it does not."""
    if found.low is None or found.high is None:
        return "one block gives no interval"
    if found.high <= WIDEST * found.low:
        return ""
    low, high = (units.rounded_tokens(edge) for edge in (found.low, found.high))
    return f"interval {low} to {high} is wider than a factor of {WIDEST:g}"
