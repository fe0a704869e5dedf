"""The tables of the kernels suite: times at a glance, every figure, ratios, crossovers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import stamp, units
from retbench.report.frames import Row, records
from retbench.report.layout import (
    Table,
    crossing,
    ending,
    heading,
    ratio_notes,
    scale_of,
    verdict,
)
from retbench.report.speed.kernels_frames import SETTING, Kernels, at

_EDGES = ("value", "low", "high")
# Metric, and whether its interval is printed.
_COLUMNS = (
    ("kernel_s", True), ("kernel_error", False), ("kernel_flop_per_s", False),
    ("kernel_bandwidth", False), ("kernel_share", False), ("kernel_peak_bytes", False),
    ("kernel_first_s", False),
)  # fmt: skip
_PRINTED = 5  # of them, on a page
_SHARED = "median over processes of their medians"


def tables(kernels: Kernels) -> tuple[Table, ...]:
    """Every table, in the order in which to read them."""
    return (times(kernels), ratios(kernels), crossovers(kernels), cells(kernels))


def named(setting: Mapping[str, Any], kernels: Kernels) -> str:
    """A setting in words; a batch size or type that all share is left to the conditions."""
    words = [f"{setting['direction']}, d_k {setting['head_dim']}"]
    if len(kernels.planned("dtype")) > 1:
        words.append(str(setting["dtype"]))
    if kernels.planned("batch_size") != [1]:
        words.append(f"batch {setting['batch_size']}")
    return ", ".join(words)


def times(kernels: Kernels) -> Table:
    """One row per setting and operation: the time at each context, or how the cell failed."""
    contexts = kernels.planned("seq_len")
    timed = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    scale = units.scale_for("s", timed["value"])
    found = {(row["model"], row["point"]): row["value"] for row in records(timed)}
    rows = []
    for setting in kernels.settings():
        here = {(r["model"], r["seq_len"]): r for r in records(at(kernels.statuses, setting))}
        for model in kernels.models:
            texts = [named(setting, kernels), model]
            for context in contexts:
                status = here.get((model, context))
                texts.append(_time(status, found, scale))
            rows.append(tuple(texts))
    header = ("Setting", "Operation", *(units.tokens(context) for context in contexts))
    return Table(
        "times", f"Time of a call over context ({scale.symbol})", header, tuple(rows),
        (False, False, *(True for _ in contexts)), (_SHARED,), _stamp(kernels),
        frame=timed, above=True, grouped=True, headline=True,
    )  # fmt: skip


def _time(status: Row | None, found: Mapping[Any, float], scale: units.Scale) -> str:
    if status is None:
        return "not run"
    if status["status"] != "ok":
        return str(status["status"]).replace("_", " ")
    return units.significant(found[status["model"], status["point"]] / scale.divisor)


def cells(kernels: Kernels) -> Table:
    """One row per point and operation: every figure, or how the cell failed and why."""
    found = {(r["model"], r["point"], r["metric"]): r for r in records(kernels.cells)}
    present = set(kernels.cells["metric"])
    shown = [(tag, edges) for tag, edges in _COLUMNS if tag in present]
    scales = {tag: scale_of(kernels.cells, tag) for tag, _ in shown}
    rows = []
    for status in records(kernels.statuses):
        texts = [named(status, kernels), units.tokens(status["seq_len"]), status["model"]]
        texts.append(ending(status))
        for tag, edges in shown:
            row = found.get((status["model"], status["point"], tag), {})
            value, low, high = (row.get(edge) for edge in _EDGES)
            limits = (low, high) if edges else (None, None)
            texts.append(units.with_interval(value, *limits, scales[tag].divisor))
        ok = status["status"] == "ok"
        rows.append((*texts, status["flags"] if ok else str(status["cause"] or "")))
    header = ["Setting", "Context", "Operation", "Status"]
    header += [heading(tag, scales[tag]) for tag, _ in shown]
    printed = (0, 1, 2, 3, *range(4, 4 + min(_PRINTED, len(shown))))
    keys = ["model", "point", *SETTING, "seq_len"]
    return Table(
        "cells", "Measurements", (*header, "Flags or cause"), tuple(rows),
        (False, True, False, False, *(True for _ in shown), False),
        (f"value [low, high]: {_SHARED}, with its 95% interval",), _stamp(kernels), printed,
        frame=kernels.statuses.merge(kernels.cells, on=keys, how="left", sort=False),
        grouped=True, warned=True, defines=True,
    )  # fmt: skip


def ratios(kernels: Kernels) -> Table:
    """The subject's time over each other operation's, with the verdict."""
    subject, *baselines = kernels.models
    rows = []
    for setting in kernels.settings():
        here = at(kernels.ratios, setting)
        for baseline in baselines:
            for row in records(here[here["baseline"] == baseline].sort_values("seq_len")):
                value = units.with_interval(*(row[edge] for edge in _EDGES))
                rows.append((
                    named(setting, kernels), baseline, units.tokens(row["seq_len"]),
                    str(row["n"]), value, verdict(row),
                ))  # fmt: skip
    return Table(
        "ratios", f"Ratios of times: {subject} / baseline",
        ("Setting", "Baseline", "Context", "Blocks", "Time", "Verdict"), tuple(rows),
        (False, False, True, True, True, False), ratio_notes(kernels.ratios, kernels.meta),
        _stamp(kernels),
        frame=kernels.ratios, above=True, grouped=True, warned=True,
    )  # fmt: skip


def crossovers(kernels: Kernels) -> Table:
    """From which context on the subject is faster or slower."""
    rows = []
    for row in records(kernels.crossovers):
        tried = f"{units.tokens(row['shortest'])} to {units.tokens(row['longest'])}"
        rows.append((named(row, kernels), row["baseline"], tried, crossover(row)))
    return Table(
        "crossover", f"Crossover of {kernels.models[0]}",
        ("Setting", "Baseline", "Contexts", "Crossover"), tuple(rows), (False,) * 4,
        ("the context at which the ratio crosses 1, interpolated on logarithms in each block",),
        _stamp(kernels), frame=kernels.crossovers, above=True, grouped=True,
    )  # fmt: skip


def crossover(row: Row) -> str:
    """A crossover in words."""
    return crossing(row | {"metric": "kernel_s", "direction": row["direction_beyond"]})


def _stamp(kernels: Kernels) -> tuple[str, ...]:
    return stamp.conditions(kernels.meta), stamp.noise_floor(kernels.meta)


def definitions(cells: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Title and definition of every metric that was measured or follows from one."""
    present = [tag for tag in METRICS if tag in set(cells["metric"])]
    return tuple((METRICS[tag].title, METRICS[tag].definition) for tag in present)
