"""How a run tells of its progress: the protocol the console implements, and one that is silent."""

from __future__ import annotations

from typing import Protocol

from retbench import store
from retbench.config.plan import Contender, Plan, Point
from retbench.metrics import Status
from retbench.store.journal import Key


class Observer(Protocol):
    """Whoever wants to follow a run; called between measurements, never during one."""

    def started(self, plan: Plan, done: set[Key]) -> None:
        """The run begins; ``done`` are the ``(block, model, point)`` of an earlier session."""

    def worker(self, contender: Contender, block: int) -> None:
        """A worker process of this contender is being started."""

    def phase(self, text: str) -> None:
        """What the worker is about to do."""

    def cell(
        self, block: int, contender: Contender, point: Point, status: Status, elapsed_s: float
    ) -> None:
        """A cell has been committed; ``elapsed_s`` is 0 where nothing was run."""

    def finished(self, run: store.Run) -> None:
        """All cells have a status."""


class Silent:
    """The observer of a run that nobody follows."""

    def _nothing(self, *_: object, **__: object) -> None:
        return

    started = worker = phase = cell = finished = _nothing
