"""What several processes gain: the time of one alone over that of all, and over their number.

With T(1) the time of a step of one process and T(N) that of N, of the same batch, the scaling
efficiency is T(1) / (N T(N)): 1 where N processes take an N-th of the time (strong scaling). It is
paired by block and carries the interval of that ratio (M7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.config.plan import Point
from retbench.config.run import RunConfig
from retbench.report.frames import edges, in_blocks, lookup, ordered, records
from retbench.stats import intervals

if TYPE_CHECKING:
    from retbench.report.summary import Summary

COLUMNS = [
    "model", "seq_len", "batch_size", "point", "processes", "value", "low", "high", "n", "note",
]  # fmt: skip


APART = {"part", "processes"}
"""Settings of the points of a training run that are no way to make its steps."""


def processes_of(meta: Mapping[str, Any]) -> int:
    """How many processes shared the steps of a run."""
    return int(meta["configuration"].get("world_size", RunConfig.world_size))


def is_unshared(point: Point) -> bool:
    """Whether a point of a run of several processes was measured in one alone."""
    return point.setting("processes") is not None


def efficiencies(found: Summary) -> pd.DataFrame:
    """One row per model and point that one process measured too; none in a run of one.

    Returns:
        ``value`` with ``low`` and ``high``, from ``n`` blocks; ``note`` says which side is missing.
    """
    size = processes_of(found.meta)
    by_cell = in_blocks(found.processes)
    nothing = np.full(found.processes["block"].nunique(), np.nan)
    ended = lookup(found.statuses, ["model", "point"], "status")
    rows = []
    for row in records(found.statuses):
        if not is_unshared(found.points[row["point"]]):
            continue
        model, shared = row["model"], Point(row["seq_len"], row["batch_size"]).id
        alone = by_cell.get(("step_s", model, row["point"]), nothing)
        together = by_cell.get(("step_s", model, shared), nothing)
        gain = intervals.ratio(alone, together).mapped(lambda ratio: ratio / size)
        sides = ((1, row["status"]), (size, ended.get((model, shared), "not run")))
        failed = [f"{count}: {status}" for count, status in sides if status != "ok"]
        rows.append((
            model, row["seq_len"], row["batch_size"], shared, size, *edges(gain), gain.n,
            ", ".join(failed),
        ))  # fmt: skip
    return ordered(pd.DataFrame(rows, columns=COLUMNS), ["model"], model=found.models)
