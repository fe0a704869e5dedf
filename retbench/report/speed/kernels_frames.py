"""The kernels suite's samples as tidy frames: one row a cell, a ratio, a crossover.

A *setting* is all of a point but its context: direction, head dimension, type and batch size. What
is compared along the context is compared within one setting.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.config.plan import Point
from retbench.report import compare, crossovers, derive
from retbench.report.frames import Row, groups, ordered
from retbench.report.summary import reduced

if TYPE_CHECKING:
    from retbench.store import Run

SETTING = ["direction", "dtype", "head_dim", "batch_size"]
CROSSOVER_COLUMNS = [
    *SETTING, "baseline", "status", "value", "low", "high", "direction_beyond", "reason",
    "shortest", "longest", "n",
]  # fmt: skip


@dataclass(frozen=True)
class Kernels:
    """All that the report says about one run; pure data.

    Attributes:
        meta: ``run.json``.
        models: the operations in the order of the plan; the first is the subject.
        points: the planned points by their ids.
        cells: one row per operation, point and metric, as those of
            :class:`retbench.report.summary.Summary`, with the settings as columns.
        statuses: how each cell ended, likewise.
        ratios: subject over each other operation, likewise; see :mod:`retbench.report.compare`.
        crossovers: per setting and other operation the context at which the two are equal.
        processes: one value per block, cell and measured metric.
        pairs: the ratio of each block, see :func:`retbench.report.compare.pairs`.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    points: Mapping[str, Point]
    cells: pd.DataFrame
    statuses: pd.DataFrame
    ratios: pd.DataFrame
    crossovers: pd.DataFrame
    processes: pd.DataFrame
    pairs: pd.DataFrame

    def planned(self, name: str) -> list[Any]:
        """The planned values of a column, ascending, or in the order of the plan for names."""
        configured = {"direction": "directions", "head_dim": "head_dims", "dtype": "dtypes",
                      "batch_size": "batch", "seq_len": "context"}  # fmt: skip
        return list(self.meta["configuration"][configured[name]])

    def settings(self) -> list[Row]:
        """Every setting that was planned."""
        values = itertools.product(*(self.planned(name) for name in SETTING))
        return [dict(zip(SETTING, chosen, strict=True)) for chosen in values]


def kernels(run: Run) -> Kernels:
    """Reduce a run to what its report says; the same samples give the same numbers."""
    meta, found = run.meta, reduced(run)
    # By setting and context, the operations of a point side by side.
    keys = ["direction", "dtype", "head_dim", "batch_size", "seq_len", "model"]
    orders = {"dtype": meta["configuration"]["dtypes"], "model": found.models}
    ratios = compare.ratios(found, meta)
    cells = derive.with_derived(found.cells, run.points, meta)
    return Kernels(
        meta=meta,
        models=found.models,
        points=run.points,
        cells=ordered(run.placed(cells), keys, **orders),
        statuses=ordered(run.placed(found.statuses), keys, **orders),
        ratios=run.placed(ratios),
        crossovers=_crossovers(run.placed(found.pairs), ratios, found.models, meta),
        processes=found.processes,
        pairs=found.pairs[found.pairs["metric"] == "kernel_s"],
    )


def _crossovers(
    paired: pd.DataFrame, ratios: pd.DataFrame, models: Sequence[str], meta: Mapping[str, Any]
) -> pd.DataFrame:
    """From which context on the subject wins or loses; a smoke run earns no claim (M2)."""
    rows = []
    for setting, group in groups(paired[paired["metric"] == "kernel_s"], SETTING):
        for baseline in models[1:]:
            crossed = crossovers.crossing(group[group["baseline"] == baseline], ratios, meta)
            if crossed is not None:
                rows.append((*setting, baseline, *crossed))
    return crossovers.table(rows, CROSSOVER_COLUMNS)
