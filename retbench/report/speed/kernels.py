"""The report of the kernels suite: single operations, how fast and how near to what is possible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import compare, flags, stamp, units, warnings
from retbench.report.citations import entry, letters, ratio_entry, words
from retbench.report.content import Content
from retbench.report.frames import Row, groups, plain, records
from retbench.report.speed import kernels_figures as figures
from retbench.report.speed import kernels_frames as frames
from retbench.report.speed import kernels_tables as tables
from retbench.report.speed.kernels_frames import SETTING, Kernels, at

if TYPE_CHECKING:
    from retbench.store import Run

_EDGES = ("value", "low", "high")


def content(run: Run) -> Content:
    """All that the report says of a kernels run; the same samples give the same content."""
    kernels = frames.kernels(run)
    warned = tuple(_warnings(kernels))
    return Content(
        path=run.path,
        meta=run.meta,
        models=kernels.models,
        title=_title(kernels.models),
        tables=tables.tables(kernels),
        figures=figures.figures(kernels),
        warnings=warned,
        definitions=tables.definitions(kernels.cells),
        numbers=_numbers(kernels, warned),
        macros=tuple(_macros(kernels)),
        findings=tuple(_findings(kernels)),
    )


def _title(models: tuple[str, ...]) -> str:
    """The subject, and how many it is compared with: there may be too many to name."""
    subject, *others = models
    several = "operations" if len(others) > 1 else "operation"
    return f"kernels, {subject}" + (f" against {len(others)} other {several}" if others else "")


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


_FAILURE = ["model", "status", "cause"]


def _findings(kernels: Kernels) -> Iterator[str]:
    """Who is fastest in each setting, from which context on; a smoke run earns no claim (M2)."""
    if kernels.meta["configuration"]["profile"] == "smoke":
        return
    times = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    for setting in kernels.settings():
        here = at(times, setting)
        fastest: list[tuple[str, int]] = []
        for (context,), group in groups(here, ["seq_len"]):
            best = min(records(group), key=lambda row: float(row["value"]))["model"]
            if not fastest or fastest[-1][0] != best:
                fastest.append((str(best), int(context)))
        if fastest:
            yield f"{tables.named(setting, kernels)}: {_succession(fastest)}"


def _succession(fastest: list[tuple[str, int]]) -> str:
    """Who is fastest, then who, in words."""
    (first, shortest), *later = fastest
    if not later:
        return f"{first} has the lowest median time at every context"
    then = ", ".join(f"{name} from {units.tokens(context)} on" for name, context in later)
    return f"{first} has the lowest median time at {units.tokens(shortest)} tokens, {then}"


def _numbers(kernels: Kernels, warned: tuple[str, ...]) -> dict[str, Any]:
    """The content of ``numbers.json``, unrounded."""
    cells: dict[str, Any] = {}
    for row in records(kernels.cells):
        own = cells.setdefault(row["model"], {}).setdefault(row["point"], {})
        own[row["metric"]] = entry(row, row["unit"])
    ratios: dict[str, Any] = {}
    for row in records(kernels.ratios):
        own = ratios.setdefault(row["baseline"], {})
        own[row["point"]] = ratio_entry(row)
    crossovers = [
        {name: row[name] for name in (*SETTING, "baseline", "status")}
        | entry(row, "tokens")
        | plain(row, "direction_beyond")
        | {"reason": row["reason"] or None}
        for row in records(kernels.crossovers)
    ]
    return {
        "conditions": stamp.conditions(kernels.meta),
        "profile": kernels.meta["configuration"]["profile"],
        "noise_floor": compare.floors(kernels.meta) or None,
        "margin": compare.margin(kernels.meta),
        "subject": kernels.models[0],
        "cells": cells,
        "ratios": ratios,
        "crossovers": crossovers,
        "failures": [
            {key: row[key] for key in ("model", "point", "status", "cause")}
            for row in records(kernels.statuses[kernels.statuses["status"] != "ok"])
        ],
        "warnings": list(warned),
        "definitions": {
            tag: METRICS[tag].definition for tag in dict.fromkeys(kernels.cells["metric"])
        },
    }


def _macros(kernels: Kernels) -> Iterator[tuple[str, str]]:
    """Macros of every time and every ratio: name without backslash, text."""
    times = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    for row in records(times):
        scale = units.scale_for("s", [row["value"]])
        symbol = scale.symbol.replace("µ", r"\ensuremath{\mu}")
        name = f"RetbenchKernel{letters(row['model'])}{_at(row)}"
        yield name, f"{units.significant(row['value'] / scale.divisor)}\\,{symbol}"
    for row in records(kernels.ratios[pd.notna(kernels.ratios["value"])]):
        name = f"RetbenchKernelRatio{letters(row['baseline'])}{_at(row)}"
        yield name, units.with_interval(*(row[edge] for edge in _EDGES))
        yield f"{name}Verdict", str(row["verdict"])


def _at(row: Row) -> str:
    return (
        f"{letters(row['direction'])}Head{words(int(row['head_dim']))}{letters(row['dtype'])}"
        f"Context{words(int(row['seq_len']))}Batch{words(int(row['batch_size']))}"
    )
