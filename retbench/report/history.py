"""One metric over the runs of one suite in the order of their time, with every step that it took.

A step is what :mod:`retbench.report.change` says of a run against the one before it, on the same
machine and in the same configuration; between others there is no verdict. A cell that failed in a
run has no row there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from retbench.config.values import nearest
from retbench.errors import UserError
from retbench.metrics import METRICS
from retbench.report import change, units
from retbench.report.frames import EDGES, Row, records
from retbench.report.tables import Column, Table, name
from retbench.store import Run, folder_name

NOTES = (
    "step: the run over the one before it, above 1 slower or larger; the verdicts of times of two "
    "neighbours hold together (Holm)",
    "no verdict between runs that differ in machine, configuration or models",
)
_INCOMPARABLE = ("hardware", "configuration", "models")
_CELL = ["metric", "model", "point"]


def history(runs: Sequence[Run], metric: str | None = None) -> Table:
    """The table of a metric's course, a row a cell and run.

    Args:
        runs: of one suite, in any order.
        metric: its tag; what models are compared by first, where None.

    Raises:
        UserError: fewer than two runs, of several suites, or without that metric.
    """
    if len(runs) < 2:
        raise UserError("a history needs two runs or more", "name their folders")
    ordered = sorted(runs, key=lambda run: str(run.meta["started"]))
    steps = [change.between(*pair) for pair in pairwise(ordered)]
    frame = pd.DataFrame(list(_rows(ordered, steps)))
    if frame.empty:
        raise UserError("no two neighbours among the runs have a cell in common", "name others")
    known = list(dict.fromkeys(frame["metric"]))
    wanted = metric or known[0]
    if wanted not in known:
        raise UserError(
            f"no two of the runs have {wanted!r}", nearest(wanted, known) or f"name {known[0]}"
        )
    own = frame[frame["metric"] == wanted]
    place = own.groupby(["model", "point"], sort=False).ngroup()
    own = own.assign(place=place).sort_values(["place", "started"], kind="stable")
    title = f"{METRICS[wanted].title} over {len(ordered)} runs"
    return Table("history", title, own.drop(columns="place"), _COLUMNS, NOTES, grouped=True)


def _rows(ordered: Sequence[Run], steps: Sequence[change.Change]) -> Iterator[Row]:
    """What each step says of its second run, and of its first one where none came before."""
    seen: set[tuple[Any, ...]] = set()
    for (before, after), step in zip(pairwise(ordered), steps, strict=True):
        apart = next((kind for kind in _INCOMPARABLE if kind in step.differing), None)
        for row in records(step.table.frame):
            if not row["metric"]:
                continue
            cell = tuple(row[key] for key in _CELL)
            if (before.path, cell) not in seen:  # the first, or the first after a gap
                yield _row(before, row, row["before"])
            seen.add((after.path, cell))
            verdict = row["note"] or row["verdict"]
            if apart is not None:
                verdict = f"another {'machine' if apart == 'hardware' else apart}"
            ratio = {key: row[key] for key in EDGES}
            yield _row(after, row, row["after"]) | ratio | {"verdict": verdict}


def _row(run: Run, cell: Row, measured: float) -> Row:
    commit = run.meta["provenance"].get("commit")
    code = (commit["hash"] or "")[:7] if commit else ""
    return {
        **{key: cell[key] for key in (*_CELL, "seq_len", "batch_size", "unit")},
        "run": folder_name(run.path), "started": str(run.meta["started"]), "commit": code,
        "measured": measured, **dict.fromkeys(EDGES, math.nan), "verdict": "",
    }  # fmt: skip


_COLUMNS = (
    name("Cell", lambda row: f"{row['model']}, {row['point']}"),
    name("Run", "run"),
    Column("Begun", lambda row: row["started"][:16].replace("T", " "), rank=1, style="name"),
    Column("Commit", "commit", rank=2, style="name"),
    Column("Measured", lambda row: units.scaled(row["measured"], row["unit"]), rank=0),
    Column("Step", units.ratio_of, rank=0),
    Column("Verdict", "verdict", rank=0, style="verdict"),
)
