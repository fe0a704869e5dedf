"""How the suites on speed draw metrics, and ratios of times, over context or batch size.

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
from retbench.report import axes, compare, terms, units
from retbench.report.figure import DECIDED, FAILURES, Axis, Crossing, Curve, Figure, Panel, tuples
from retbench.report.frames import EDGES, Floats, Row, arrays, column, groups, records, where
from retbench.report.summary import Summary

INTERVAL = "95% interval over processes"
RANGE = "range over processes, the value is the largest"
PAIRED = "the verdict's interval, paired by block"
BOUND = "thin dashes: analytic bound from measured ceilings"
LABELS = {"context": "context (tokens)", "batch": "batch size (sequences)"}
RATIO = Axis("ratio of times")
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
    x, panels, curves = along(summary, sweep), [], []
    for each, cells in zip(kept, data, strict=True):
        panels.append(Panel(each.metric, "", x, scaled(each.metric, cells)))
        if each.bound in measured:
            for (model,), own in groups(cells_of(summary, str(each.bound), sweep), ["model"]):
                places = column(own, "x")
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
    rows = summary.ratios[axes.on_sweep(summary.points, summary.ratios, "context")]
    rows = rows[rows["metric"].isin(metrics)].sort_values("seq_len")
    data = as_ratios(rows, summary.pairs, panel=rows["metric"])
    lost = without_ratio(data)
    panels = [
        ratio_panel(summary, metric, metric, METRICS[metric].title if len(metrics) > 1 else "")
        for metric in metrics
    ]
    crossed = summary.crossovers[summary.crossovers["metric"].isin(metrics)]
    if summary.configuration.get("grid"):  # it has one at each batch size
        crossed = where(crossed, {"batch_size": summary.configuration["batch"][0]})
    crossings = [each for row in records(crossed) for each in located(row["metric"], row)]
    alone = ["alone: only one of the two took turns"] * (compare.ALONE in set(lost["status"]))
    held = axes.held(summary.meta, "context")
    return Figure.of(
        summary.meta, "ratio_context", f"Time of {summary.models[0]} over each baseline's", panels,
        data[data["value"].notna()], interval=PAIRED, each="block",
        notes=(margin_note(summary.meta, metrics), held, *alone), crossings=crossings,
        failures=lost,
    )  # fmt: skip


def ratio_panel(summary: Summary, metric: str, key: str, title: str) -> Panel:
    """A panel of ratios of a time along the context."""
    return Panel(
        key, title, along(summary, "context"), RATIO, terms.threshold(summary.meta, metric),
        (f"{summary.models[0]} faster", "slower"),
    )  # fmt: skip


def as_ratios(rows: pd.DataFrame, pairs: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """Ratios with the columns of a figure, some of them given; in ``each`` those of the blocks."""
    by_block = arrays(pairs, ["metric", "baseline", "point"], "ratio")
    each = [by_block.get((r["metric"], r["baseline"], r["point"]), ()) for r in records(rows)]
    drawn = {
        "series": rows["baseline"], "model": rows["baseline"], "x": rows["seq_len"],
        "open": ~rows["verdict"].isin(DECIDED), "each": tuples(each, rows),
    }  # fmt: skip
    return rows.assign(**(drawn | columns))


def without_ratio(data: pd.DataFrame) -> pd.DataFrame:
    """The failures of a figure of ratios: where there is none, and in a word why."""
    lost = data[data["value"].isna()]
    return lost.assign(status=[_mark(note) for note in lost["note"]])[FAILURES]


def _mark(note: str) -> str:
    """A short word for why there is no ratio."""
    return compare.ALONE if note.startswith(f"measured {compare.ALONE}") else note.split(": ")[-1]


def margin_note(meta: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """How large the grey margin of ratios is."""
    sizes = dict.fromkeys(f"±{units.rough(terms.threshold(meta, metric))}" for metric in metrics)
    return f"grey: margin or noise floor, {', '.join(sizes)}"


def located(panel: str, crossing: Row) -> Iterator[Crossing]:
    """A crossover as drawn, where there is one."""
    if crossing["status"] == "reached":
        yield Crossing(panel, crossing["baseline"], *(float(crossing[edge]) for edge in EDGES))


def planned(summary: Summary, sweep: Sweep) -> list[int]:
    """The planned values of a sweep, those that failed included."""
    on_sweep = axes.on_sweep(summary.points, summary.statuses, sweep)
    return sorted({int(value) for value in summary.statuses.loc[on_sweep, axes.COLUMN[sweep]]})


def along(summary: Summary, sweep: Sweep) -> Axis:
    """The axis of a sweep, its ticks at the planned values."""
    return Axis(LABELS[sweep], tuple(planned(summary, sweep)), units.tokens)


def scaled(metric: str, cells: pd.DataFrame) -> Axis:
    """The axis of a metric, in the scale that suits these cells."""
    return Axis.scaled(METRICS[metric].title, METRICS[metric].unit, cells["value"])


def cells_of(summary: Summary, metric: str, sweep: Sweep) -> pd.DataFrame:
    """A metric's cells along a sweep, ascending, as a figure has them."""
    cells, size = where(summary.cells, {"metric": metric}), axes.COLUMN[sweep]
    cells = cells[axes.on_sweep(summary.points, cells, sweep)].sort_values(size, kind="stable")
    return as_data(cells, summary.processes, x=cells[size])


def as_data(cells: pd.DataFrame, processes: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """Cells with the columns of a figure, some given; in ``each`` the values of their processes."""
    timed = processes[~processes["metric"].isin(compare.MEMORY)]
    by_process = arrays(timed, ["model", "point", "metric"], "value")
    each: list[Sequence[float] | Floats] = []
    for row in records(cells):
        of_rate = _TIME_OF.get(row["metric"])
        values = by_process.get((row["model"], row["point"], of_rate or row["metric"]))
        if values is not None and of_rate:
            values = row["value"] * np.median(values) / values
        each.append(() if values is None else values)
    drawn = {"panel": cells["metric"], "series": cells["model"], "x": cells["seq_len"],
             "each": tuples(each, cells)}  # fmt: skip
    return cells.assign(**(drawn | columns))


def failed(statuses: pd.DataFrame) -> pd.DataFrame:
    """The cells that failed; their status has the share of blocks where some were ok."""
    rows = statuses[statuses["status"] != "ok"]
    shares = [
        f" {row['blocks'] - row['ok_blocks']}/{row['blocks']}" if row["ok_blocks"] else ""
        for row in records(rows)
    ]
    return rows.assign(status=rows["status"] + shares)


def failures(summary: Summary, sweep: Sweep, panels: Sequence[str]) -> pd.DataFrame:
    """The cells of a sweep that failed, ascending, in every panel."""
    rows = failed(summary.statuses[axes.on_sweep(summary.points, summary.statuses, sweep)])
    rows = rows.sort_values(axes.COLUMN[sweep], kind="stable")
    rows = rows.assign(series=rows["model"], x=rows[axes.COLUMN[sweep]])
    return pd.concat([rows.assign(panel=panel) for panel in panels])[FAILURES]
