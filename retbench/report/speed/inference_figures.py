"""The figures of the inference suite; of a grid also a panel a model and a line a batch size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from retbench.config.plan import Axis as Sweep
from retbench.metrics import METRICS
from retbench.report import axes, theme
from retbench.report.figure import FAILURES, Axis, Curve, Figure, Panel
from retbench.report.frames import records, where
from retbench.report.speed import sweep_figures as sweeps
from retbench.report.speed.sweep_figures import Shown, cells_of, planned
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
_GRID = {"grid_tpot": "tpot_s", "grid_ttft": "ttft_s", "grid_throughput": "decode_tokens_per_s"}
_GRID_RATIOS = {"grid_tpot_ratio": "tpot_s", "grid_ttft_ratio": "ttft_s"}


def figures(summary: Summary) -> Iterator[Figure]:
    """Each figure that this run has data for, the answer first."""
    if len(summary.models) > 1:
        mean = ["mean_tpot_s"] if "mean_tpot_s" in set(summary.ratios["metric"]) else []
        yield sweeps.ratios(summary, ["tpot_s", *mean, "ttft_s"])
    measured = set(summary.cells["metric"])
    for name, title, sweep, shown in SWEEPS:
        has_data = any(each.metric in measured or not each.optional for each in shown)
        if has_data and len(planned(summary, sweep)) > (1 if sweep == "batch" else 0):
            yield sweeps.over_sweep(summary, name, title, sweep, shown)
    if len(planned(summary, "batch")) > 1:
        yield _front(summary)
    if summary.configuration.get("grid") and len(summary.configuration["batch"]) > 1:
        yield from _of_grid(summary)


def _front(summary: Summary) -> Figure:
    """Decode throughput against the latency of a step, one mark a batch size."""
    latency, rate = (cells_of(summary, m, "batch") for m in ("tpot_s", "decode_tokens_per_s"))
    # Latency and throughput are rows of the same cells; one is the batch size over the other.
    data = rate.assign(panel="", x=latency["value"].to_numpy(), low=np.nan, high=np.nan, each=None)
    reach = np.array([data["x"].min() / 1.1, data["x"].max() * 1.1])
    curves = [
        Curve("", "", reach, batch / reach, _batch(batch))
        for batch in sorted(set(data["batch_size"]))
    ]
    lost = sweeps.failures(summary, "batch", [""])
    said = [f"{row['status']} at {row['x']}" for row in records(lost)]
    x = Axis.scaled("TPOT", "s", latency["value"])
    gaps = lost.rename(columns={"x": "batch_size"})
    data = pd.concat([data, gaps]).drop_duplicates(["series", "batch_size"])
    return Figure.of(
        summary.meta, "pareto", "Decode throughput against latency",
        (Panel("", "", x, Axis("decode tokens/s")),),
        data.sort_values("batch_size", kind="stable"), curves=curves,
        notes=("up and to the left is better", "grey: the batch size over the latency",
               axes.held(summary.meta, "batch")),
        failures=lost.assign(status=said, x=np.nan),
    )  # fmt: skip


def _of_grid(summary: Summary) -> Iterator[Figure]:
    """Times and throughput of each model over the context, and ratios, at each batch size."""
    styles = theme.ordered([_batch(size) for size in summary.configuration["batch"]])
    lost = sweeps.failed(summary.statuses)
    lost = lost.assign(
        panel=lost["model"], series=lost["batch_size"].map(_batch), x=lost["seq_len"]
    )
    for name, metric in _GRID.items():
        cells = _by_batch(summary.cells, metric)
        x, y = sweeps.along(summary, "context"), sweeps.scaled(metric, cells)
        yield Figure.of(
            summary.meta, name, f"{METRICS[metric].title} over context, by batch size",
            [Panel(model, model, x, y) for model in summary.models],
            sweeps.as_data(
                cells, summary.processes, panel=cells["model"],
                series=cells["batch_size"].map(_batch),
            ),
            styles=styles, failures=lost[FAILURES], interval=sweeps.INTERVAL, shared=True,
        )  # fmt: skip
    subject, *baselines = summary.models
    for name, metric in _GRID_RATIOS.items() if baselines else ():
        rows = _by_batch(summary.ratios, metric)
        data = sweeps.as_ratios(
            rows, summary.pairs, panel=rows["baseline"], series=rows["batch_size"].map(_batch)
        )
        title = f"{METRICS[metric].title} of {subject} over each baseline's, by batch size"
        yield Figure.of(
            summary.meta, name, title,
            [sweeps.ratio_panel(summary, metric, each, f"over {each}'s") for each in baselines],
            data[data["value"].notna()], styles=styles, failures=sweeps.without_ratio(data),
            interval=sweeps.PAIRED, each="block", shared=True,
            notes=(sweeps.margin_note(summary.meta, [metric]),),
        )  # fmt: skip


def _batch(size: int) -> str:
    return f"batch {size}"


def _by_batch(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of a metric, by batch size and context."""
    return where(table, {"metric": metric}).sort_values(["batch_size", "seq_len"], kind="stable")
