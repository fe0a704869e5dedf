"""The report of the kernels suite: single operations, how fast and how near to what is possible."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from retbench.report import flags, units, warnings
from retbench.report.content import Content, definitions, filled, title_of
from retbench.report.frames import Row, groups, records
from retbench.report.glossary import CENTRE
from retbench.report.speed import kernels_figures as figures
from retbench.report.speed import kernels_frames as frames
from retbench.report.speed import tables
from retbench.report.speed.answers import still_open
from retbench.report.speed.kernels_frames import SETTING, Kernels, at
from retbench.report.speed.tables import CONTEXT, STATUS
from retbench.report.tables import Column, Table, name, wide

if TYPE_CHECKING:
    from retbench.store import Run

# Metric, and its rank.
_COLUMNS = (
    ("kernel_s", 0), ("kernel_error", 2), ("kernel_flop_per_s", 2), ("kernel_bandwidth", 3),
    ("kernel_share", 1), ("kernel_peak_bytes", 1), ("kernel_first_s", 4),
)  # fmt: skip
_IDS = ("metric", "subject", "baseline", "point")
_FAILURE = ["model", "status", "cause"]


def content(run: Run) -> Content:
    """All that the report says of a kernels run; the same samples give the same content."""
    kernels = frames.kernels(run)
    tables_ = filled(_times(kernels), _ratios(kernels), _crossovers(kernels), _cells(kernels))
    return Content(
        path=run.path,
        meta=run.meta,
        title=title_of(run.meta, kernels.models),
        stamp=tables.stamped(run.meta),
        findings=tuple(_findings(kernels)),
        unsettled=still_open(kernels.ratios, kernels.meta),
        tables=tables_,
        figures=partial(figures.figures, kernels),
        warnings=tuple(_warnings(kernels)),
        definitions=definitions(tables_),
    )


def _warnings(kernels: Kernels) -> Iterator[str]:
    yield from warnings.claims(kernels.meta, "process")
    yield from warnings.audited(kernels.meta)
    yield from warnings.few_blocks(kernels.ratios)
    yield from flags.varying_memory(kernels.cells)
    yield from flags.flagged(kernels.statuses)
    failed = kernels.statuses[kernels.statuses["status"] != "ok"]
    for (model, status, cause), group in groups(failed.fillna({"cause": ""}), _FAILURE):
        points = group["point"].tolist()
        planned = (kernels.statuses["model"] == model).sum()
        where = f"all {planned} points" if len(points) == planned else f"{len(points)} points"
        first = f", the first {points[0]}" if len(points) < planned else ""
        yield f"{model} {status} at {where}{first}" + (f": {cause}" if cause else "")
    yield from warnings.recorded(kernels.meta)


def _setting(kernels: Kernels) -> Column:
    """A setting in words; a batch size or type that all share is left to the conditions."""

    def text(row: Row) -> str:
        words = [f"{row['direction']}, d_k {row['head_dim']}"]
        if len(kernels.planned("dtype")) > 1:
            words.append(str(row["dtype"]))
        if kernels.planned("batch_size") != [1]:
            words.append(f"batch {row['batch_size']}")
        return ", ".join(words)

    return Column("Setting", text, rank=0, style="name")


def _times(kernels: Kernels) -> Table:
    """One row per setting and operation: the time at each context, or how the cell failed."""
    timed = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    scale = units.scale_for("s", timed["value"])
    seconds = {(row["model"], row["point"]): row["value"] for row in records(timed)}
    ended = {
        tuple(row[key] for key in (*SETTING, "model", "seq_len")): row
        for row in records(kernels.statuses)
    }

    def time(row: Row, context: int) -> str:
        status = ended.get((*(row[key] for key in SETTING), row["model"], context))
        if status is None:
            return "not run"
        if status["status"] != "ok":
            return str(status["status"]).replace("_", " ")
        return units.significant(seconds[status["model"], status["point"]] / scale.divisor)

    columns = [
        Column(units.tokens(n), partial(time, context=n)) for n in kernels.planned("seq_len")
    ]
    return Table(
        "times", f"Time of a call over context ({scale.symbol})", timed,
        [_setting(kernels), name("Operation", "model"), *columns], (CENTRE,),
        [setting | {"model": model} for setting in kernels.settings() for model in kernels.models],
        grouped=True, above=True, cited={"value": ""}, ids=("metric", "model", "point"),
    )  # fmt: skip


def _cells(kernels: Kernels) -> Table:
    """One row per point and operation: every figure, or how the cell failed and why."""
    present = set(kernels.cells["metric"])
    shown = (
        tables.metric(kernels.cells, tag, interval=tag == "kernel_s", rank=rank)
        for tag, rank in _COLUMNS
        if tag in present
    )
    why = Column(
        "Flags or cause", lambda row: row["flags"] if row["status"] == "ok" else row["cause"] or "",
        rank=9, style="sentence",
    )  # fmt: skip
    frame = tables.cells_with_status(
        kernels.statuses, kernels.cells, ["model", "point", *SETTING, "seq_len"]
    )
    columns = [_setting(kernels), CONTEXT, name("Operation", "model"), STATUS, *shown, why]
    return Table(
        "cells", "Measurements", frame, columns,
        (f"value [low, high]: {CENTRE}, with its 95% interval",),
        wide(frame, ["model", "point"]), grouped=True, cited={"value": ""},
        ids=("metric", "model", "point"),
    )  # fmt: skip


def _in_order(kernels: Kernels, frame: pd.DataFrame) -> list[Row]:
    """The rows of a comparison by setting and baseline."""
    return [
        row
        for setting in kernels.settings()
        for baseline in kernels.models[1:]
        for row in records(at(frame[frame["baseline"] == baseline], setting))
    ]


def _ratios(kernels: Kernels) -> Table:
    """The subject's time over each other operation's, with the verdict."""
    columns = [
        _setting(kernels), name("Baseline", "baseline"), CONTEXT, Column("Blocks", "n", rank=3),
        Column("Time", lambda row: units.ratio(row["value"], row["low"], row["high"]),
               rank=0, metric="kernel_s"),
        Column("Verdict", units.verdict, rank=0, style="verdict", note=tables.SETTLED),
    ]  # fmt: skip
    rows = _in_order(kernels, kernels.ratios.sort_values("seq_len", kind="stable"))
    return Table(
        "ratios", f"Ratios of times: {kernels.models[0]} / baseline", kernels.ratios, columns,
        tables.ratio_notes(kernels.ratios, kernels.meta), rows, grouped=True, above=True,
        cited={"value": ""}, ids=_IDS,
    )  # fmt: skip


def _crossovers(kernels: Kernels) -> Table:
    """From which context on the subject is faster or slower."""
    columns = [_setting(kernels), name("Baseline", "baseline"), *tables.CROSSING_COLUMNS]
    return Table(
        "crossover", f"Crossover of {kernels.models[0]}", tables.claimed(kernels.crossovers),
        columns,
        (tables.CROSSOVER_IS,), grouped=True, above=True, cited={"value": "crossover"},
        ids=("baseline", *SETTING),
    )  # fmt: skip


def _findings(kernels: Kernels) -> Iterator[str]:
    """Who is fastest in each setting, from which context on; a smoke run earns no claim (M2)."""
    if kernels.meta["configuration"]["profile"] == "smoke":
        return
    times = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    for setting in kernels.settings():
        fastest: list[tuple[str, int]] = []
        for (context,), group in groups(at(times, setting), ["seq_len"]):
            best = min(records(group), key=lambda row: float(row["value"]))["model"]
            if not fastest or fastest[-1][0] != best:
                fastest.append((str(best), int(context)))
        if fastest:
            yield f"{_setting(kernels).cell(setting)}: {_succession(fastest)}"


def _succession(fastest: list[tuple[str, int]]) -> str:
    """Who is fastest, then who, in words."""
    (first, shortest), *later = fastest
    if not later:
        return f"lowest median time: {first} at every context"
    then = ", ".join(f"{name} from {units.tokens(context)} on" for name, context in later)
    return f"lowest median time: {first} from {units.tokens(shortest)} tokens on, {then}"
