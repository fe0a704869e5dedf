"""Metrics that follow from measured ones: rates, utilisation, and the analytic lower bounds.

Each is computed by the formula that :data:`retbench.metrics.METRICS` declares. What it takes
from a time has the time's interval, through the same formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.config.plan import Point
from retbench.machine import ceilings as ceiling
from retbench.machine.devices import DataSheet, data_sheet
from retbench.metrics import METRICS, Metric
from retbench.report.efficiency import is_unshared, processes_of
from retbench.report.frames import Row, groups, records

if TYPE_CHECKING:
    from retbench.report.summary import Summary

_DERIVED = [metric for metric in METRICS.values() if metric.formula is not None]
_WITHOUT_INTERVAL: Row = {
    "low": math.nan, "high": math.nan, "method": "none",
    "p50": math.nan, "p90": math.nan, "p95": math.nan, "p99": math.nan,
}  # fmt: skip


def with_derived(summary: Summary) -> pd.DataFrame:
    """The measured cells with a row for every derived metric of which one has all that it needs.

    Of ``run.json`` the ceilings, the GPU, the dtype and the number of processes are used.
    """
    cells = summary.measured
    rows: list[Row] = []
    for (_, point), group in groups(cells, ["model", "point"]):
        found = {row["metric"]: row for row in records(group)}
        known = _known(summary.points[point], summary.meta)
        for metric in _DERIVED:  # what one of them needs of the others is declared before it
            if all(name in found or name in known for name in metric.needs):
                found[metric.tag] = _row(metric, found, known)
                rows.append(found[metric.tag])
    if not rows:
        return cells
    return pd.concat([cells, pd.DataFrame(rows)[cells.columns]], ignore_index=True)


def _known(point: Point, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a cell besides its metrics, see :attr:`retbench.metrics.Metric.needs`."""
    processes = 1 if is_unshared(point) else processes_of(meta)
    ceilings = meta["ceilings"]
    dtype = str(point.setting("dtype", meta["configuration"]["dtype"]))
    rate, sheet = ceiling.matmul_rate(ceilings, dtype), sheet_of(meta)
    peak = None if sheet is None else sheet.flop_per_s.get(dtype)
    bandwidth: Callable[[float], float | None] = partial(ceiling.bandwidth_at, ceilings)
    facts = {
        "tokens": point.tokens,
        "batch_size": point.batch_size,
        "processes": processes if processes > 1 else None,
        "matmul_rate": None if rate is None else rate * processes,
        "peak_rate": None if peak is None else peak * processes,
        "bandwidth": bandwidth if ceiling.peak_bandwidth(ceilings) is not None else None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def sheet_of(meta: Mapping[str, Any]) -> DataSheet | None:
    """What the maker states of the GPU that a run was on; None of any other run or device."""
    if meta["configuration"]["device"] != "cuda":
        return None
    return data_sheet((meta["provenance"].get("gpu") or {}).get("name"))


def _row(metric: Metric, found: Mapping[str, Row], known: Mapping[str, Any]) -> Row:
    """The row of a derived metric, with the interval of the time that its formula takes."""
    assert metric.formula is not None
    formula = metric.formula
    measured = [found[name] for name in metric.needs if name in found]
    time = next((row for row in measured if METRICS[row["metric"]].kind == "time"), None)
    arguments = {**known, **{row["metric"]: row["value"] for row in measured}}

    def computed(**changed: float) -> float:
        given = arguments | changed
        try:
            return float(formula(**{name: given[name] for name in metric.needs}))
        except ZeroDivisionError:
            return math.nan

    row = (time or measured[0]) | _WITHOUT_INTERVAL
    row |= {"metric": metric.tag, "unit": metric.unit, "value": computed()}
    if time is not None:
        low, high = sorted(computed(**{time["metric"]: time[edge]}) for edge in ("low", "high"))
        row |= {"low": low, "high": high, "method": time["method"]}
    return row
