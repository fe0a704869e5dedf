"""The figures of a grid: contexts at every batch size, a panel a model and a line a batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import terms, theme, units
from retbench.report.figure import FAILURES, Axis, Figure, Panel
from retbench.report.frames import records
from retbench.report.speed.sweep_figures import (
    INTERVAL,
    LABELS,
    PAIRED,
    as_data,
    as_ratios,
    ended,
    margin_note,
    without_ratio,
)
from retbench.report.summary import Summary

_SHOWN = (
    ("grid_tpot", "tpot_s"), ("grid_ttft", "ttft_s"), ("grid_throughput", "decode_tokens_per_s"),
)  # fmt: skip
_RATIOS = (("grid_tpot_ratio", "tpot_s"), ("grid_ttft_ratio", "ttft_s"))


def figures(summary: Summary) -> Iterator[Figure]:
    """Times and throughput of each model, and ratios; none of a run without a grid."""
    if not summary.configuration.get("grid") or len(summary.configuration["batch"]) < 2:
        return
    for name, metric in _SHOWN:
        yield _over_context(summary, name, metric)
    for name, metric in _RATIOS if len(summary.models) > 1 else ():
        yield _ratios(summary, name, metric)


def _over_context(summary: Summary, name: str, metric: str) -> Figure:
    """A metric over the context, of each model at each batch size."""
    cells = _of(summary.cells, metric)
    data = as_data(cells, summary.processes, "seq_len")
    title = METRICS[metric].title
    y = Axis.scaled(title, METRICS[metric].unit, data["value"])
    lost = summary.statuses[summary.statuses["status"] != "ok"]
    failures = [
        (row["model"], _label(row["batch_size"]), row["seq_len"], ended(row))
        for row in records(lost)
    ]
    return _figure(
        summary, name, f"{title} over context, by batch size",
        [Panel(model, model, _x(summary), y) for model in summary.models],
        data.assign(panel=cells["model"], series=cells["batch_size"].map(_label)),
        pd.DataFrame(failures, columns=FAILURES), interval=INTERVAL,
    )  # fmt: skip


def _ratios(summary: Summary, name: str, metric: str) -> Figure:
    """A time of the subject over each baseline's at each batch size."""
    subject, *baselines = summary.models
    rows = _of(summary.ratios, metric)
    data = as_ratios(rows, summary.pairs).assign(
        panel=rows["baseline"], series=rows["batch_size"].map(_label)
    )
    panels = [
        Panel(
            baseline, f"over {baseline}'s", _x(summary), Axis("ratio of times"),
            terms.threshold(summary.meta, metric), (f"{subject} faster", "slower"),
        )
        for baseline in baselines
    ]  # fmt: skip
    title = f"{METRICS[metric].title} of {subject} over each baseline's, by batch size"
    return _figure(
        summary, name, title, panels, data[data["value"].notna()], without_ratio(data),
        interval=PAIRED, each="block", notes=(margin_note(summary.meta, [metric]),),
    )  # fmt: skip


def _figure(
    summary: Summary, name: str, title: str, panels: Sequence[Panel], data: pd.DataFrame,
    failures: pd.DataFrame, **more: Any,
) -> Figure:  # fmt: skip
    """A line a batch size in every panel, from dark to light."""
    styles = theme.ordered([_label(batch) for batch in summary.configuration["batch"]])
    return Figure.of(
        summary.meta, name, title, panels, data, styles=styles, failures=failures, shared=True,
        **more,
    )  # fmt: skip


def _of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of a metric, by batch size and context."""
    return table[table["metric"] == metric].sort_values(["batch_size", "seq_len"], kind="stable")


def _x(summary: Summary) -> Axis:
    ticks = sorted({int(context) for context in summary.statuses["seq_len"]})
    return Axis(LABELS["context"], tuple(ticks), units.tokens)


def _label(batch_size: int) -> str:
    return f"batch {batch_size}"
