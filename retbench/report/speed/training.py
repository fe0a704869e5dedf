"""The report of the training suite, from the same summary as that of inference.

A run of several processes has one table more, of what it gains by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from retbench.report import units
from retbench.report.axes import held, is_plain, settings
from retbench.report.content import Content, made
from retbench.report.efficiency import APART, is_unshared, processes_of
from retbench.report.frames import lookup, records
from retbench.report.speed import comparison, exponents, tables, training_figures
from retbench.report.speed.tables import FLAGS, STATUS
from retbench.report.summary import Summary
from retbench.report.tables import BATCH, CONTEXT, Column, Table, name, wide
from retbench.store import Run

# Metric, and its rank.
_COLUMNS = (
    ("step_s", 0), ("step_tokens_per_s", 1), ("process_tokens_per_s", 2), ("step_mfu", 2),
    ("step_matmul_share", 2), ("step_hfu", 3), ("step_hardware_share", 3),
    ("forward_s", 4), ("backward_s", 4), ("optimizer_s", 4), ("step_peak_bytes", 1),
    ("activations_bytes", 1), ("step_j", 3), ("idle_w", 6), ("weights_bytes", 5),
    ("gradients_bytes", 5), ("optimizer_bytes", 5),
)  # fmt: skip
_GROWING = ("step_s", "step_peak_bytes", "activations_bytes")
_COMPARED = (*_GROWING, "step_j")


def content(run: Run) -> Content:
    """All that the report says of a training run; the same samples give the same content."""
    summary = Summary(run)
    crossover_is = f"{comparison.CROSSOVER_IS}, at {held(summary.meta, 'context')}"
    shown = (
        comparison.ratios(
            summary, _of_steps(summary, summary.ratios), _COMPARED, _settings(summary)
        ),
        comparison.crossovers(summary, crossover_is), tables.batches(summary),
        exponents.table(summary, _GROWING), _processes(summary), _steps(summary), _loader(summary),
        tables.setup(summary),
    )  # fmt: skip
    return made(
        run, summary.models, shown, partial(training_figures.figures, summary),
        stamp=tables.stamped(summary.meta),
        findings=(*_gains(summary), *comparison.answers(summary, ("step_s", "activations_bytes"))),
        unsettled=comparison.unsettled(summary), warnings=summary.warnings,
    )  # fmt: skip


def _gains(summary: Summary) -> Iterator[str]:
    """What the subject gains by several processes."""
    for row in records(summary.efficiencies):
        if row["model"] == summary.models[0] and not row["note"]:
            gain = row["value"] * row["processes"]
            said = f"{units.significant(max(gain, 1 / gain))}x {'faster' if gain > 1 else 'slower'}"
            yield (
                f"{row['processes']} processes make a step of {row['model']} {said} than one: a "
                f"scaling efficiency of {_efficiency(row)}"
            )


def _settings(summary: Summary) -> Column:
    """How a point differs from the run's first mode and treatment of activations."""
    return replace(
        name("Settings", partial(settings, summary.points)),
        note="settings: what differs from the run's first mode and treatment of activations",
    )


def _of_steps(summary: Summary, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the run's steps; what has a table of its own is left out."""
    apart = {key for key, point in summary.points.items() if point.texts.keys() & APART}
    return table[~table["point"].isin(apart)]


def _steps(summary: Summary) -> Table:
    """One row per model and point: every figure, or how the cell failed, and its flags."""
    shown = tables.metrics(summary, _COLUMNS)
    notes = tables.cell_notes(summary.meta)
    if processes_of(summary.meta) > 1:
        notes.append("bytes: of one process, a peak the largest of all")
    columns = [name("Model", "model"), CONTEXT, BATCH, _settings(summary), STATUS, *shown, FLAGS]
    table = tables.cells(summary, columns, notes, "steps", "Training steps")
    rows = wide(_of_steps(summary, table.frame), ["model", "point"])
    return replace(table, rows=tables.in_order(rows, summary))


def _processes(summary: Summary) -> Table:
    """What each model gains by several processes at the base context: time, rates, efficiency."""
    cells = wide(summary.cells, ["model", "point"])
    by_place = {(row["model"], row["point"]): row for row in cells}
    alone = {(p.seq_len, p.batch_size): p.id for p in summary.points.values() if is_unshared(p)}
    rows = [
        row | by_place.get((row["model"], row["point"]), {})
        | {"one": by_place.get((row["model"], alone[row["seq_len"], row["batch_size"]]), {}),
           "efficiency": row}
        for row in records(summary.efficiencies)
    ]  # fmt: skip
    size = processes_of(summary.meta)
    step = tables.metric(summary.cells, "step_s", interval=True, rank=0)
    columns = [
        name("Model", "model"), CONTEXT, BATCH,
        replace(step, title="One", text=lambda row: step.cell(row["one"])),
        replace(step, title=f"All {size}"),
        tables.metric(summary.cells, "step_tokens_per_s"),
        tables.metric(summary.cells, "process_tokens_per_s"),
        Column("Efficiency", lambda row: _efficiency(row["efficiency"]), rank=0),
    ]  # fmt: skip
    notes = (
        f"{held(summary.meta, 'context')}, at {held(summary.meta, 'batch')}: as one process makes "
        "it, and as all do",
        f"efficiency: the time of one process over {size} times that of {size}, for the same "
        "batch, paired by block; 1 is ideal",
        "[low, high]: 95% interval",
    )
    parallel = summary.configuration.get("parallel")
    return Table(
        "processes", f"Gain by {size} processes ({parallel})", summary.efficiencies, columns,
        notes, rows, above=True, cited={"value": "efficiency"}, ids=("model", "point"),
    )  # fmt: skip


def _efficiency(row: dict[str, Any]) -> str:
    return row["note"] or units.with_interval(row["value"], row["low"], row["high"])


def _loader(summary: Summary) -> Table:
    """What the data loader takes, beside the step that waits for it."""
    cells = summary.cells
    of_steps = cells[(cells["metric"] == "step_s") & is_plain(summary.points, cells)]
    steps = lookup(of_steps, ["model", "seq_len", "batch_size"], "value")

    def share(row: dict[str, Any]) -> str:
        step_s = steps.get((row["model"], row["seq_len"], row["batch_size"]))
        return units.DASH if step_s is None else f"{row['value'] / step_s:.2%}"

    loaded = cells[cells["metric"] == "batch_s"]
    columns = [
        name("Model", "model"), CONTEXT, BATCH,
        tables.metric(cells, "batch_s", interval=True, rank=0), Column("Share of a step", share),
    ]  # fmt: skip
    return Table(
        "loader", "Data loader", loaded, columns,
        ("a loader that keeps ahead of the step costs it nothing: batches come from a thread",),
        wide(loaded, ["model", "point"]), cited={"value": ""}, ids=("metric", "model", "point"),
    )  # fmt: skip
