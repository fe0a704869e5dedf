"""Tables, figures, a page and citable numbers, all from a run directory alone.

Nothing here measures, imports torch, or knows the time: the same samples give the same bytes.

    >>> from retbench.store import open_run
    >>> write_all(open_run("results/laptop"))      # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retbench.report.content import Content
    from retbench.report.summary import Summary
    from retbench.store import Run

__all__ = ["content_of", "summarise", "write_all", "write_paper", "write_plots", "write_tables"]

TABLES, PLOTS, PAPER = "tables", "plots", "paper"


def summarise(run: Run) -> Summary:
    """Reduce an inference run to its numbers; see :class:`retbench.report.summary.Summary`."""
    from retbench.report.summary import Summary

    return Summary(run)


def content_of(run: Run) -> Content:
    """All that a run's report says, whatever its suite."""
    from retbench.report import content

    return content.of(run)


def write_tables(run: Run, content: Content | None = None) -> list[Path]:
    """Write ``tables/``, ``numbers.tex`` and ``numbers.json``; returns the files.

    Args:
        run: the run; the files go into its directory.
        content: of its report, where the caller has it already.
    """
    from retbench.report import export

    found = content or content_of(run)
    return [
        *export.write_tables(found, run.path / TABLES),
        *export.write_numbers(found, run.path),
    ]


def write_plots(run: Run, content: Content | None = None) -> list[Path]:
    """Write ``plots/`` and ``report.html``, which shows them; returns the files.

    Args:
        run: the run; the files go into its directory.
        content: of its report, where the caller has it already.
    """
    from retbench.report import figures, html

    found = content or content_of(run)
    written = figures.write(found.figures(), run, run.path / PLOTS)
    drawn = [path for path in written if path.suffix == ".svg"]
    return [*written, *html.write(found, drawn, run.path)]


def write_paper(run: Run, width_in: float) -> list[Path]:
    """Write ``plots/paper/``: every figure as PDF of that width, in inches, and their captions."""
    from retbench.report import figures

    return figures.write_for_print(content_of(run).figures(), run.path / PLOTS / PAPER, width_in)


def write_all(run: Run, content: Content | None = None) -> list[Path]:
    """Write every derived file of a run, reducing its samples once."""
    found = content or content_of(run)
    return [*write_tables(run, found), *write_plots(run, found)]
