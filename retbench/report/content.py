"""What a report holds, whatever the suite: the writers know this and no suite.

Each suite's own module makes a :class:`Content` from a run; to add a suite is to add a maker.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench.errors import UserError
from retbench.metrics import IN_SUITE, METRICS
from retbench.report.stamp import environment
from retbench.report.tables import Table

if TYPE_CHECKING:
    from retbench.report.figure import Figure
    from retbench.store import Run

_MAKERS = {
    "inference": "retbench.report.speed.inference",
    "training": "retbench.report.speed.training",
    "perplexity": "retbench.report.quality.perplexity",
    "ablation": "retbench.report.quality.perplexity",
    "scaling": "retbench.report.quality.scaling",
    "recall": "retbench.report.quality.recall",
    "kernels": "retbench.report.speed.kernels",
    "projection": "retbench.report.projection",
}


@dataclass(frozen=True)
class Content:
    """All that the writers need; pure data.

    Attributes:
        path: the run directory.
        meta: ``run.json``.
        title: what the report compares.
        stamp: the conditions of the run, the same under every table.
        findings: what the run says, one line a question, the most important first.
        unsettled: how many comparisons are open and how to settle them; empty where none is.
        tables: in the order in which to read them; none is empty.
        figures: declares them, in the order in which to read them.
        warnings: what a reader must know before believing the numbers, a line each, the gravest
            first.
        definitions: title and definition of every metric shown.
    """

    path: Path
    meta: Mapping[str, Any]
    title: str
    stamp: tuple[str, ...]
    findings: tuple[str, ...]
    unsettled: str
    tables: tuple[Table, ...]
    figures: Callable[[], Iterable[Figure]]
    warnings: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]


def of(run: Run) -> Content:
    """The content of a run's report; the same samples give the same content.

    Raises:
        UserError: the run is of a suite that this version knows no report for.
    """
    suite = run.meta["suite"]
    if suite not in _MAKERS:
        raise UserError(
            f"{run.path}: no report is known for the suite {suite!r}", "update Retbench"
        )
    found: Content = importlib.import_module(_MAKERS[suite]).content(run)
    return found


def made(
    run: Run,
    models: Sequence[str],
    tables: Iterable[Table],
    figures: Callable[[], Iterable[Figure]],
    *,
    stamp: Sequence[str],
    findings: Iterable[str],
    unsettled: str = "",
    warnings: Iterable[str] = (),
) -> Content:
    """The content of a run's report, from what its suite has to say.

    Args:
        run: the run.
        models: the subject, then the baselines.
        tables: those that have no row are left out, and columns that say the same in all rows.
        figures: as :class:`Content` has them, and so all that follows.
        stamp: what goes before the variables of the environment.
        findings: see there.
        unsettled: see there.
        warnings: see there.
    """
    meta = run.meta
    shown = tuple(table.condensed() for table in tables if table.cells)
    return Content(
        path=run.path,
        meta=meta,
        title=_title(meta, models),
        stamp=tuple(filter(None, (*stamp, environment(meta)))),
        findings=tuple(findings),
        unsettled=unsettled,
        tables=shown,
        figures=figures,
        warnings=tuple(warnings),
        definitions=_definitions(shown, IN_SUITE.get(meta["suite"], {})),
    )


def _title(meta: Mapping[str, Any], models: Sequence[str]) -> str:
    """The suite, the subject, and its baselines or how many there are."""
    subject, *baselines = models
    if not baselines:
        return f"{meta['suite']}, {subject}"
    named = " and ".join(baselines) if len(baselines) < 3 else f"{len(baselines)} others"
    return f"{meta['suite']}, {subject} against {named}"


def open_line(count: int, of: str, settled: int, way: str) -> str:
    """How many comparisons are open and how to settle them; empty where none is.

    Args:
        count: of the open ones.
        of: how many there are, and what they are.
        settled: how many of the open ones can be settled.
        way: how, as one is told to.
    """
    if not count:
        return ""
    said = f"open: {count} of {of}"
    which = "it" if count == 1 else "all" if settled == count else f"{settled} of them"
    return f"{said}; to settle {which} {way}" if settled else said


def _definitions(tables: Sequence[Table], here: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Title and definition of every metric that the tables show.

    Args:
        tables: of the report.
        here: what the words of every suite mean in this one, by tag.
    """
    shown = [column.metric for table in tables for column in table.columns]
    shown += [tag for table in tables for tag in table.noted]
    return tuple(
        (METRICS[tag].title, here.get(tag, METRICS[tag].definition))
        for tag in dict.fromkeys(filter(None, shown))
    )
