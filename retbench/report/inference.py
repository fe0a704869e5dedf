"""The report of the inference suite, from its summary."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from retbench.report import citations, layout
from retbench.report.content import Content, title_of
from retbench.report.speed import inference_figures
from retbench.report.summary import summarise

if TYPE_CHECKING:
    from retbench.store import Run


def content(run: Run) -> Content:
    """All that the report says of an inference run."""
    summary = summarise(run)
    return Content(
        path=summary.path,
        meta=summary.meta,
        models=summary.models,
        title=title_of(summary.meta, summary.models),
        tables=layout.tables(summary),
        figures=partial(inference_figures.figures, summary),
        warnings=summary.warnings,
        definitions=layout.definitions(summary),
        numbers=citations.numbers(summary),
        macros=citations.macros(summary),
        summary=summary,
    )
