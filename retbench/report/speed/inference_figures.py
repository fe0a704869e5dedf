"""The figures of the inference suite, and how any suite draws metrics over context or batch size.

A cell that cannot be drawn has a mark below the axis; :mod:`retbench.report.figure_data` lists
every cell of the run as shown or as left out, and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from retbench.config.plan import Axis as Sweep
from retbench.metrics import METRICS
from retbench.report import axes, compare, units
from retbench.report.figure import DECIDED, FAILURES, Axis, Crossing, Curve, Figure, Panel, tuples
from retbench.report.frames import Row, arrays, column, groups, records
from retbench.report.summary import Summary

INTERVAL = "95% interval over processes"
RANGE = "range over processes, the value is the largest"
PAIRED = "the verdict's interval, paired by block"
BOUND = "thin dashes: analytic bound from measured ceilings"
LABELS = {"context": "context (tokens)", "batch": "batch size (sequences)"}
# The time that a rate is made from, the work over it.
_TIME_OF = {
    "prefill_tokens_per_s": "ttft_s", "decode_tokens_per_s": "tpot_s",
    "step_tokens_per_s": "step_s", "step_mfu": "step_s", "step_matmul_share": "step_s",
    "kernel_flop_per_s": "kernel_s",
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A metric of a sweep, and the metric that bounds it.

    Attributes:
        metric: its tag.
        bound: the tag of its bound.
        optional: whether a run may lack it, and its panel.
        otherwise: the tag of what is shown where a run lacks it.
    """

    metric: str
    bound: str | None = None
    optional: bool = False
    otherwise: str = ""


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
    """Each figure that this run has data for."""
    measured = set(summary.cells["metric"])
    for name, title, sweep, shown in SWEEPS:
        has_data = any(each.metric in measured or not each.optional for each in shown)
        if has_data and len(planned(summary, sweep)) > (1 if sweep == "batch" else 0):
            yield over_sweep(summary, name, title, sweep, shown)
    if len(planned(summary, "batch")) > 1:
        yield front(summary)
    if len(summary.models) > 1:
        mean = ["mean_tpot_s"] if "mean_tpot_s" in set(summary.ratios["metric"]) else []
        yield ratios(summary, ["tpot_s", *mean, "ttft_s"])


def over_sweep(
    summary: Summary, name: str, title: str, sweep: Sweep, shown: Sequence[Shown]
) -> Figure:
    """Metrics over the context or the batch size, a panel each."""
    measured = set(summary.cells["metric"])
    kept = [
        each if each.metric in measured or not each.otherwise
        else replace(each, metric=each.otherwise)
        for each in shown if each.metric in measured or not each.optional
    ]  # fmt: skip
    data = [cells_of(summary, each.metric, sweep) for each in kept]
    ticks = tuple(planned(summary, sweep))
    x = Axis(LABELS[sweep], ticks, units.tokens)
    panels, curves = [], []
    for each, cells in zip(kept, data, strict=True):
        scale = units.scale_for(METRICS[each.metric].unit, cells["value"])
        unit = f" ({scale.symbol})" if scale.symbol else ""
        y = Axis(f"{METRICS[each.metric].title}{unit}", divisor=scale.divisor)
        panels.append(Panel(each.metric, "", x, y))
        if each.bound in measured:
            for (model,), own in groups(cells_of(summary, str(each.bound), sweep), ["model"]):
                places = column(own, axes.COLUMN[sweep])
                if len(places) > 1:  # one is no line
                    curves.append(Curve(each.metric, str(model), places, column(own, "value")))
    notes = [axes.held(summary.meta, sweep), *([BOUND] if curves else [])]
    if memory := kept[0].metric in compare.MEMORY:
        notes += [_source(cells) for cells in data if len(cells)]
    return Figure.of(
        summary.meta, name, title, panels, pd.concat(data), notes=tuple(notes), curves=curves,
        interval=RANGE if memory else INTERVAL,
        failures=failures(summary, sweep, [each.metric for each in kept]),
    )  # fmt: skip


def _source(cells: pd.DataFrame) -> str:
    """What a memory figure was read from."""
    sources = sorted({source.replace("_", " ") for source in cells["source"]})
    return f"{METRICS[cells['metric'].iloc[0]].title}: {' / '.join(sources)}"


def ratios(summary: Summary, metrics: Sequence[str]) -> Figure:
    """Times of the subject over each baseline's along the context, a panel a metric."""
    subject = summary.models[0]
    rows = summary.ratios[axes.on_sweep(summary.points, summary.ratios, "context")]
    rows = rows[rows["metric"].isin(metrics)].sort_values("seq_len")
    data = as_ratios(rows, summary.pairs).assign(panel=rows["metric"])
    lost = data[data["value"].isna()]
    x = Axis(LABELS["context"], tuple(planned(summary, "context")), units.tokens)
    panels = [
        Panel(
            metric, METRICS[metric].title if len(metrics) > 1 else "", x, Axis("ratio of times"),
            compare.threshold(summary.meta, metric), (f"{subject} faster", "slower"),
        )
        for metric in metrics
    ]  # fmt: skip
    timed = [
        row for row in records(summary.crossovers)
        if row["metric"] in metrics and is_of_the_sweep(summary, row)
    ]  # fmt: skip
    held = axes.held(summary.meta, "context")
    return Figure.of(
        summary.meta, "ratio_context", f"Time of {subject} over each baseline's", panels,
        data[data["value"].notna()], interval=PAIRED, each="block",
        notes=(margin_note(summary.meta, metrics), held, *_alone(lost)),
        crossings=[
            crossing for row in timed
            for crossing in located(row["metric"], row, data[data["metric"] == row["metric"]])
        ],
        failures=lost.assign(status=[mark(note) for note in lost["note"]])[FAILURES],
    )  # fmt: skip


def is_of_the_sweep(summary: Summary, crossing: Row) -> bool:
    """Whether a crossover is of the sweep over contexts: a grid has one at each batch size."""
    first = summary.configuration["batch"][0]
    return not summary.configuration.get("grid") or bool(crossing["batch_size"] == first)


def as_ratios(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Ratios with the columns of a figure; in ``each`` those of the blocks."""
    by_block = {
        key: tuple(ratios)
        for key, ratios in arrays(pairs, ["metric", "baseline", "point"], "ratio").items()
    }
    each = [by_block.get((r["metric"], r["baseline"], r["point"]), ()) for r in records(rows)]
    return rows.assign(
        series=rows["baseline"], model=rows["baseline"], x=rows["seq_len"],
        open=~rows["verdict"].isin(DECIDED), each=tuples(each, rows),
    )  # fmt: skip


def margin_note(meta: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """How large the grey margin of ratios is."""
    sizes = dict.fromkeys(f"±{compare.threshold(meta, metric):.1%}" for metric in metrics)
    return f"grey: margin or noise floor, {', '.join(sizes)}"


def located(panel: str, crossing: Row, rows: pd.DataFrame) -> Iterator[Crossing]:
    """A crossover as drawn: only where ratios on both of its sides have opposite verdicts."""
    own = rows[(rows["baseline"] == crossing["baseline"]) & rows["verdict"].isin(DECIDED)]
    if crossing["status"] != "reached":
        return
    sides = [
        set(own.loc[at, "verdict"])
        for at in (own["seq_len"] <= crossing["value"], own["seq_len"] > crossing["value"])
    ]
    if any({"faster"} <= one and {"slower"} <= two for one, two in (sides, sides[::-1])):
        edges = (float(crossing[edge]) for edge in ("value", "low", "high"))
        yield Crossing(panel, crossing["baseline"], *edges)


def mark(note: str) -> str:
    """A short word for why there is no ratio."""
    return compare.ALONE if note.startswith(f"measured {compare.ALONE}") else note.split(": ")[-1]


def _alone(lost: pd.DataFrame) -> list[str]:
    mixed = any(mark(note) == compare.ALONE for note in lost["note"])
    return ["alone: only one of the two took turns"] if mixed else []


def front(summary: Summary) -> Figure:
    """Decode throughput against the latency of a step, one mark a batch size."""
    latency, rate = (cells_of(summary, m, "batch") for m in ("tpot_s", "decode_tokens_per_s"))
    scale = units.scale_for("s", latency["value"])
    # Latency and throughput are rows of the same cells; one is the batch size over the other.
    data = rate.assign(panel="", x=latency["value"].to_numpy(), low=np.nan, high=np.nan, each=None)
    reach = np.array([data["x"].min() / 1.1, data["x"].max() * 1.1])
    curves = [
        Curve("", "", own, batch / own, f"batch {batch}")
        for batch in sorted(set(data["batch_size"]))
        for own in [reach]
        if len(data)
    ]
    lost = failures(summary, "batch", [""])
    said = [f"{row['status']} at {row['x']}" for row in records(lost)]
    x = Axis(f"TPOT ({scale.symbol})", divisor=scale.divisor)
    return Figure.of(
        summary.meta, "pareto", "Decode throughput against latency",
        (Panel("", "", x, Axis("decode tokens/s")),), data, curves=curves,
        notes=("up and to the left is better", "grey: the batch size over the latency",
               axes.held(summary.meta, "batch")),
        failures=lost.assign(status=said, x=np.nan),
    )  # fmt: skip


def planned(summary: Summary, sweep: Sweep) -> list[int]:
    """The planned values of a sweep, those that failed included."""
    on_sweep = axes.on_sweep(summary.points, summary.statuses, sweep)
    return sorted({int(value) for value in summary.statuses.loc[on_sweep, axes.COLUMN[sweep]]})


def cells_of(summary: Summary, metric: str, sweep: Sweep) -> pd.DataFrame:
    """A metric's cells along a sweep, ascending, as a figure has them."""
    cells = summary.cells[summary.cells["metric"] == metric]
    cells = cells[axes.on_sweep(summary.points, cells, sweep)]
    return as_data(cells.sort_values(axes.COLUMN[sweep], kind="stable"), summary.processes,
                   axes.COLUMN[sweep])  # fmt: skip


def as_data(cells: pd.DataFrame, processes: pd.DataFrame, along: str) -> pd.DataFrame:
    """Cells with the columns of a figure, and in ``each`` the values of their processes."""
    by_process = arrays(processes, ["model", "point", "metric"], "value")
    each: list[tuple[float, ...]] = []
    for row in records(cells):
        metric = str(row["metric"])
        values = by_process.get((row["model"], row["point"], _TIME_OF.get(metric, metric)))
        if values is None or metric in compare.MEMORY:
            each.append(())
        elif metric in _TIME_OF:
            each.append(tuple(row["value"] * np.median(values) / values))
        else:
            each.append(tuple(values))
    return cells.assign(panel=cells["metric"], series=cells["model"], x=cells[along],
                        each=tuples(each, cells))  # fmt: skip


def failures(summary: Summary, sweep: Sweep, panels: Sequence[str]) -> pd.DataFrame:
    """The cells of a sweep that failed, in every panel; with a share where some blocks were ok."""
    on_sweep = axes.on_sweep(summary.points, summary.statuses, sweep)
    rows = summary.statuses[on_sweep & (summary.statuses["status"] != "ok")]
    found = [
        (panel, row["model"], row[axes.COLUMN[sweep]], ended(row))
        for panel in panels
        for row in records(rows.sort_values(axes.COLUMN[sweep], kind="stable"))
    ]
    return pd.DataFrame(found, columns=FAILURES)


def ended(row: Row) -> str:
    """How a cell ended, with the share of blocks where some were ok."""
    share = f" {row['blocks'] - row['ok_blocks']}/{row['blocks']}" if row["ok_blocks"] else ""
    return f"{row['status']}{share}"
