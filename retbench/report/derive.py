"""Figures that follow from measured ones: rates, utilisation, and the analytic lower bounds.

A rate is work over the median time (M9), so its interval is that of the time, turned over. The
bounds need the ceilings that the run measured; an unknown machine has none, and gets none assumed
(M15). Sources: MFU as in arXiv 2204.02311, appendix B; the decode bound is the time to move the
weights and the state once at the measured copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from retbench.config.plan import Point
from retbench.machine import ceilings as ceiling
from retbench.metrics import METRICS, Metric
from retbench.report.efficiency import is_unshared, processes_of
from retbench.report.frames import Row, groups, records

BOUNDS: dict[str, Metric] = {
    metric.tag: metric
    for metric in (
        Metric("tpot_bound_s", "s", "TPOT bound", "analytic decode bytes over the machine's "
               "measured bandwidth at that size: no step that reads them all from memory can be "
               "faster", "lower"),
        Metric("tpot_over_bound", "ratio", "x bound", "TPOT over its bound: how many times as long "
               "a step takes as moving its bytes would; the rest is dispatch of operations and "
               "synchronisation", "lower"),
        Metric("ttft_bound_s", "s", "TTFT bound", "analytic prefill FLOPs over the machine's "
               "measured matmul rate: no prefill can be faster", "lower"),
        Metric("step_bound_s", "s", "Step bound", "analytic step FLOPs over the machine's measured "
               "matmul rate: no step can be faster", "lower"),
        Metric("step_bound_tokens_per_s", "tokens/s", "Throughput bound", "tokens of a step over "
               "the step bound", "higher"),
        Metric("decode_bound_tokens_per_s", "tokens/s", "Decode throughput bound", "batch size "
               "over the TPOT bound", "higher"),
        Metric("prefill_bound_tokens_per_s", "tokens/s", "Prefill throughput bound", "prompt "
               "tokens of the batch over the TTFT bound", "higher"),
    )
}  # fmt: skip


def rows(cells: pd.DataFrame, points: Mapping[str, Point], meta: Mapping[str, Any]) -> list[Row]:
    """Rows of the derived metrics for every cell that has what they need.

    Args:
        cells: the measured metrics, one row per cell and metric.
        points: of the plan, by id.
        meta: ``run.json``; ``ceilings`` and the dtype are used.
    """
    found: list[Row] = []
    keys = ["model", "seq_len", "batch_size", "point"]
    for (*_, point), group in groups(cells, keys):
        by_metric = {row["metric"]: row for row in records(group)}
        processes = 1 if is_unshared(points[point]) else processes_of(meta)
        found += _rates(by_metric, processes) + _bounds(by_metric, meta, processes)
    return found


def _rates(cell: dict[str, Row], processes: int) -> list[Row]:
    derived = []
    if time := cell.get("ttft_s"):
        work = time["seq_len"] * time["batch_size"]
        derived.append(_over(time, "prefill_tokens_per_s", work))
    if time := cell.get("tpot_s"):
        derived.append(_over(time, "decode_tokens_per_s", time["batch_size"]))
    if time := cell.get("step_s"):
        tokens = time["seq_len"] * time["batch_size"]
        derived.append(_over(time, "step_tokens_per_s", tokens))
        if processes > 1:
            derived.append(_over(time, "process_tokens_per_s", tokens / processes))
    return derived


def _bounds(cell: dict[str, Row], meta: Mapping[str, Any], processes: int) -> list[Row]:
    """What the measured ceilings of one process allow so many."""
    ceilings = meta.get("ceilings")
    if not ceilings:
        return []
    derived = []
    rate = ceiling.matmul_rate(ceilings, meta["configuration"]["dtype"])
    for work, phase, timed in (
        ("prefill_flops", "prefill", "ttft"), ("step_flops", "step", "step"),
    ):  # fmt: skip
        if rate and (flops := cell.get(work)):
            bound = _exact(flops, f"{timed}_bound_s", flops["value"] / (rate * processes))
            tokens = flops["seq_len"] * flops["batch_size"]
            derived += [bound, _over(bound, f"{phase}_bound_tokens_per_s", tokens)]
            if time := cell.get(f"{timed}_s"):
                derived.append(_over(time, f"{phase}_mfu", bound["value"]))
    if moved := cell.get("decode_bytes"):
        bandwidth = ceiling.bandwidth_at(ceilings, moved["value"])
        if bandwidth:
            bound = _exact(moved, "tpot_bound_s", moved["value"] / bandwidth)
            derived += [bound, _over(bound, "decode_bound_tokens_per_s", moved["batch_size"])]
            if time := cell.get("tpot_s"):
                derived.append(_times(time, "tpot_over_bound", 1 / bound["value"]))
        if time := cell.get("tpot_s"):
            derived.append(_over(time, "decode_bandwidth", moved["value"]))
    return derived


def _over(time: Row, metric: str, work: float) -> Row:
    """``work / time`` with the interval turned over; percentiles have no meaning for a rate."""
    row = _exact(time, metric, work / time["value"])
    return row | {
        "low": work / time["high"], "high": work / time["low"],
        "method": time["method"], "n": time["n"], "trials": time["trials"],
        "samples": time["samples"], "spread": time["spread"],
    }  # fmt: skip


def _times(time: Row, metric: str, factor: float) -> Row:
    """``time * factor`` with its interval."""
    return _exact(time, metric, time["value"] * factor) | {
        "low": time["low"] * factor, "high": time["high"] * factor, "method": time["method"],
    }  # fmt: skip


def _exact(like: Row, metric: str, value: float) -> Row:
    """A row of ``metric`` for the same cell as ``like``, without an interval."""
    nothing = float("nan")
    unit = (METRICS.get(metric) or BOUNDS[metric]).unit
    return like | {
        "metric": metric, "unit": unit, "value": value, "low": nothing, "high": nothing,
        "method": "none", "p50": nothing, "p90": nothing, "p95": nothing, "p99": nothing,
    }  # fmt: skip
