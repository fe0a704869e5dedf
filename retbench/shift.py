"""One contender in one block: its cells one after the other, and the workers that measure them.

A worker that dies, hangs or runs out of memory costs the cell it was at; a fresh one takes what is
left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from retbench import store, suites
from retbench.config.run import RunConfig
from retbench.environment import anonymous
from retbench.journal import STATUS_METRIC, STATUS_PHASE, problem_of_batch
from retbench.metrics import STATUSES, Sample, Status
from retbench.observer import Observer
from retbench.plan import Contender, Point
from retbench.suites.base import CellFailure, new_sample
from retbench.workers.process import AnyWorker, Message, WorkerFailure

# The process number of a cell that no process measured.
NO_PROCESS = -1

# Figures of the ready event that become samples of the process's first cell.
_SETUP_METRICS = ("import_s", "build_s", "gate_s", "gate_error")
_SETUP_PHASE = "setup"

# Flags a cell whose worker was killed: that it ran out of memory is then presumed, not known.
_KILLED = "killed"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        status: ok, or what went wrong.
        elapsed_s: wall time of the cell; None where nothing was run.
        rows: its samples, the status row last.
    """

    status: Status
    elapsed_s: float | None
    rows: list[Sample]


class Shift:
    """The cells of one contender in one block; a context manager that leaves no worker behind.

    Args:
        config: of the run.
        contender: whose cells.
        block: which round.
        writer: knows how earlier cells ended, and keeps what a worker says of its model.
        observer: told of worker starts and phases.
        start_worker: gives a fresh worker and its process number.
    """

    def __init__(
        self,
        config: RunConfig,
        contender: Contender,
        block: int,
        writer: store.RunWriter,
        observer: Observer,
        start_worker: Callable[[], tuple[AnyWorker, int]],
    ) -> None:
        self._config = config
        self._contender = contender
        self._block = block
        self._writer = writer
        self._observer = observer
        self._start_worker = start_worker
        self._worker: AnyWorker | None = None
        self._process = NO_PROCESS
        self._setup: Message = {}
        self._failed_starts = 0
        self._refusal: WorkerFailure | None = None

    def __enter__(self) -> Shift:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard_worker()

    def end(self) -> None:
        """Let the worker end by itself, so that the next one has the machine to itself."""
        if self._worker is not None:
            self._worker.stop()

    def outcome_of(self, point: Point) -> Outcome:
        """Measure a cell, or say why it is not measured."""
        implied = self._implied_by(point)
        if implied is not None:
            return self._ended(point, "oom_implied", implied, process=NO_PROCESS)
        if self._refusal is not None:
            return self._failed(point, self._refusal)
        begun: float | None = None
        try:
            brief = self._brief(point)
            worker = self._worker or self._start()
            begun = time.monotonic()
            return self._measured(point, brief, worker, begun)
        except CellFailure as failure:  # what an earlier cell should have found is not there
            return self._ended(point, failure.status, failure.cause, process=NO_PROCESS)
        except WorkerFailure as failure:
            # Dead, or in a state that no later cell should inherit.
            self._discard_worker()
            return self._failed(point, failure, begun)

    def _implied_by(self, point: Point) -> str | None:
        """The smaller cell of this model that ran out of memory, in any block.

        A worker that was killed says less than one that reports for itself: something else than
        want of memory may have killed it. It counts from the second time on.
        """
        smaller = [
            row
            for (_, label, _), row in self._writer.statuses.items()
            if label == self._contender.label
            and row["status"] == "oom"
            and row["seq_len"] <= point.seq_len
            and row["batch_size"] <= point.batch_size
            and self._named(row["point"]) == self._named(point.id)
        ]
        killed = [row for row in smaller if _KILLED in row["flags"]]
        known = [row for row in smaller if _KILLED not in row["flags"]] or killed[1:]
        if not known:
            return None
        return f"out of memory at {known[0]['point']} in block {known[0]['block']}"

    @staticmethod
    def _named(point_id: str) -> str:
        """The part of a point's id that more tokens do not change: its settings."""
        return point_id.partition("context=")[0]

    def _start(self) -> AnyWorker:
        self._observer.worker(self._contender, self._block)
        self._worker, self._process = self._start_worker()
        try:
            ready = self._reply(self._worker, self._introduction())
        except WorkerFailure as failure:
            self._failed_starts += 1
            if self._failed_starts > 1:  # once may be an accident
                self._refusal = failure
            raise
        if ready["event"] != "ready":
            self._refusal = _reported(ready)
            raise self._refusal
        self._failed_starts = 0
        self._setup = ready
        self._record_model(ready["model"])
        return self._worker

    def _introduction(self) -> Message:
        contender = self._contender
        return {
            "do": "start",
            "configuration": self._config.to_json(),
            "contender": {
                "label": contender.label,
                "family": contender.family,
                "options": dict(contender.options),
            },
            "block": self._block,
            "process": self._process,
            "ceilings": self._writer.meta["ceilings"],
        }

    def _record_model(self, model: dict[str, Any]) -> None:
        models, label = self._writer.meta["models"], self._contender.label
        if label not in models:
            self._writer.update(models=models | {label: model})
        elif models[label] != model:
            self._writer.warn(f"{label} was not the same model in every process")

    def _reply(self, worker: AnyWorker, message: Message) -> Message:
        reply = worker.ask(message, self._config.timeout_s)
        while reply["event"] == "phase":
            self._observer.phase(str(reply.get("phase", "")))
            reply = worker.receive()
        return reply

    def _brief(self, point: Point) -> Message:
        """What the suite says of a cell, from the committed figures of the first block."""

        def scalar(point_id: str, metric: str) -> float | None:
            return self._writer.scalars.get((0, self._contender.label, point_id, metric))

        suite = suites.get(self._config.suite)
        return suite.brief(self._config, self._contender, point, scalar)

    def _measured(self, point: Point, brief: Message, worker: AnyWorker, begun: float) -> Outcome:
        request = {"do": "cell", "point": point.to_json(), "brief": brief}
        reply = self._reply(worker, request)
        if reply["event"] != "cell" or reply.get("status") not in STATUSES:
            raise _reported(reply)
        rows: list[Sample] = list(reply.get("rows") or [])
        ending = self._row(point, STATUS_PHASE, STATUS_METRIC, None)
        problem = problem_of_batch([*rows, ending])
        if problem is not None:
            raise WorkerFailure("error", f"the worker's samples make no sense: {problem}")
        status, cause = cast(Status, reply["status"]), reply.get("cause")
        if status in ("oom", "error"):
            self._discard_worker()  # it lives, but what failed may have left it changed
        return self._ended(
            point,
            status,
            None if cause is None else str(cause),
            rows=rows,
            flags=[str(flag) for flag in reply.get("flags") or []],
            elapsed_s=time.monotonic() - begun,
        )

    def _failed(self, point: Point, failure: WorkerFailure, begun: float | None = None) -> Outcome:
        elapsed_s = None if begun is None else time.monotonic() - begun
        flags = [_KILLED] if failure.presumed else []
        return self._ended(point, failure.status, failure.cause, flags=flags, elapsed_s=elapsed_s)

    def _ended(
        self,
        point: Point,
        status: Status,
        cause: str | None,
        *,
        rows: Sequence[Sample] = (),
        flags: Sequence[str] = (),
        elapsed_s: float | None = None,
        process: int | None = None,
    ) -> Outcome:
        """The batch of a cell: what its worker's start took, its samples, its status row."""
        row = self._row(point, STATUS_PHASE, STATUS_METRIC, elapsed_s)
        row["status"], row["flags"] = status, list(flags)
        row["cause"] = None if cause is None else anonymous(cause)
        row["process"] = self._process if process is None else process
        return Outcome(status, elapsed_s, [*self._setup_rows(point), *rows, row])

    def _setup_rows(self, point: Point) -> list[Sample]:
        setup, self._setup = self._setup, {}
        return [
            self._row(point, _SETUP_PHASE, metric, setup[metric])
            for metric in _SETUP_METRICS
            if setup.get(metric) is not None
        ]

    def _row(self, point: Point, phase: str, metric: str, value: float | None) -> Sample:
        sample = new_sample(self._config, self._contender, point, phase, metric, value)
        sample |= {"block": self._block, "process": self._process}
        return sample

    def _discard_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def _reported(reply: Message) -> WorkerFailure:
    """The failure that a worker reports of itself; any other reply is one out of turn."""
    if reply["event"] == "failed" and reply.get("status") in STATUSES:
        return WorkerFailure(reply["status"], str(reply.get("cause")))
    return WorkerFailure("error", f"the worker's reply {reply['event']!r} is out of turn")
