"""What Retbench prints of results: summaries, tables, forecasts, and one JSON document."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.text import Text

from retbench.cli import render
from retbench.cli.progress import Progress
from retbench.report import units

if TYPE_CHECKING:
    from retbench.cli.model_sizes import ModelSize
    from retbench.config.run import RunConfig
    from retbench.engine.forecast import Forecast
    from retbench.machine.doctor import Check
    from retbench.report.change import Change
    from retbench.report.content import Content
    from retbench.report.tables import Table as Declared

PIPED_COLUMNS = 100
# A narrower terminal breaks the lines of a table; a narrower table would lose digits.
_FEWEST_COLUMNS = 80
_READING_S = 5.0  # between two lines on how far a text has been read
_MOST_LINES = 12  # that are printed where the tables are not


def rich_console(*, as_json: bool, quiet: bool = False, least: int = 0) -> RichConsole:
    """Prints to stdout, or beside a JSON document to stderr.

    Args:
        as_json: whether stdout is for a document.
        quiet: print nothing.
        least: characters of a line, though a terminal has fewer.
    """
    stream = sys.stderr if as_json else sys.stdout
    made = RichConsole(
        file=stream, width=None if stream.isatty() else PIPED_COLUMNS,
        highlight=False, emoji=False, markup=False, quiet=quiet,
    )  # fmt: skip
    if least:
        made.width = max(made.width, least)
    return made


class Console:
    """Where results and progress go.

    Args:
        quiet: print results' place alone: no progress, no summary.
        as_json: stdout gets one JSON document at the end, stderr everything else.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self._told_s = time.monotonic()
        self.as_json = as_json
        self._tables = rich_console(as_json=as_json, least=_FEWEST_COLUMNS)

    def show(self, *what: RenderableType) -> None:
        """Print renderables, unless quiet."""
        if not self.quiet:
            for renderable in what:
                self._tables.print(renderable)

    def emit(self, content: Mapping[str, Any]) -> None:
        """Print one JSON document to stdout, if that was asked for."""
        if self.as_json:
            print(json.dumps(units.plain(content), allow_nan=False))

    def reading(self, doing: str, share: float | None) -> None:
        """Say now and then how far a text has been read, encoded or learnt from."""
        if time.monotonic() - self._told_s >= _READING_S:
            self._told_s = time.monotonic()
            self.show(doing if share is None else f"{doing}: {share:.0%}")

    def progress(self, config: RunConfig, *, side_by_side: bool = False) -> Progress:
        """An observer for a run of this configuration, its blocks perhaps at the same time."""
        out = rich_console(as_json=self.as_json, quiet=self.quiet)
        return Progress(out, config, side_by_side=side_by_side)

    def report(self, content: Content, files: Sequence[Path] = (), *, tables: bool = False) -> None:
        """Print what a run says, the answer first, and where its files are.

        Args:
            content: of the run's report.
            files: that were written.
            tables: whether every table follows.
        """
        width, smoke = self._tables.width, content.meta["configuration"]["profile"] == "smoke"
        stamp = content.stamp[0]
        title = ("SMOKE, no claims: " if smoke else "") + content.title
        self.show(Text(title, style="bold"), Text(stamp, style="dim"))
        unsettled = [content.unsettled] if content.unsettled else []
        if tables:
            warnings = (f"warning: {line}" for line in content.warnings)
            self._lines([*content.findings, *unsettled, *warnings])
            self.tables(content.tables)
        else:
            after = [*unsettled, *render.gravest(content.warnings, width)]
            around = render.height([title, stamp, *after, "tables", "files"], width)
            self._lines([*render.first(content.findings, width, _MOST_LINES - around), *after])
            self.show(f"tables: retbench table {content.path}")
        self.files(content.path, files)
        if self.as_json:
            from retbench.report import export

            self.emit(export.document(content, files))

    def tables(self, tables: Iterable[Declared]) -> None:
        """Print tables whole, or less the columns that they name."""
        for table in tables:
            self.show(Text(""), render.of_table(table, self._tables.width))

    def _lines(self, lines: Sequence[str]) -> None:
        """Print some lines, each indented where it goes on."""
        for line in lines:
            self.show(render.indented(line, self._tables.width))

    def files(self, path: Path, files: Sequence[Path]) -> None:
        """Print where derived files are."""
        folders = dict.fromkeys(
            f"{file.parent.relative_to(path)}/" if file.parent != path else file.name
            for file in map(Path, files)
        )
        self.show(Text(f"files: {path}/" + (f" ({', '.join(folders)})" if folders else "")))

    def forecast(self, forecast: Forecast, available_bytes: int | None) -> None:
        """Print what a run would need."""
        minutes = forecast.total_s / 60
        unfit = forecast.unfit(available_bytes)
        self.show(
            render.expected(forecast, available_bytes),
            Text(f"{len(forecast.cells)} cells in {forecast.blocks} blocks, about "
                 f"{units.duration(forecast.total_s)}"),
            Text(render.memory_line(len(unfit), available_bytes)),
        )  # fmt: skip
        self.emit({
            "blocks": forecast.blocks,
            "expected_minutes": minutes,
            "available_bytes": available_bytes,
            "cells": [
                {"model": cell.contender.label, "point": cell.point.id, "seconds": cell.seconds,
                 "memory_bytes": cell.memory_bytes, "fits": cell not in unfit}
                for cell in forecast.cells
            ],
        })  # fmt: skip

    def sizes(self, sizes: Sequence[ModelSize]) -> None:
        """Print the sizes of models."""
        self.show(render.sizes(sizes))
        self.emit({"models": [asdict(size) | {"matches": size.matches} for size in sizes]})

    def change(self, found: Change) -> None:
        """Print what changed from one run to another, what differs between them first."""
        from retbench.report import change

        self.show(Text(f"{found.after} against {found.before}", style="bold"))
        self._lines(change.said(found))
        self.show(Text(""), render.of_table(found.table, self._tables.width))
        self.emit(found.to_json())

    def table(self, table: Declared) -> None:
        """Print a table with its title and how to read it."""
        self.show(render.of_table(table, self._tables.width))
        self.emit({table.name: table.frame.to_dict("records")})

    def inventory(self, found: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """Print names with a line about each, by kind."""
        for kind, lines in found.items():
            self.show(Text(kind, style="bold"), render.named(lines))
        self.emit({kind: dict(lines) for kind, lines in found.items()})

    def machine(
        self,
        checks: Sequence[Check],
        provenance: Mapping[str, Any],
        ceilings: Mapping[str, Any] | None,
    ) -> None:
        """Print what would spoil a run on this machine, and what it can do at most."""
        self.show(render.checks(checks), *(render.ceilings(ceilings) if ceilings else ()))
        self.emit({
            "checks": [asdict(check) for check in checks],
            "provenance": provenance,
            "ceilings": ceilings,
        })  # fmt: skip

    def audit(self, record: Mapping[str, Any], file: Path) -> None:
        """Print what an audit has found, and where it was stored."""
        self.show(*render.audit(record), f"stored for this machine in {file}")
        self.emit({**record, "file": str(file)})
