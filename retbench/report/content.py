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
from retbench.report.layout import Table

if TYPE_CHECKING:
    from retbench.report.figure import Figure
    from retbench.report.summary import Summary
    from retbench.store import Run

_MAKERS = {
    "inference": "retbench.report.inference",
    "training": "retbench.report.speed.training",
    "perplexity": "retbench.report.quality.perplexity",
    "ablation": "retbench.report.quality.perplexity",
    "scaling": "retbench.report.quality.scaling",
    "recall": "retbench.report.quality.recall",
    "kernels": "retbench.report.speed.kernels",
}


@dataclass(frozen=True)
class Content:
    """All that the writers need; pure data.

    Attributes:
        path: the run directory.
        meta: ``run.json``.
        models: the labels in the order of the plan; the first is the subject.
        title: what the report compares.
        tables: in the order in which to read them.
        figures: declares them, in the order in which to read them.
        warnings: what a reader must know before believing the numbers, a line each.
        definitions: title and definition of every metric shown.
        numbers: the content of ``numbers.json``.
        macros: those of ``numbers.tex``: a name in letters and its text, in LaTeX.
        findings: what the run says, a sentence each.
        summary: of the inference suite, which has a console layout of its own; None for others.
    """

    path: Path
    meta: Mapping[str, Any]
    models: tuple[str, ...]
    title: str
    tables: tuple[Table, ...]
    figures: Callable[[], Iterable[Figure]]
    warnings: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]
    numbers: Mapping[str, Any]
    macros: tuple[tuple[str, str], ...]
    findings: tuple[str, ...] = ()
    summary: Summary | None = None


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
    made: Content = importlib.import_module(_MAKERS[suite]).content(run)
    return made


def title_of(meta: Mapping[str, Any], models: Sequence[str]) -> str:
    """The suite, the subject and its baselines."""
    subject, *baselines = models
    against = f" against {' and '.join(baselines)}" if baselines else ""
    return f"{meta['suite']}, {subject}{against}"
