"""All that Retbench prints: live progress, the final summary, tables, one-line errors.

The parent must stay idle while a worker measures (rule M5), so the progress has no refresh thread:
it is redrawn when something happens, which is always between measurements.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retbench.cli import render
from retbench.report import units

if TYPE_CHECKING:
    from retbench.cli.model_sizes import ModelSize
    from retbench.config.plan import Contender, Plan, Point
    from retbench.config.run import RunConfig
    from retbench.engine.forecast import Forecast, TimeLeft
    from retbench.machine.doctor import Check
    from retbench.metrics import Status
    from retbench.report.change import Change
    from retbench.report.content import Content
    from retbench.report.tables import Table as Declared
    from retbench.store import Run
    from retbench.store.journal import Key

PIPED_COLUMNS = 100
# A narrower terminal breaks the lines of a table; a narrower table would lose digits.
_FEWEST_COLUMNS = 80
_READING_S = 5.0  # between two lines on how far a text has been read
_MOST_LINES = 12  # that are printed where the tables are not


def error(message: str) -> None:
    """Print one line to stderr."""
    line = " ".join(str(message).split())
    print(f"retbench: error: {line}", file=sys.stderr)


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
        stream = sys.stderr if as_json else sys.stdout
        width = None if stream.isatty() else PIPED_COLUMNS
        self._out = RichConsole(
            file=stream, width=width, highlight=False, emoji=False, markup=False
        )
        self._tables = RichConsole(
            file=stream, width=max(self._out.width, _FEWEST_COLUMNS),
            highlight=False, emoji=False, markup=False,
        )  # fmt: skip

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
        return Progress(self._out, config, quiet=self.quiet, side_by_side=side_by_side)

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
        self.emit({"models": [size.to_json() for size in sizes]})

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


class Progress:
    """The observer of a run: a bar on a terminal, a line a cell elsewhere, nothing when quiet."""

    def __init__(
        self, out: RichConsole, config: RunConfig, *, quiet: bool, side_by_side: bool = False
    ) -> None:
        self._out = out
        self._config = config
        self._quiet = quiet
        self._side_by_side = side_by_side
        self._live: Live | None = None
        self._left: TimeLeft | None = None
        self._doing = ""
        self._worker = ""

    def started(self, plan: Plan, done: set[Key]) -> None:
        """Show how many cells there are, and how many an earlier session finished."""
        from retbench.engine.forecast import TimeLeft, forecast

        certain = plan.certain
        self._left = TimeLeft(
            certain, forecast(self._config, certain), done, side_by_side=self._side_by_side
        )
        self._begun_s = time.monotonic()
        if self._quiet:
            return
        least = "" if plan.least is None else "at least "
        earlier = f", {len(done)} of them done earlier" if done else ""
        self._out.print(f"{least}{self._total} cells in {certain.blocks} blocks{earlier}")
        if self._out.is_terminal:
            self._live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live.start()

    def worker(self, contender: Contender, block: int) -> None:
        """Say whose worker is being started."""
        self._worker = f"{self._place(block)}  {contender.label}"
        self.phase("start")

    def phase(self, text: str) -> None:
        """Say what the worker is about to do."""
        self._doing = text
        self._redraw()

    def cell(
        self, block: int, contender: Contender, point: Point, status: Status, elapsed_s: float
    ) -> None:
        """Count a committed cell; on a terminal only a failed one leaves a line behind."""
        assert self._left is not None
        self._left.observe(block, contender.label, point.id, elapsed_s)
        place = self._place(block)
        if self._quiet:
            return
        if self._live is None or status != "ok":
            line = (
                f"[{self._left.cells_done}/{self._total}] {place} "
                f"{contender.label} {point.id}: {status}, {elapsed_s:.1f} s{self._remaining()}"
            )
            self._out.print(Text(line, style="" if status == "ok" else "red"))
        self._redraw()

    def finished(self, run: Run) -> None:
        """All cells are committed."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; harmless when repeated."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def _total(self) -> int:
        """Cells of the blocks that are known to be measured."""
        return len(list(self._left.plan.cells())) if self._left else 0

    def _place(self, block: int) -> str:
        """Which of the known blocks it is; one that the run has added is known from now on."""
        assert self._left is not None
        if block >= self._left.plan.blocks:
            self._left.plan = replace(self._left.plan, blocks=block + 1)
        return f"block {block + 1}/{self._left.plan.blocks}"

    def _remaining(self) -> str:
        left_s = self._left.seconds() if self._left else None
        return "" if left_s is None else f", about {units.duration(left_s)} left"

    def _redraw(self) -> None:
        if self._live is None or self._left is None:
            return
        elapsed_s = time.monotonic() - self._begun_s
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._total, completed=self._left.cells_done, width=30),
            f"{self._left.cells_done}/{self._total} cells, {units.duration(elapsed_s)}"
            f"{self._remaining()}",
        )
        self._live.update(Group(bar, Text(f"{self._worker}  {self._doing}")), refresh=True)
