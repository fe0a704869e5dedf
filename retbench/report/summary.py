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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from retbench.config.plan import Point
from retbench.metrics import METRICS
from retbench.report import capacity, compare, crossovers, derive, efficiency, warnings
from retbench.report import flags as flagging
from retbench.report.frames import Floats, arrays, column, groups, ordered, positions
from retbench.stats import intervals

if TYPE_CHECKING:
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
    """All that the report says about one run; pure data.

    Attributes:
        path: the run directory.
        meta: ``run.json``.
        models: the labels in the order of the plan; the first is the subject of every ratio.
        points: the planned points by their ids, which all tables name in a column ``point``.
        cells: one row per model, point and metric: ``value`` in ``unit`` with ``low`` and ``high``
            (interval of ``method``; for memory the range over processes), ``n`` processes,
            their ``trials`` together, ``samples`` raw values, ``spread`` = max / min - 1 over
            processes, percentiles of the raw values where n supports them, ``source`` = the
            implementation that was measured.
        statuses: one row per model and point: ``status`` ok only if all blocks ended ok;
            ``ok_blocks`` of ``blocks``, first ``cause``, ``flags``: those of the report (see
            :mod:`retbench.report.flags`), then the worker's by blocks, e.g. ``unsettled x2``.
        setup: as ``cells`` without a point: import, build, gate and cold start of each model.
        ratios: one row per metric, point and baseline: subject / baseline with interval and
            ``verdict``, see :func:`retbench.report.compare.ratios`.
        crossovers: per metric and baseline the context at which the subject and the baseline are
            equal, in which direction it was not reached, or the ``reason`` why it is unclear.
        batches: per model and context with several batch sizes the largest that fits, what
            stopped it, and the throughput there, see :mod:`retbench.report.capacity`.
        efficiencies: of a run of several processes what each model gains by them, see
            :mod:`retbench.report.efficiency`.
        warnings: what is unequal, noisy or missing, one line each.
        processes: one value per block, cell and measured metric.
        pairs: the ratio of each block, see :func:`retbench.report.compare.pairs`.
    """

    path: Path
    meta: Mapping[str, Any]
    models: tuple[str, ...]
    points: Mapping[str, Point]
    cells: pd.DataFrame
    statuses: pd.DataFrame
    setup: pd.DataFrame
    ratios: pd.DataFrame
    crossovers: pd.DataFrame
    batches: pd.DataFrame
    efficiencies: pd.DataFrame
    warnings: tuple[str, ...]
    processes: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The resolved configuration of the run."""
        return cast(Mapping[str, Any], self.meta["configuration"])

    def value(self, model: str, metric: str, seq_len: int, batch_size: int) -> float | None:
        """The value of one cell in the metric's unit, or None where it was not measured."""
        found = self.cells.query(
            "model == @model and metric == @metric and seq_len == @seq_len"
            " and batch_size == @batch_size"
        )
        return None if found.empty else float(found["value"].iloc[0])


@dataclass(frozen=True)
class Reduced:
    """The samples of a run, reduced level by level (M1): what a report of times starts from.

    Attributes:
        frame: every sample.
        models: the labels in the order of the plan.
        processes: one value per block, cell and metric.
        pairs: the ratio of each block, see :func:`retbench.report.compare.pairs`.
        cells: one row per cell and measured metric, see :class:`Summary`.
        statuses: how each cell ended, likewise.
    """

    frame: pd.DataFrame
    models: tuple[str, ...]
    processes: pd.DataFrame
    pairs: pd.DataFrame
    cells: pd.DataFrame
    statuses: pd.DataFrame


def reduced(run: Run) -> Reduced:
    """Reduce a run's samples to its cells, whatever its suite; arguments as :func:`summarise`."""
    # Categories halve the time: every grouping would take the texts apart again.
    frame = run.frame().astype(dict.fromkeys(_LABELS, "category"))
    models = model_order(run.meta, frame["model"].unique())
    kept = _kept(frame)
    processes = _processes(kept)
    pairs = compare.pairs(frame, kept, processes, models, run.meta)
    statuses = _statuses(frame, flagging.of_cells(kept, processes), models)
    return Reduced(frame, models, processes, pairs, _cells(kept, processes), statuses)


def summarise(run: Run) -> Summary:
    """Reduce a run to its summary; the same samples give the same summary, digit for digit.

    Args:
        run: a handle with ``path``, ``meta``, ``points`` and ``frame()``; only these are read.
    """
    found, meta = reduced(run), run.meta
    order = ["model", "batch_size", "seq_len", "metric"]
    cells = derive.with_derived(found.cells, run.points, meta)
    ratios = compare.ratios(found, meta)
    summary = Summary(
        path=run.path,
        meta=meta,
        models=found.models,
        points=run.points,
        cells=ordered(cells, order, model=found.models, metric=tuple(METRICS)),
        statuses=found.statuses,
        setup=_setup(found.frame, found.models),
        ratios=ratios,
        crossovers=crossovers.crossovers(found, ratios, run.points, meta),
        batches=capacity.largest_batches(found.statuses, found.processes, run.points, found.models),
        efficiencies=efficiency.efficiencies(found, run.points, meta),
        warnings=(),
        processes=found.processes,
        pairs=found.pairs,
    )
    modes = {
        str(model): mode
        for model, mode in found.frame.groupby("model", observed=True)["mode"].first().items()
    }
    return replace(summary, warnings=warnings.of_times(summary, modes))


def model_order(meta: Mapping[str, Any], measured: Iterable[str] = ()) -> tuple[str, ...]:
    """The labels in the order of the plan, then any that only the samples know."""
    planned = [contender["label"] for contender in meta["plan"]["contenders"]]
    return (*planned, *sorted(set(measured) - set(planned)))


def _kept(frame: pd.DataFrame) -> pd.DataFrame:
    """The samples that count: cells of blocks that ended ok, and analytic figures of any."""
    ended = frame.loc[frame["phase"] == "cell", ["block", "model", "point", "status"]]
    ok = ended.loc[ended["status"] == "ok", ["block", "model", "point"]]
    of_cells = ~frame["phase"].isin(["cell", "setup"]) | (frame["metric"] == "cold_start_s")
    rows = frame[of_cells & frame["value"].notna()]
    rows = rows[rows["status"] == "ok"]
    good = pd.MultiIndex.from_frame(rows[["block", "model", "point"]]).isin(
        pd.MultiIndex.from_frame(ok)
    )
    return rows[good | (rows["phase"] == "analytic").to_numpy()]


def _processes(kept: pd.DataFrame) -> pd.DataFrame:
    """One row per block, cell and metric: the median of the process that measured it."""
    keys = [*CELL, "phase", "metric", "unit", "block"]
    grouped = kept.groupby(keys, observed=True, sort=True)
    return grouped.agg(
        value=("value", "median"), trials=("trial", "nunique"), source=("implementation", "first")
    ).reset_index()


def _statuses(
    frame: pd.DataFrame, found: Mapping[tuple[str, str], list[str]], models: tuple[str, ...]
) -> pd.DataFrame:
    rows = []
    for key, group in groups(frame[frame["phase"] == "cell"], CELL):
        failed = group[group["status"] != "ok"]
        worst = "ok" if failed.empty else Counter(failed["status"]).most_common(1)[0][0]
        causes = failed.loc[failed["status"] == worst, "cause"].dropna()
        counts = Counter(flag for flags in group["flags"] for flag in flags)
        flags = found.get((key[0], key[-1]), [])
        rows.append((
            *key, worst, len(group) - len(failed), len(group),
            None if causes.empty else causes.iloc[0],
            ", ".join([*flags, *(f"{flag} x{count}" for flag, count in sorted(counts.items()))]),
        ))  # fmt: skip
    table = pd.DataFrame(rows, columns=STATUS_COLUMNS)
    return ordered(table, ["model", "batch_size", "seq_len"], model=models)


def _cells(kept: pd.DataFrame, processes: pd.DataFrame) -> pd.DataFrame:
    raw = arrays(kept, [*CELL, "metric"], "value")
    by_process, trials = column(processes, "value"), processes["trials"].to_numpy()
    sources = processes["source"].to_numpy()
    rows = []
    for key, places in positions(processes, [*CELL, "phase", "metric", "unit"]).items():
        *cell, phase, metric, unit = key
        values = by_process[places]
        samples = raw[(*cell, metric)]
        centre = _range(values) if METRICS[metric].centre == "max" else _estimate(values, metric)
        rows.append((
            *cell, metric, unit, *centre, len(values), int(trials[places].sum()), len(samples),
            _spread(values),
            *(_percentiles(samples) if phase in ("prefill", "decode") else _NO_PERCENTILES),
            sources[places[0]],
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=CELL_COLUMNS)


def _setup(frame: pd.DataFrame, models: tuple[str, ...]) -> pd.DataFrame:
    """Setup figures belong to a process, not to the cell whose batch carries them."""
    rows = frame[(frame["phase"] == "setup") & frame["value"].notna()]
    keys = ["model", "metric", "unit", "process"]
    first = rows.groupby(keys, observed=True)["value"].first().reset_index()
    table = [
        (*key, *_estimate(column(group, "value"), key[1]), len(group))
        for key, group in groups(first, ["model", "metric", "unit"])
    ]
    columns = ["model", "metric", "unit", "value", "low", "high", "method", "n"]
    return ordered(pd.DataFrame(table, columns=columns), ["model", "metric"], model=models)


_NO_PERCENTILES = tuple(float("nan") for _ in PERCENTILES)


def _percentiles(samples: Floats) -> tuple[float, ...]:
    found = (intervals.percentile(samples, q) for q in PERCENTILES.values())
    return tuple(float("nan") if value is None else float(value) for value in found)


def _estimate(values: Floats, metric: str) -> tuple[float, float, float, str]:
    """Centre, low, high and method; analytic figures are exact and have no interval."""
    if METRICS[metric].kind == "analytic" or (values <= 0).any():
        return float(np.median(values)), float("nan"), float("nan"), "none"
    found = intervals.estimate(values)
    low, high = (float("nan") if edge is None else edge for edge in (found.low, found.high))
    return found.value, low, high, found.method


def _range(values: Floats) -> tuple[float, float, float, str]:
    return float(values.max()), float(values.min()), float(values.max()), "range"


def _spread(values: Floats) -> float:
    smallest = float(values.min())
    return float(values.max()) / smallest - 1 if smallest > 0 else 0.0
