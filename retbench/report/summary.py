"""From raw samples to one value per cell, with its interval: what every table and plot shows.

The levels are those of rule M1. Inside a process the median of its trials or steps; a cell's value
is the median of its processes' medians (M7); a memory figure is the largest of its processes
(M14); a rate is work over the median time (M9). A block counts for a cell only where the cell ended
``ok`` in it; what ended otherwise is a row of ``statuses``, never a hole.

    >>> summary = summarise(open_run("results/laptop"))     # doctest: +SKIP
    >>> summary.value("retnet", "tpot_s", 8192, 1)          # doctest: +SKIP
    0.00213
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd

from retbench.config.plan import Point
from retbench.metrics import METRICS
from retbench.report import capacity, compare, crossovers, derive, efficiency, warnings
from retbench.report import flags as flagging
from retbench.report.frames import (
    Floats,
    arrays,
    column,
    edges,
    groups,
    ordered,
    positions,
    records,
)
from retbench.stats import intervals
from retbench.store import Run

CELL = ["model", "seq_len", "batch_size", "point"]
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
CELL_COLUMNS = [
    *CELL, "metric", "unit", "value", "low", "high", "method", "n", "trials", "samples",
    "spread", *PERCENTILES, "source",
]  # fmt: skip
_LABELS = ("model", "point", "phase", "metric", "unit", "status", "implementation")
STATUS_COLUMNS = [*CELL, "status", "ok_blocks", "blocks", "cause", "flags"]


@dataclass(frozen=True)
class Summary:
    """All that the report says about one run, each part made when it is first asked for.

    The same samples give the same summary, digit for digit.

    Attributes:
        run: of which only the samples, ``meta`` and the plan's points are read.
    """

    run: Run

    @property
    def meta(self) -> Mapping[str, Any]:
        """``run.json``."""
        return self.run.meta

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The resolved configuration of the run."""
        return cast(Mapping[str, Any], self.meta["configuration"])

    @property
    def points(self) -> Mapping[str, Point]:
        """The planned points by their ids, which all tables name in a column ``point``."""
        return self.run.points

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every sample."""
        # Categories halve the time: every grouping would take the texts apart again.
        return self.run.frame().astype(dict.fromkeys(_LABELS, "category"))

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The labels in the order of the plan; the first is the subject of every ratio."""
        return model_order(self.meta, self.frame["model"].unique())

    @cached_property
    def kept(self) -> pd.DataFrame:
        """The samples that count: cells of blocks that ended ok, and analytic figures of any."""
        frame = self.frame
        ended = frame.loc[frame["phase"] == "cell", ["block", "model", "point", "status"]]
        ok = ended.loc[ended["status"] == "ok", ["block", "model", "point"]]
        of_cells = ~frame["phase"].isin(["cell", "setup"]) | (frame["metric"] == "cold_start_s")
        rows = frame[of_cells & frame["value"].notna()]
        rows = rows[rows["status"] == "ok"]
        good = pd.MultiIndex.from_frame(rows[["block", "model", "point"]]).isin(
            pd.MultiIndex.from_frame(ok)
        )
        return rows[good | (rows["phase"] == "analytic").to_numpy()]

    @cached_property
    def processes(self) -> pd.DataFrame:
        """One row per block, cell and metric: the median of the process that measured it."""
        keys = [*CELL, "phase", "metric", "unit", "block"]
        grouped = self.kept.groupby(keys, observed=True, sort=True)
        return grouped.agg(
            value=("value", "median"),
            trials=("trial", "nunique"),
            source=("implementation", "first"),
        ).reset_index()

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The ratio of each block, see :func:`retbench.report.compare.pairs`."""
        return compare.pairs(self)

    @cached_property
    def statuses(self) -> pd.DataFrame:
        """How each cell ended, one row per model and point.

        ``status`` is ok only if all blocks ended ok; ``ok_blocks`` of ``blocks``, first ``cause``,
        ``flags``: those of the report (see :mod:`retbench.report.flags`), then the worker's by
        blocks, e.g. ``unsettled x2``.
        """
        found = flagging.of_cells(self.kept, self.processes)
        rows = []
        ended = self.frame[self.frame["phase"] == "cell"]
        cells = records(ended[["status", "cause", "flags"]])
        for key, places in positions(ended, CELL).items():
            group = [cells[place] for place in places]
            failed = [cell for cell in group if cell["status"] != "ok"]
            statuses = Counter(cell["status"] for cell in failed)
            worst = statuses.most_common(1)[0][0] if failed else "ok"
            causes = (cell["cause"] for cell in failed if cell["status"] == worst)
            counts = Counter(flag for cell in group for flag in cell["flags"])
            flags = found.get((key[0], key[-1]), [])
            rows.append((
                *key, worst, len(group) - len(failed), len(group),
                next((cause for cause in causes if isinstance(cause, str)), None),
                ", ".join([*flags, *(f"{flag} x{n}" for flag, n in sorted(counts.items()))]),
            ))  # fmt: skip
        table = pd.DataFrame(rows, columns=STATUS_COLUMNS)
        return ordered(table, ["model", "batch_size", "seq_len"], model=self.models)

    @cached_property
    def measured(self) -> pd.DataFrame:
        """As :attr:`cells`, of the metrics that were measured, in any order."""
        raw = arrays(self.kept, [*CELL, "metric"], "value")
        by_process, trials = column(self.processes, "value"), self.processes["trials"].to_numpy()
        sources = self.processes["source"].to_numpy()
        rows = []
        for key, places in positions(self.processes, [*CELL, "phase", "metric", "unit"]).items():
            *cell, phase, metric, unit = key
            values = by_process[places]
            samples = raw[(*cell, metric)]
            rows.append((
                *cell, metric, unit, *_centre(values, metric), len(values),
                int(trials[places].sum()), len(samples), _spread(values),
                *_percentiles(samples if phase in ("prefill", "decode") else samples[:0]),
                sources[places[0]],
            ))  # fmt: skip
        return pd.DataFrame(rows, columns=CELL_COLUMNS)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per model, point and metric, derived ones too.

        ``value`` in ``unit`` with ``low`` and ``high`` (interval of ``method``; for memory the
        range over processes), ``n`` processes, their ``trials`` together, ``samples`` raw values,
        ``spread`` = max / min - 1 over processes, percentiles of the raw values where n supports
        them, ``source`` = the implementation that was measured.
        """
        order = ["model", "batch_size", "seq_len", "metric"]
        cells = derive.with_derived(self)
        return ordered(cells, order, model=self.models, metric=tuple(METRICS))

    @cached_property
    def setup(self) -> pd.DataFrame:
        """As :attr:`cells` without a point: import, build, gate and cold start of each model."""
        # They belong to a process, not to the cell whose batch carries them.
        rows = self.frame[(self.frame["phase"] == "setup") & self.frame["value"].notna()]
        keys = ["model", "metric", "unit", "process"]
        first = rows.groupby(keys, observed=True)["value"].first().reset_index()
        table = [
            (*key, *_estimate(column(group, "value"), key[1]), len(group))
            for key, group in groups(first, ["model", "metric", "unit"])
        ]
        columns = ["model", "metric", "unit", "value", "low", "high", "method", "n"]
        return ordered(pd.DataFrame(table, columns=columns), ["model", "metric"], model=self.models)

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """One row per metric, point and baseline, see :func:`retbench.report.compare.ratios`."""
        return compare.ratios(self)

    @property
    def timed(self) -> pd.DataFrame:
        """The ratios of times that some block has."""
        return self.ratios[self.ratios["metric"].isin(compare.TIMES) & (self.ratios["n"] > 0)]

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """Per metric and baseline the context at which the subject and the baseline are equal.

        Or in which direction it was not reached, or the ``reason`` why it is unclear; see
        :func:`retbench.report.crossovers.crossovers`.
        """
        return crossovers.crossovers(self)

    @cached_property
    def batches(self) -> pd.DataFrame:
        """The largest batches that fit, see :func:`retbench.report.capacity.largest_batches`."""
        return capacity.largest_batches(self)

    @cached_property
    def efficiencies(self) -> pd.DataFrame:
        """What several processes gain, see :func:`retbench.report.efficiency.efficiencies`."""
        return efficiency.efficiencies(self)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is unequal, noisy or missing, one line each."""
        return warnings.of_times(self)

    def value(self, model: str, metric: str, seq_len: int, batch_size: int) -> float | None:
        """The value of one cell in the metric's unit, or None where it was not measured."""
        found = self.cells.query(
            "model == @model and metric == @metric and seq_len == @seq_len"
            " and batch_size == @batch_size"
        )
        return None if found.empty else float(found["value"].iloc[0])


def model_order(meta: Mapping[str, Any], measured: Iterable[str] = ()) -> tuple[str, ...]:
    """The labels in the order of the plan, then any that only the samples know."""
    planned = [contender["label"] for contender in meta["plan"]["contenders"]]
    return (*planned, *sorted(set(measured) - set(planned)))


def _percentiles(samples: Floats) -> tuple[float, ...]:
    found = (intervals.percentile(samples, q) for q in PERCENTILES.values())
    return tuple(float("nan") if value is None else value for value in found)


def _centre(values: Floats, metric: str) -> tuple[float, float, float, str]:
    """What of the values of all processes is a cell's, low, high and method."""
    if METRICS[metric].centre == "max":
        return float(values.max()), float(values.min()), float(values.max()), "range"
    return _estimate(values, metric)


def _estimate(values: Floats, metric: str) -> tuple[float, float, float, str]:
    """Centre, low, high and method; analytic figures are exact and have no interval."""
    if METRICS[metric].kind == "analytic" or (values <= 0).any():
        return float(np.median(values)), float("nan"), float("nan"), "none"
    found = intervals.estimate(values)
    return *edges(found), found.method


def _spread(values: Floats) -> float:
    smallest = float(values.min())
    return float(values.max()) / smallest - 1 if smallest > 0 else 0.0
