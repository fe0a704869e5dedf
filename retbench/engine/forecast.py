"""How long a run will take and how much memory its cells need, before and while it runs.

Each suite brings a rough model of its cells (``Suite.cost``), good to a factor of about two. While
a run goes on, :class:`TimeLeft` replaces it by what was observed, cell by cell. No number of this
module enters a table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from retbench import suites
from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import RunConfig


@dataclass(frozen=True)
class CellForecast:
    """What one cell is expected to need.

    Attributes:
        contender: the model.
        point: where it is measured.
        seconds: in one process, without starting it.
        memory_bytes: at its peak.
        blocks: how often it is measured.
    """

    contender: Contender
    point: Point
    seconds: float
    memory_bytes: int
    blocks: int


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to need.

    Attributes:
        cells: one entry per model and point, in the order of the plan.
        process_s: starting a worker of each model until its first cell, in seconds, by label.
        blocks: how often each model is started.
    """

    cells: tuple[CellForecast, ...]
    process_s: Mapping[str, float]
    blocks: int

    @property
    def total_s(self) -> float:
        """Wall time of the whole run, in seconds."""
        cells = sum(cell.seconds * cell.blocks for cell in self.cells)
        return cells + self.blocks * sum(self.process_s.values())

    def block_s(self, block: int) -> float:
        """Wall time of one block, in seconds."""
        cells = (cell for cell in self.cells if block == 0 or not cell.point.once)
        return sum(cell.seconds for cell in cells) + sum(self.process_s.values())

    def unfit(self, available_bytes: int | None) -> list[CellForecast]:
        """The cells that need more than this memory; none where it is unknown."""
        if available_bytes is None:
            return []
        return [cell for cell in self.cells if cell.memory_bytes > available_bytes]


def forecast(config: RunConfig, plan: Plan, ceilings: Mapping[str, Any] | None = None) -> Forecast:
    """Forecast a run.

    Args:
        config: the resolved configuration.
        plan: the cells; only those of blocks that are certain count.
        ceilings: as ``retbench.machine.ceilings.measure`` gives them; nominal ones where None.
    """
    plan = plan.certain
    suite = suites.get(plan.suite)
    cost = suite.cost(config, ceilings)
    cells = []
    process_s = {}
    for contender in plan.contenders:
        process_s[contender.label] = cost.process_s(suite.size(config, contender))
        for point in plan.ascending():
            size = suite.size(config, contender, point)
            blocks = 1 if point.once else plan.blocks
            seconds, needed = cost.cell_s(size, point), cost.memory_bytes(size, point)
            cells.append(CellForecast(contender, point, seconds, needed, blocks))
    return Forecast(tuple(cells), process_s, plan.blocks)


@dataclass
class TimeLeft:
    """The time a run still needs: observed where a cell has been seen, else forecast and rescaled.

    Args:
        plan: the cells of the run.
        expected: its forecast.
        done: the ``(block, model, point)`` that an earlier session finished.
        side_by_side: the blocks go on at the same time, not one after the other.
    """

    plan: Plan
    expected: Forecast
    done: Collection[tuple[int, str, str]] = ()
    side_by_side: bool = False
    _observed: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _finished: set[tuple[int, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._finished = set(self.done)

    def observe(self, block: int, label: str, point_id: str, elapsed_s: float) -> None:
        """Take note of a finished cell and the seconds it took."""
        self._finished.add((block, label, point_id))
        self._observed.setdefault((label, point_id), []).append(elapsed_s)

    @property
    def cells_done(self) -> int:
        """Cells that are finished, of all blocks."""
        return len(self._finished)

    def seconds(self) -> float | None:
        """Seconds left; None until a cell has been observed."""
        if not self._observed:
            return None
        predicted = {(c.contender.label, c.point.id): c.seconds for c in self.expected.cells}
        scale = self._scale(predicted)
        left_s, workers = dict.fromkeys(self.plan.measured_blocks, 0.0), set()
        for block, contender, point in self.plan.cells():
            cell = (contender.label, point.id)
            if (block, *cell) in self._finished:
                continue
            workers.add((block, contender.label))
            seen = self._observed.get(cell)
            left_s[block] += sum(seen) / len(seen) if seen else scale * predicted[cell]
        for block, label in workers:
            left_s[block] += self.expected.process_s[label]
        return max(left_s.values()) if self.side_by_side else sum(left_s.values())

    def _scale(self, predicted: Mapping[tuple[str, str], float]) -> float:
        """How much slower than forecast the observed cells were."""
        pairs = [(sum(seen) / len(seen), predicted[cell]) for cell, seen in self._observed.items()]
        expected = sum(seconds for _, seconds in pairs)
        return sum(seconds for seconds, _ in pairs) / expected if expected > 0 else 1.0
