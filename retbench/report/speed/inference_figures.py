"""The figures of the inference suite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retbench.config.plan import Axis as Sweep
from retbench.report import axes
from retbench.report.figure import Axis, Curve, Figure, Panel
from retbench.report.frames import records
from retbench.report.speed.sweep_figures import (
    Shown,
    cells_of,
    failures,
    over_sweep,
    planned,
    ratios,
)
from retbench.report.summary import Summary

_TPOT, _TTFT = Shown("tpot_s", "tpot_bound_s"), Shown("ttft_s", "ttft_bound_s")
_RATES = (Shown("prefill_tokens_per_s", "prefill_bound_tokens_per_s"),
          Shown("decode_tokens_per_s", "decode_bound_tokens_per_s"))  # fmt: skip
SWEEPS: tuple[tuple[str, str, Sweep, tuple[Shown, ...]], ...] = (
    ("tpot_context", "Time per output token over context", "context",
     (_TPOT, Shown("mean_tpot_s", optional=True))),
    ("ttft_context", "Time to first token over context", "context", (_TTFT,)),
    ("throughput_context", "Throughput over context", "context", _RATES),
    ("memory_context", "Memory over context", "context",
     (Shown("prefill_peak_bytes"), Shown("decode_peak_bytes"), Shown("state_bytes"))),
    ("energy_context", "Energy over context", "context",
     (Shown("token_j", optional=True), Shown("mean_token_j", optional=True),
      Shown("prefill_j", optional=True))),
    ("throughput_batch", "Throughput over batch size", "batch", _RATES),
    ("latency_batch", "Latency over batch size", "batch", (_TTFT, _TPOT)),
)  # fmt: skip


def figures(summary: Summary) -> Iterator[Figure]:
    """Each figure that this run has data for, the answer first."""
    if len(summary.models) > 1:
        mean = ["mean_tpot_s"] if "mean_tpot_s" in set(summary.ratios["metric"]) else []
        yield ratios(summary, ["tpot_s", *mean, "ttft_s"])
    measured = set(summary.cells["metric"])
    for name, title, sweep, shown in SWEEPS:
        has_data = any(each.metric in measured or not each.optional for each in shown)
        if has_data and len(planned(summary, sweep)) > (1 if sweep == "batch" else 0):
            yield over_sweep(summary, name, title, sweep, shown)
    if len(planned(summary, "batch")) > 1:
        yield _front(summary)


def _front(summary: Summary) -> Figure:
    """Decode throughput against the latency of a step, one mark a batch size."""
    latency, rate = (cells_of(summary, m, "batch") for m in ("tpot_s", "decode_tokens_per_s"))
    # Latency and throughput are rows of the same cells; one is the batch size over the other.
    data = rate.assign(panel="", x=latency["value"].to_numpy(), low=np.nan, high=np.nan, each=None)
    reach = np.array([data["x"].min() / 1.1, data["x"].max() * 1.1])
    curves = [
        Curve("", "", reach, batch / reach, f"batch {batch}")
        for batch in sorted(set(data["batch_size"]))
    ]
    lost = failures(summary, "batch", [""])
    said = [f"{row['status']} at {row['x']}" for row in records(lost)]
    x = Axis.scaled("TPOT", "s", latency["value"])
    return Figure.of(
        summary.meta, "pareto", "Decode throughput against latency",
        (Panel("", "", x, Axis("decode tokens/s")),), data, curves=curves,
        notes=("up and to the left is better", "grey: the batch size over the latency",
               axes.held(summary.meta, "batch")),
        failures=lost.assign(status=said, x=np.nan),
    )  # fmt: skip
