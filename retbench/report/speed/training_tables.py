"""The tables of the training suite: steps, their ratios, the crossover, the loader, the start.

A run of several processes has one more, of what it gains by them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from retbench.config.plan import Point
from retbench.report import compare, layout, units
from retbench.report.axes import held
from retbench.report.efficiency import is_unshared, processes_of
from retbench.report.frames import groups, records
from retbench.report.layout import Table
from retbench.report.summary import Summary, metric_of

_INTERVAL = ("value", "low", "high")
_PLAIN = units.Scale("", 1.0)
# Metric, and what of it is printed.
_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("step_s", _INTERVAL), ("step_tokens_per_s", ("value",)),
    ("process_tokens_per_s", ("value",)), ("step_mfu", ("value",)),
    ("forward_s", ("value",)), ("backward_s", ("value",)), ("optimizer_s", ("value",)),
    ("step_peak_bytes", ("value",)), ("activations_bytes", ("value",)),
    ("weights_bytes", ("value",)), ("gradients_bytes", ("value",)),
    ("optimizer_bytes", ("value",)),
)  # fmt: skip
_IN_PRINT = ("step_s", "step_tokens_per_s", "step_mfu", "step_peak_bytes", "activations_bytes")
_COMPARED = ("step_s", "step_peak_bytes", "activations_bytes")
APART = {"part", "processes"}  # settings of points that are no way to make the run's steps
_SETUP = ("cold_start_s", "import_s", "build_s", "gate_s", "gate_error")


def tables(summary: Summary) -> tuple[Table, ...]:
    """Every table of a report, in the order in which to read them."""
    return (
        _ratios(summary),
        _crossover(summary),
        replace(layout.batches(summary), frame=summary.batches, above=True),
        *(() if summary.efficiencies.empty else (_processes(summary),)),
        _steps(summary),
        _loader(summary),
        replace(layout.setup(summary), frame=summary.setup),
    )


def shown_metrics(summary: Summary) -> list[str]:
    """The metrics that the tables show."""
    present = set(summary.cells["metric"]) | set(summary.setup["metric"])
    tags = dict.fromkeys((*(tag for tag, _ in _COLUMNS), "batch_s", *_SETUP))
    return [tag for tag in tags if tag in present]


def settings(point: Point) -> str:
    """How a point differs from the run's first mode and treatment of activations."""
    return ", ".join(point.texts.values()) or units.DASH


def _of_steps(summary: Summary, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the run's steps; what has a table of its own is left out."""
    apart = {key for key, point in summary.points.items() if point.texts.keys() & APART}
    return table[~table["point"].isin(apart)]


def _steps(summary: Summary) -> Table:
    """One row per model and point: every figure, or how the cell failed, and its flags."""
    statuses = _of_steps(summary, summary.statuses)
    found = {(row["model"], row["point"], row["metric"]): row for row in records(summary.cells)}
    present = set(summary.cells["metric"])
    shown = [(tag, keys) for tag, keys in _COLUMNS if tag in present]
    scales = {tag: layout.scale_of(summary.cells, tag) for tag, _ in shown}
    rows = []
    for row in records(statuses):
        texts = [*_place(row, "model"), settings(summary.points[row["point"]]), layout.ending(row)]
        for tag, keys in shown:
            figures = found.get((row["model"], row["point"], tag), {})
            texts.append(layout.printed([figures.get(key) for key in keys], scales[tag]))
        rows.append((*texts, row["flags"]))
    columns = [layout.heading(tag, scales[tag]) for tag, _ in shown]
    in_print = [i for i, (tag, _) in enumerate(shown, 5) if tag in _IN_PRINT]
    cell = ["model", "seq_len", "batch_size", "point"]
    several = processes_of(summary.meta) > 1
    notes = (
        "value [low, high]: median over processes of their medians, with its 95% interval; peak: "
        "the largest over processes",
        "settings: what differs from the run's first mode and treatment of activations",
        *(("bytes: of one process, a peak the largest of all",) if several else ()),
    )
    return Table(
        "steps", "Training steps",
        ("Model", "Context", "Batch", "Settings", "Status", *columns, "Flags"), tuple(rows),
        (False, True, True, False, False, *(True for _ in shown), False), notes,
        layout.stamped(summary), (0, 1, 2, 3, 4, *in_print),
        frame=summary.statuses.merge(summary.cells, on=cell, how="left", sort=False),
        grouped=True, warned=True, defines=True,
    )  # fmt: skip


def _place(row: dict[str, Any], name: str) -> list[str]:
    return [row[name], units.tokens(row["seq_len"]), str(row["batch_size"])]


def _ratios(summary: Summary) -> Table:
    """The subject over each baseline: one row per baseline and point."""
    compared = _of_steps(summary, summary.ratios)
    measured = [tag for tag in _COMPARED if tag in set(compared["metric"])]
    place = {model: index for index, model in enumerate(summary.models)}
    by_point = sorted(
        groups(compared, ["baseline", "batch_size", "seq_len", "point"]),
        key=lambda item: (place[item[0][0]], bool(summary.points[item[0][3]].settings), item[0][2]),
    )
    rows = []
    for _, group in by_point:
        by_metric = {row["metric"]: row for row in records(group)}
        first = by_metric[measured[0]]
        texts = [
            *_place(first, "baseline"),
            settings(summary.points[first["point"]]),
            str(first["n"]),
        ]
        for tag in measured:
            row = by_metric[tag]
            timed = tag in compare.TIMES
            edges = (row["low"], row["high"]) if timed else (None, None)
            texts.append(layout.printed((row["value"], *edges), units.Scale("", 1.0)))
            if timed:
                texts.append(layout.verdict(row))
        rows.append(tuple(texts))
    header = ["Baseline", "Context", "Batch", "Settings", "Blocks"]
    numeric = [False, True, True, False, True]
    for tag in measured:
        header += [metric_of(tag).title, *(["Verdict"] if tag in compare.TIMES else [])]
        numeric += [True, *([False] if tag in compare.TIMES else [])]
    return Table(
        "ratios", f"Ratios: {summary.models[0]} / baseline", tuple(header), tuple(rows),
        tuple(numeric), layout.ratio_notes(compared, summary.meta), layout.stamped(summary),
        frame=compared, above=True, grouped=True,
        headline=True, warned=True,
    )  # fmt: skip


def _crossover(summary: Summary) -> Table:
    """From which context on the subject wins or loses, at the same tokens a step."""
    rows = [
        (metric_of(row["metric"]).title, row["baseline"],
         f"{units.tokens(row['shortest'])} to {units.tokens(row['longest'])}",
         layout.crossing(row))
        for row in records(summary.crossovers)
    ]  # fmt: skip
    notes = (
        f"the context at which the ratio crosses 1 at {held(summary.meta, 'context')}, "
        "interpolated on logarithms in each block",
    )
    return Table(
        "crossover", f"Crossover of {summary.models[0]}",
        ("Metric", "Baseline", "Contexts", "Crossover"), tuple(rows), (False,) * 4, notes,
        layout.stamped(summary), frame=summary.crossovers, above=True,
    )  # fmt: skip


def _processes(summary: Summary) -> Table:
    """What each model gains by several processes at the base context: time, rates, efficiency."""
    cells = summary.cells
    found = {(row["model"], row["point"], row["metric"]): row for row in records(cells)}
    scale = layout.scale_of(cells, "step_s")
    alone = {(p.seq_len, p.batch_size): p.id for p in summary.points.values() if is_unshared(p)}
    rows = []
    for row in records(summary.efficiencies):
        model, point = row["model"], row["point"]

        def text(tag: str, at: str, scale: units.Scale = _PLAIN, model: str = model) -> str:
            figures = found.get((model, at, tag), {})
            keys = _INTERVAL if tag == "step_s" else ("value",)
            return layout.printed([figures.get(key) for key in keys], scale)

        rows.append((
            *_place(row, "model"), text("step_s", alone[row["seq_len"], row["batch_size"]], scale),
            text("step_s", point, scale), text("step_tokens_per_s", point),
            text("process_tokens_per_s", point),
            row["note"] or layout.printed([row[key] for key in _INTERVAL], _PLAIN),
        ))  # fmt: skip
    size = processes_of(summary.meta)
    header = (
        "Model", "Context", "Batch", f"One ({scale.symbol})", f"All {size} ({scale.symbol})",
        "Tokens/s", "Tokens/s each", "Efficiency",
    )  # fmt: skip
    notes = (
        f"{held(summary.meta, 'context')}, at {held(summary.meta, 'batch')}: as one process makes "
        "it, and as all do",
        f"efficiency: the time of one process over {size} times that of {size}, for the same "
        "batch, paired by block; 1 is ideal",
        "[low, high]: 95% interval",
    )
    return Table(
        "processes", f"Gain by {size} processes ({summary.configuration['parallel']})", header,
        tuple(rows), (False, *(True for _ in header[1:])), notes, layout.stamped(summary),
        (0, *range(3, len(header))), frame=summary.efficiencies, above=True, headline=True,
    )  # fmt: skip


def _loader(summary: Summary) -> Table:
    """What the data loader takes, beside the step that waits for it."""
    cells = summary.cells
    loaded = cells[cells["metric"] == "batch_s"]
    steps = {
        (row["model"], row["seq_len"], row["batch_size"]): row["value"]
        for row in records(cells[cells["metric"] == "step_s"])
        if not summary.points[row["point"]].settings
    }
    scale = layout.scale_of(cells, "batch_s")
    rows = []
    for row in records(loaded):
        step_s = steps.get((row["model"], row["seq_len"], row["batch_size"]))
        share = units.DASH if step_s is None else f"{row['value'] / step_s:.2%}"
        time = layout.printed([row[key] for key in _INTERVAL], scale)
        rows.append((*_place(row, "model"), time, share))
    notes = ("a loader that keeps ahead of the step costs it nothing: batches come from a thread",)
    return Table(
        "loader", "Data loader",
        ("Model", "Context", "Batch", layout.heading("batch_s", scale), "Share of a step"),
        tuple(rows), (False, True, True, True, True), notes, layout.stamped(summary), frame=loaded,
    )  # fmt: skip
