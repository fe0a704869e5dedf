"""Two runs of one suite, cell by cell: what changed from the one to the other, and what differs.

A ratio is after / before, of times over the blocks of both runs, which are not paired
(:mod:`retbench.stats.unpaired`); of memory the largest over processes, with the range that the
blocks allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retbench.errors import UserError
from retbench.metrics import METRICS, compared
from retbench.report import axes, compare, export, terms, units, warnings
from retbench.report.frames import Floats, Row, arrays, lookup, records
from retbench.report.summary import Summary
from retbench.report.tables import BATCH, CONTEXT, Column, Table, name
from retbench.stats import unpaired
from retbench.store import Run

REGRESSIONS = ("slower", "larger", "failed")
COLUMNS = [
    "metric", "model", "seq_len", "batch_size", "point", "unit", "before", "after", "value", "low",
    "high", "n_before", "n_after", "confidence", "verdict", "note",
]  # fmt: skip
NOTES = (
    "ratio = after / before; above 1 the second run is slower, or needs more memory",
    "[low, high]: of times Welch's interval over the blocks of both runs, of memory the range over "
    "them; the verdicts of times hold together (Holm)",
    "the blocks of a run share its hour: what other programs did meanwhile shows as a difference",
)
_NAN = float("nan")
_GONE = "not in the second run"
_CELL = ["metric", "model", "point"]
# Where run.json says it; what is another at every moment of a machine is left out, what says where
# and not how fast something computes, and how threads wait, which is a word of its own.
_SAID = {
    "hardware": ("processor", "gpu", "memory.total_bytes", "memory.limit_bytes", "machine_id"),
    "versions": ("python", "system", "versions", "wait_policy"),
    "environment": ("environment",),
    "commit": ("commit",),
}
_PASSING = (
    "temperature.gpu", "clocks.sm", "clocks.mem", "_VISIBLE_DEVICES", "_CACHE_DIR",
    "GOMP_SPINCOUNT", "KMP_BLOCKTIME",
)  # fmt: skip

_Cells = dict[tuple[str, str, str], Floats]


@dataclass(frozen=True)
class Change:
    """What two runs say together.

    Attributes:
        before: the first run's directory.
        after: the second's.
        differing: what is another in the second run, by kind of thing, a line each.
        warnings: what a reader must know before believing the ratios, a line each.
        table: one row per metric and cell that both runs have, and per cell that is lost.
    """

    before: Path
    after: Path
    differing: Mapping[str, list[str]]
    warnings: tuple[str, ...]
    table: Table

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each verdict."""
        return dict(self.table.frame["verdict"].value_counts(sort=False))

    def to_json(self) -> dict[str, Any]:
        """All of it, every digit."""
        return {
            "before": str(self.before), "after": str(self.after), "differing": self.differing,
            "warnings": self.warnings, "rows": records(self.table.frame),
        }  # fmt: skip


def between(before: Run, after: Run, margin: float | None = None) -> Change:
    """Compare two runs.

    Args:
        before: the run that counts as 1.
        after: the run that is judged.
        margin: relative difference that matters; by default the larger of those of the runs.

    Raises:
        UserError: they are of different suites, or have no time or memory in common.
    """
    require_one_suite(before, after)
    rows = judged(Summary(before), Summary(after), margin)
    if all(row["note"] == _GONE for row in rows):
        raise UserError(
            f"{before.path} and {after.path} have no cell with a time or memory in common",
            "compare runs of the same models and points",
        )
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return Change(
        before.path, after.path, differing(before.meta, after.meta),
        tuple(_warnings(before, after)), _table(frame, before, after),
    )  # fmt: skip


def require_one_suite(before: Run, after: Run) -> None:
    """Two runs can be compared only where they are of one suite.

    Raises:
        UserError: they are not.
    """
    suites = before.meta["suite"], after.meta["suite"]
    if len(set(suites)) > 1:
        raise UserError(f"{before.path} is of the suite {suites[0]}, {after.path} of {suites[1]}")


def said(found: Change) -> list[str]:
    """What differs, what to know, and how many rows have each verdict, a line each."""
    lines = [f"{kind}: {line}" for kind, own in found.differing.items() for line in own]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    return [
        *(lines or ["nothing differs in hardware, versions, commit, configuration and models"]),
        *(f"warning: {line}" for line in found.warnings),
        f"{len(found.table.frame)} rows: {counts}",
    ]


def markdown(found: Change) -> str:
    """The whole as Markdown."""
    head = [f"# {found.after} against {found.before}", "", *(f"- {line}" for line in said(found))]
    return "\n".join([*head, "", export.markdown(found.table, ())]).rstrip()


def judged(before: Summary, after: Summary, margin: float | None = None) -> list[Row]:
    """A row for each metric and cell that both runs have, then one for each cell that is lost.

    Lost is one that fails more often in the second run, or that it has not tried.

    Args:
        before: what the run says that counts as 1.
        after: what the run says that is judged.
        margin: as :func:`between` has it.
    """
    metas = before.meta, after.meta
    margin = margin or max(map(terms.margin, metas))
    old, new = _by_cell(before), _by_cell(after)
    centres = [lookup(side.measured, _CELL, "value") for side in (before, after)]
    places = {(row["model"], row["point"]): row for row in records(after.statuses)}
    rows = {
        key: _row(places[key[1:]], key[0]) | {
            "before": centres[0][key], "after": centres[1][key],
            "n_before": len(old[key]), "n_after": len(new[key]),
        }
        for key in new if key in old
    }  # fmt: skip
    alone = [  # the cells of which some process took no turns
        {(row["model"], row["point"]) for row in records(side.statuses)
         if compare.ALONE in row["flags"]}
        for side in (before, after)
    ]  # fmt: skip
    timed = []
    for key, row in rows.items():
        if METRICS[key[0]].kind != "time":
            edges = np.array([new[key].min() / old[key].max(), new[key].max() / old[key].min()])
            row |= compare.memory_verdict(row["after"] / row["before"], edges, margin)
        elif len({key[1:] in cells for cells in alone}) > 1:
            row["note"] = f"{compare.ALONE} in one run"
        else:
            timed.append(key)
    found = unpaired.judge(
        [(np.log(old[key]), np.log(new[key])) for key in timed],
        margin,
        [max(terms.floors(meta).get(metric, 0.0) for meta in metas) for metric, *_ in timed],
    )
    no_claim = {"verdict": compare.NO_CLAIM} if any(map(terms.is_smoke, metas)) else {}
    for key, one in zip(timed, found, strict=True):
        rows[key] |= asdict(one) | no_claim
    return [*rows.values(), *_lost(records(before.statuses), places)]


def _lost(before: Sequence[Row], after: Mapping[tuple[str, str], Row]) -> Iterator[Row]:
    """The cells that had been measured and fail more often now, or were not tried."""
    for then in before:
        now = after.get((then["model"], then["point"]))
        if now is None and then["ok_blocks"]:
            yield _row(then, "") | {"note": _GONE}
        elif now is not None and _fails_more(then, now):
            ending = units.ending(now, "blocks")
            yield _row(now, "") | {"verdict": "failed", "note": f"failed: {ending}"}


def _fails_more(then: Row, now: Row) -> bool:
    """Whether the last block that ended ok is gone, or more blocks fail, and more of them all."""
    if not now["ok_blocks"]:
        return bool(then["ok_blocks"])
    failed, failing = (row["blocks"] - row["ok_blocks"] for row in (then, now))
    return bool(failing > failed and failing * then["blocks"] > failed * now["blocks"])


def _row(place: Row, metric: str) -> Row:
    unit = METRICS[metric].unit if metric else ""
    empty = dict.fromkeys(COLUMNS, _NAN) | {"metric": metric, "unit": unit, "note": ""}
    return empty | {key: place[key] for key in ("model", "seq_len", "batch_size", "point")}


def _by_cell(found: Summary) -> _Cells:
    """The value of each block, by metric, model and point, of what models are compared by."""
    rows = found.processes[found.processes["metric"].isin(compared())]
    cells = {
        key: values for key, values in arrays(rows, _CELL, "value").items() if (values > 0).all()
    }
    at = {key: i for i, key in enumerate(lookup(found.statuses, ["model", "point"], "status"))}
    order = {tag: i for i, tag in enumerate(compared())}
    return dict(sorted(cells.items(), key=lambda cell: (order[cell[0][0]], at[cell[0][1:]])))


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is another in the second run, by kind of thing; of a kind where that is nothing, none.

    Args:
        before: the first run's ``run.json``.
        after: the second's.
    """
    made = _lines(before["provenance"], after["provenance"])
    found = {
        kind: [
            line for key, line in made.items()
            if any(f"{key}.".startswith(f"{place}.") for place in places)
            and not key.endswith(_PASSING)
        ]
        for kind, places in _SAID.items()
    }  # fmt: skip
    for kind in ("configuration", "models"):
        lines = _lines(before[kind], after[kind])
        found[kind] = [line for key, line in lines.items() if key != "out"]
    return {kind: lines for kind, lines in found.items() if lines}


def _lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """A line for each leaf of nested mappings that differs, by its keys with dots between."""
    old, new = _flat(before), _flat(after)
    return {
        key: f"{key}: {_written(old.get(key))}, then {_written(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    }


def _flat(given: Any, at: str = "") -> dict[str, Any]:
    """The leaves of nested mappings, by their keys with dots between."""
    if not isinstance(given, Mapping):
        return {at: given}
    return {
        key: leaf
        for own, inner in given.items()
        for key, leaf in _flat(inner, f"{at}.{own}" if at else str(own)).items()
    }


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _warnings(before: Run, after: Run) -> Iterator[str]:
    machines = {run.meta["provenance"].get("machine_id") for run in (before, after)}
    if len(machines) > 1:
        yield "the runs are of different machines: a ratio says nothing of the code alone"
    for path, meta in {run.path: run.meta for run in (before, after)}.items():
        yield from (f"{path}: {line}" for line in warnings.claims(meta, "process"))


def _table(frame: pd.DataFrame, before: Run, after: Run) -> Table:
    def metric(row: Row) -> str:
        return METRICS[row["metric"]].title if row["metric"] else "Status"

    columns = [
        name("Metric", metric),
        name("Model", "model"),
        CONTEXT,
        BATCH,
        name("Settings", partial(axes.settings, {**before.points, **after.points})),
        Column("Before", lambda row: units.scaled(row["before"], row["unit"]), rank=0),
        Column("After", lambda row: units.scaled(row["after"], row["unit"]), rank=0),
        Column("Ratio", units.ratio_of, rank=0),
        Column("Verdict", lambda row: row["note"] or row["verdict"], rank=0, style="verdict"),
    ]
    return Table(
        "change", "Ratios: after / before", frame, columns, NOTES, grouped=True
    ).condensed()
