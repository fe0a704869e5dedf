"""Tables, figures, a page and citable numbers, all from a run directory alone.

Nothing here measures, imports torch, or knows the time: the same samples give the same bytes.

    >>> from retbench.store import open_run
    >>> write_all(open_run("results/laptop"))      # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retbench.report.summary import Summary
    from retbench.store import Run

__all__ = ["summarise", "write_all", "write_plots", "write_tables"]

TABLES, PLOTS = "tables", "plots"


def summarise(run: Run) -> Summary:
    """Reduce a run to what its report says; see :class:`retbench.report.summary.Summary`."""
    from retbench.report import summary

    return summary.summarise(run)


def write_tables(run: Run, summary: Summary | None = None) -> list[Path]:
    """Write ``tables/``, ``numbers.tex`` and ``numbers.json``; returns the files.

    Args:
        run: the run; the files go into its directory.
        summary: of that run, where the caller has it already.
    """
    from retbench.report import citations, tables

    found = summary or summarise(run)
    return [*tables.write(found, run.path / TABLES), *citations.write(found, run.path)]


def write_plots(run: Run, summary: Summary | None = None) -> list[Path]:
    """Write ``plots/`` and ``report.html``, which shows them; returns the files.

    Args:
        run: the run; the files go into its directory.
        summary: of that run, where the caller has it already.
    """
    from retbench.report import html, plots

    found = summary or summarise(run)
    figures = plots.write(found, run.path / PLOTS)
    drawn = [path for path in figures if path.suffix == ".svg"]
    return [*figures, *html.write(found, drawn, run.path)]


def write_all(run: Run) -> list[Path]:
    """Write every derived file of a run, summarising it once."""
    summary = summarise(run)
    return [*write_tables(run, summary), *write_plots(run, summary)]
