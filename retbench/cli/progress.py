"""How a run shows that it goes on: a bar on a terminal, a line a cell elsewhere.

The parent must stay idle while a worker measures (rule M5), so the bar has no refresh thread: it is
redrawn when something happens, which is always between measurements.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Self

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import RunConfig
from retbench.engine.forecast import TimeLeft, forecast
from retbench.metrics import Status
from retbench.report import units
from retbench.store import Run
from retbench.store.journal import Key


class Display:
    """What is redrawn in its place on a terminal, by no thread; gone at the end of the context.

    Args:
        out: where.
    """

    def __init__(self, out: RichConsole) -> None:
        self._out = out
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def draw(self, shown: RenderableType) -> None:
        """Show this instead of what was shown before; a quiet console shows nothing."""
        if self._out.quiet:  # it would still take stdout and stderr
            return
        if self._live is None:
            self._live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(shown, refresh=True)

    def close(self) -> None:
        """Give the terminal back; harmless when repeated."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Progress(Display):
    """The observer of a run: a bar on a terminal, a line a cell elsewhere."""

    def __init__(self, out: RichConsole, config: RunConfig, *, side_by_side: bool = False) -> None:
        super().__init__(out)
        self._config = config
        self._side_by_side = side_by_side
        self._left: TimeLeft | None = None
        self._doing = ""
        self._worker = ""

    def started(self, plan: Plan, done: set[Key]) -> None:
        """Show how many cells there are, and how many an earlier session finished."""
        certain = plan.certain
        self._left = TimeLeft(
            certain, forecast(self._config, certain), done, side_by_side=self._side_by_side
        )
        self._begun_s = time.monotonic()
        least = "" if plan.least is None else "at least "
        earlier = f", {len(done)} of them done earlier" if done else ""
        self._out.print(f"{least}{self._total} cells in {certain.blocks} blocks{earlier}")

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
        if not self._out.is_terminal or status != "ok":
            line = (
                f"[{self._left.cells_done}/{self._total}] {place} "
                f"{contender.label} {point.id}: {status}, {elapsed_s:.1f} s{self._remaining()}"
            )
            self._out.print(Text(line, style="" if status == "ok" else "red"))
        self._redraw()

    def finished(self, run: Run) -> None:
        """All cells are committed."""
        self.close()

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
        if self._left is None or not self._out.is_terminal:
            return
        elapsed_s = time.monotonic() - self._begun_s
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._total, completed=self._left.cells_done, width=30),
            f"{self._left.cells_done}/{self._total} cells, {units.duration(elapsed_s)}"
            f"{self._remaining()}",
        )
        self.draw(Group(bar, Text(f"{self._worker}  {self._doing}")))
