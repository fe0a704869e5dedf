"""What several processes gain: the time of one alone over that of all, and over their number.

With T(1) the time of a step of one process and T(N) that of N, of the same batch, the scaling
efficiency is T(1) / (N T(N)): 1 where N processes take an N-th of the time (strong scaling). It is
paired by block and carries the interval of that ratio (M7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retbench.config.plan import Point
from retbench.config.run import RunConfig
from retbench.report.frames import Floats, Row, records
from retbench.stats import intervals

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


def efficiencies(
    processes: pd.DataFrame,
    statuses: pd.DataFrame,
    points: Mapping[str, Point],
    models: Sequence[str],
    meta: Mapping[str, Any],
) -> pd.DataFrame:
    """One row per model and point that one process measured too; none in a run of one.

    Args:
        processes: one value per block, cell and metric.
        statuses: how each cell ended.
        points: of the plan, by id.
        models: in the order of the rows.
        meta: ``run.json``.

    Returns:
        ``value`` with ``low`` and ``high``, from ``n`` blocks; ``note`` says which side is missing.
    """
    size = processes_of(meta)
    in_blocks = _by_block(processes) if size > 1 else {}
    ended = {(row["model"], row["point"]): row["status"] for row in records(statuses)}
    rows: list[Row] = []
    for row in records(statuses) if size > 1 else ():
        if not is_unshared(points[row["point"]]):
            continue
        model, shared = row["model"], Point(row["seq_len"], row["batch_size"]).id
        nothing = np.array([])
        alone = in_blocks.get(("step_s", model, row["point"]), nothing)
        together = in_blocks.get(("step_s", model, shared), nothing)
        sides = ((1, row["status"]), (size, ended.get((model, shared), "not run")))
        failed = [f"{count}: {status}" for count, status in sides if status != "ok"]
        found = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
        if len(alone) == len(together) > 0:
            ratio = intervals.ratio(alone, together)
            edges = (math.nan if edge is None else edge / size for edge in (ratio.low, ratio.high))
            found = {"value": ratio.value / size, "n": ratio.n}
            found |= dict(zip(("low", "high"), edges, strict=True))
        place = {key: row[key] for key in ("seq_len", "batch_size")}
        rows.append(
            {"model": model, "point": shared, "processes": size, "note": ", ".join(failed)}
            | place | found
        )  # fmt: skip
    order = {model: index for index, model in enumerate(models)}
    rows.sort(key=lambda row: order[row["model"]])
    return pd.DataFrame(rows, columns=COLUMNS)


def _by_block(processes: pd.DataFrame) -> dict[tuple[str, str, str], Floats]:
    """The value in each block, NaN where there is none, by metric, model and point."""
    wide = processes.pivot_table(
        index=["metric", "model", "point"], columns="block", values="value", observed=True
    )
    return dict(zip(wide.index.to_list(), wide.to_numpy(dtype=float), strict=True))
