"""The context at which two models are equal: where their ratio crosses 1, and how well one knows.

Every block gives a crossing of its own (:mod:`retbench.stats.crossover`); what they say together is
told only where it says enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench import metrics
from retbench.report import axes, terms, units
from retbench.report.compare import NO_CLAIM
from retbench.report.frames import by_block, column, groups, lookup
from retbench.stats.crossover import Crossover, crossover

if TYPE_CHECKING:
    from retbench.report.summary import Summary

WINS, LOSES = {"faster", "smaller"}, {"slower", "larger"}
SAME = {"equivalent"}
_THROUGHOUT = {"always below": WINS, "always above": LOSES, "always equal": SAME}
WIDEST = 1.5  # factor from low to high beyond which a crossover's interval says too little

COLUMNS = [
    "metric", "subject", "baseline", "batch_size", "status", "value", "low", "high", "direction",
    "reason", "shortest", "longest", "n",
]  # fmt: skip


def crossovers(found: Summary) -> pd.DataFrame:
    """The context from which on the ratio has changed sides, per metric, baseline and sweep.

    A smoke run earns none (M2): its rows have the status "no claim".

    Returns:
        No row for a time of which one side alone runs fused, unless the run was asked;
        ``batch_size`` is None where it is another at each context.
    """
    along = found.pairs[axes.is_plain(found.points, found.pairs)]
    if not found.configuration.get("compare_unfused"):
        along = along[along["unfused"] == ""]
    subject, *baselines = found.models
    crossable = [tag for tag in metrics.compared() if metrics.METRICS[tag].crosses]
    order = list(itertools.product(crossable, baselines))
    along = along[along["metric"].isin(crossable)]
    along = along.assign(held=axes.held_at(along, "context", found.configuration))
    sweeps = groups(along, ["metric", "baseline", "held"])
    rows = []
    for (metric, baseline, _), sweep in sorted(sweeps, key=lambda each: order.index(each[0][:2])):
        crossed = crossing(sweep, found.ratios, found.meta)
        if crossed is not None:
            sizes = sweep["batch_size"].unique()
            batch_size = sizes[0] if len(sizes) == 1 else None
            rows.append((metric, subject, baseline, batch_size, *crossed))
    return table(rows, COLUMNS)


def table(rows: Sequence[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """Crossovers as a frame, whose numbers are floats where all of them are missing, too."""
    numbers = dict.fromkeys(("value", "low", "high"), "float64")
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def crossing(
    paired: pd.DataFrame, ratios: pd.DataFrame, meta: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """Where a ratio crosses 1; None where it is known at fewer than two contexts.

    A side is claimed where verdicts say it: on both sides of a crossover one at least, and all of
    them where the ratio is said to be on one side throughout.

    Args:
        paired: the ratio of each block and context, of one metric and baseline.
        ratios: the verdicts, of these and any others.
        meta: ``run.json``; a smoke run earns no claim (M2).

    Returns:
        Status (as of :class:`retbench.stats.crossover.Crossover`, or "not seen", or "no claim"),
        value, low, high, direction, and the reason where there is no claim, or which planned
        contexts have no value; then the shortest and the longest context, and the number of blocks.
    """
    finite = paired[np.isfinite(column(paired, "ratio"))]
    _, contexts, known = by_block(finite, "seq_len", "ratio")
    if len(contexts) < 2:
        return None
    verdict = lookup(ratios, ["metric", "baseline", "point"], "verdict")
    rows = (finite[name] for name in ("metric", "baseline", "point"))
    at = dict(zip(finite["seq_len"], zip(*rows, strict=True), strict=True))
    said = {size: verdict.get(at[size], "") for size in sorted(at)}
    found = crossover(contexts, known, 1 - terms.alpha(meta))
    status: str = found.status
    reason = found.reason
    planned = sorted(meta["configuration"]["context"])
    lost = units.lacking(said, planned, units.tokens)
    if terms.is_smoke(meta):
        status, reason = NO_CLAIM, ""
    elif status == "reached" and (reason := _vagueness(found) or _undecided(found, said)):
        status = "unclear"
    elif status in _THROUGHOUT and (reason := _others(said, _THROUGHOUT[status], planned)):
        status, reason = "not seen", "; ".join(filter(None, (reason, lost)))
    elif status != "unclear":
        reason = lost
    claim: tuple[Any, ...] = (None, None, None, None)
    if status not in (NO_CLAIM, "unclear", "not seen"):
        claim = found.value, found.low, found.high, found.direction
    return status, *claim, reason, int(contexts[0]), int(contexts[-1]), found.n


def _others(said: Mapping[int, str], side: set[str], planned: Collection[int]) -> str:
    """Which contexts have a verdict of no such side, as a clause; empty where none has."""
    alike = [size for size, verdict in said.items() if verdict in SAME - side]
    undecided = [size for size, verdict in said.items() if verdict not in SAME | side]
    if len(undecided) == len(said) and said.keys() >= set(planned):
        return "open at every context"
    return "; ".join(
        f"{what} at {', '.join(map(units.tokens, sizes))}"
        for what, sizes in (("open", undecided), ("the same", alike))
        if sizes
    )


def _undecided(found: Crossover, said: Mapping[int, str]) -> str:
    """Which side of a crossover no verdict supports; empty where both have theirs."""
    before, beyond = (LOSES, WINS) if found.direction == "better" else (WINS, LOSES)
    at = found.value or 0.0
    missing = [
        place
        for place, sides, here in (
            ("before", before, [said[size] for size in said if size <= at]),
            ("beyond", beyond, [said[size] for size in said if size > at]),
        )
        if not sides & set(here)
    ]
    where = f"no verdict {' and '.join(missing)} it"
    return f"near {units.rounded_tokens(at)}, but {where}" if missing else ""


def _vagueness(found: Crossover) -> str:
    """Why a crossover that all blocks have says too little; empty where it does not."""
    if found.low is None or found.high is None:
        return "one block gives no interval"
    if found.high <= WIDEST * found.low:
        return ""
    low, high = (units.rounded_tokens(edge) for edge in (found.low, found.high))
    return f"interval {low} to {high} is wider than a factor of {WIDEST:g}"
