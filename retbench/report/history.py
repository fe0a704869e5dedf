"""One metric over the runs of one suite in the order of their time, with every step that it took.

A step is what :mod:`retbench.report.change` says of a run against the last one before it that has
the cell, on the same machine and in the same configuration; between others there is no verdict. A
cell that failed in a run has a row there that says how.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, pairwise

import pandas as pd

from retbench.config.values import nearest
from retbench.errors import UserError
from retbench.metrics import METRICS, compared
from retbench.report import change, units
from retbench.report.frames import EDGES, Row, lookup, records
from retbench.report.summary import Summary
from retbench.report.tables import Column, Table, name
from retbench.store import Run, folder_name

NOTES = (
    "step: the run over the last one before it that has the cell, above 1 slower or larger; the "
    "verdicts of times of two runs hold together (Holm)",
    "no verdict between runs that differ in machine, environment, configuration or models",
)
_INCOMPARABLE = ("hardware", "environment", "configuration", "models")
_CELL = ["metric", "model", "point"]
_Key = tuple[str, str, str]


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
    for pair in pairwise(ordered):
        change.require_one_suite(*pair)
    found = [Summary(run) for run in ordered]
    values = [lookup(each.measured, _CELL, "value") for each in found]
    shared = {key[0] for key, count in Counter(chain(*values)).items() if count > 1}
    known = [tag for tag in compared() if tag in shared]
    if not known:
        raise UserError("no two of the runs have a cell in common", "name others")
    wanted = metric or known[0]
    if wanted not in known:
        raise UserError(
            f"no two of the runs have {wanted!r}", nearest(wanted, known) or f"name {known[0]}"
        )
    frame = pd.DataFrame(list(_rows(found, values, wanted)))
    title = f"{METRICS[wanted].title} over {len(ordered)} runs"
    notes = (*NOTES, *_other_versions(ordered))
    return Table("history", title, frame, _COLUMNS, notes, grouped=True)


def _rows(
    found: Sequence[Summary], values: Sequence[Mapping[_Key, float]], metric: str
) -> Iterator[Row]:
    """For each cell that a run has, how it went in every run that tried it: measured, or failed."""
    tried = [{(row["model"], row["point"]): row for row in records(s.statuses)} for s in found]
    steps = cache(lambda before, after: _steps(found[before], found[after]))
    for cell in dict.fromkeys(place for own in tried for place in own):
        key = (metric, cell[0], cell[1])
        if not any(key in own for own in values):
            continue
        last: int | None = None
        for i in (i for i, own in enumerate(tried) if cell in own):
            ended = tried[i][cell]
            row = _row(found[i].run, ended, metric)
            if key in values[i]:
                row["measured"] = values[i][key]
                row |= {} if last is None else steps(last, i).get(key, {})
                last = i
            else:
                failed = ended["status"] != "ok"
                row["verdict"] = units.ending(ended) if failed else "not measured"
            yield row


def _steps(before: Summary, after: Summary) -> dict[_Key, Row]:
    """The ratio and the verdict of each metric and cell that two runs have."""
    differing = change.differing(before.meta, after.meta)
    apart = next((kind for kind in _INCOMPARABLE if kind in differing), "")
    other = f"another {'machine' if apart == 'hardware' else apart}" if apart else ""
    return {
        (row["metric"], row["model"], row["point"]): {
            **{edge: row[edge] for edge in EDGES},
            "verdict": other or row["note"] or row["verdict"],
        }
        for row in change.judged(before, after)
        if row["metric"]
    }


def _other_versions(ordered: Sequence[Run]) -> Iterator[str]:
    """Which versions are others than in the run before: a difference may be theirs."""
    for before, after in pairwise(ordered):
        if lines := change.differing(before.meta, after.meta).get("versions"):
            yield f"{folder_name(after.path)} has other versions: {'; '.join(lines)}"


def _row(run: Run, place: Row, metric: str) -> Row:
    commit = run.meta["provenance"].get("commit")
    code = (commit["hash"] or "")[:7] if commit else ""
    return {
        "metric": metric,
        **{key: place[key] for key in ("model", "point", "seq_len", "batch_size")},
        "unit": METRICS[metric].unit, "run": folder_name(run.path),
        "started": str(run.meta["started"]), "commit": code,
        "measured": math.nan, **dict.fromkeys(EDGES, math.nan), "verdict": "",
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
