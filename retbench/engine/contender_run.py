"""One contender in one block: its worker, and what becomes of its cells.

A cell is prepared, timed slice by slice when it is this contender's turn, and finished; see
:mod:`retbench.engine.turns`. A worker that dies, hangs or runs out of memory costs the cell it was
at; a fresh one takes what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from retbench import store, suites
from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.engine.observer import Observer
from retbench.machine.provenance import anonymous
from retbench.metrics import STATUSES, Sample, Status
from retbench.store.journal import STATUS_METRIC, STATUS_PHASE, problem_of_batch
from retbench.store.samples import NO_PROCESS, new_sample
from retbench.suites.limits import CellFailure
from retbench.workers.process import Message, Worker, WorkerFailure

# Figures of the ready event that become samples of the process's first cell.
_SETUP_METRICS = ("import_s", "build_s", "gate_s", "gate_error")
_SETUP_PHASE = "setup"

ALONE = "alone"
"""Flags a cell that was measured while no other contender's was."""

# Flags a cell whose worker was killed: that it ran out of memory is then presumed, not known.
_KILLED = "killed"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        status: ok, or what went wrong.
        elapsed_s: seconds that its worker was asked to work on it; None where nothing was run.
        rows: its samples, the status row last.
    """

    status: Status
    elapsed_s: float | None
    rows: list[Sample]

    def flagged(self, *flags: str) -> Outcome:
        """The same with further flags of the cell."""
        *rows, ending = self.rows
        ending = cast(Sample, {**ending, "flags": [*ending["flags"], *flags]})
        return replace(self, rows=[*rows, ending])


class ContenderRun:
    """The worker of one contender in one block; a context manager that leaves none behind.

    Args:
        config: of the run.
        contender: whose cells.
        block: of the run.
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
        start_worker: Callable[[], tuple[Worker, int]],
    ) -> None:
        self.contender = contender
        self._config = config
        self._block = block
        self._writer = writer
        self._observer = observer
        self._start_worker = start_worker
        self._worker: Worker | None = None
        self._is_ready = False
        self._process = NO_PROCESS
        self._setup: Message = {}
        self._failed_starts = 0
        self._refusal: WorkerFailure | None = None
        self._point: Point | None = None
        self._spent_s = 0.0

    def __enter__(self) -> ContenderRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard_worker()

    def begin(self) -> None:
        """Start a worker, and do not wait for it: several may be started at the same time."""
        # What fails here is found, and told, when the first cell asks for the worker.
        with suppress(WorkerFailure):
            if self._worker is None and self._refusal is None:
                self._spawn()

    def wait(self) -> None:
        """Wait for the worker that :meth:`begin` has started; the first cell has another try."""
        try:
            self._get_ready()
        except WorkerFailure:
            self._discard_worker()

    def end(self) -> None:
        """Let the worker end by itself, so that the next one has the machine to itself."""
        if self._worker is not None:
            self._worker.stop()
            self._discard_worker()

    def prepare(self, point: Point, companions: int) -> dict[str, float] | Outcome:
        """Have a cell made ready, or say why it is not measured.

        Args:
            point: of the cell.
            companions: how many other contenders' workers are alive.

        Returns:
            Seconds of a slice of each of its phases, by name; or how the cell ended.
        """
        self._point, self._spent_s = point, 0.0
        implied = self._implied_by(point)
        if implied is not None:
            return self._ended("oom_implied", implied, process=NO_PROCESS)
        try:
            self._get_ready()
            request = {
                "do": "prepare", "point": point.to_json(), "brief": self._brief(point),
                "companions": companions,
            }  # fmt: skip
            reply = self._asked(request, "prepared")
        except CellFailure as failure:  # what an earlier cell should have found is not there
            return self._ended(failure.status, failure.cause, process=NO_PROCESS)
        except WorkerFailure as failure:
            return self._failed(failure)
        return reply if isinstance(reply, Outcome) else _slices_of(reply)

    def slice(self, phase: str, number: int) -> Outcome | None:
        """Have one slice of a phase timed, in a round of that number; how the cell ended, if so."""
        try:
            reply = self._asked({"do": "slice", "phase": phase, "round": number}, "slice")
        except WorkerFailure as failure:
            return self._failed(failure)
        return reply if isinstance(reply, Outcome) else None

    def finish(self) -> Outcome:
        """How the prepared cell ended, with its samples and flags."""
        try:
            reply = self._asked({"do": "finish"}, "cell")
        except WorkerFailure as failure:
            return self._failed(failure)
        assert isinstance(reply, Outcome)
        return reply

    def release(self) -> None:
        """Give up the prepared cell, which is to be measured in another way, and its worker."""
        self._discard_worker()

    def _get_ready(self) -> None:
        """A worker that has built and verified its model.

        Raises:
            WorkerFailure: there is none.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._worker is None:
            self._spawn()
        if not self._is_ready:
            self._wait_until_ready()

    def _spawn(self) -> None:
        self._observer.worker(self.contender, self._block)
        self._worker, self._process = self._start_worker()
        self._worker.send(self._introduction(), self._config.timeout_s)

    def _wait_until_ready(self) -> None:
        assert self._worker is not None
        try:
            ready = self._receive(self._worker)
        except WorkerFailure as failure:
            self._failed_starts += 1
            if self._failed_starts > 1:  # once may be an accident
                self._refusal = failure
            raise
        if ready["event"] != "ready":
            self._refusal = _reported(ready)
            raise self._refusal
        self._is_ready, self._failed_starts = True, 0
        self._setup = ready
        self._record_model(ready["model"])

    def _asked(self, request: Message, expected: str) -> Message | Outcome:
        """The reply to a request about the prepared cell; how the cell ended where it says so.

        Raises:
            WorkerFailure: the worker is gone, late, or makes no sense.
        """
        assert self._worker is not None
        begun = time.monotonic()
        try:
            self._worker.send(request, max(0.0, self._config.timeout_s - self._spent_s))
            reply = self._receive(self._worker)
        except WorkerFailure as failure:
            if failure.status != "timeout":
                raise
            # The worker has had what earlier requests had left of it.
            cause = f"not done within {self._config.timeout_s:g} s"
            raise WorkerFailure("timeout", cause) from None
        finally:
            self._spent_s += time.monotonic() - begun
        if reply["event"] == "cell" and reply.get("status") in STATUSES:
            return self._told(reply)
        if reply["event"] != expected:
            raise _reported(reply)
        return reply

    def _receive(self, worker: Worker) -> Message:
        reply = worker.receive()
        while reply["event"] == "phase":
            self._observer.phase(str(reply.get("phase", "")))
            reply = worker.receive()
        return reply

    def _told(self, reply: Message) -> Outcome:
        """How a worker says that its cell ended."""
        rows: list[Sample] = list(reply.get("rows") or [])
        ending = self._row(STATUS_PHASE, STATUS_METRIC, None)
        problem = problem_of_batch([*rows, ending])
        if problem is not None:
            raise WorkerFailure("error", f"the worker's samples make no sense: {problem}")
        status, cause = cast(Status, reply["status"]), reply.get("cause")
        if status in ("oom", "error"):
            self._discard_worker()  # it lives, but what failed may have left it changed
        return self._ended(
            status,
            None if cause is None else str(cause),
            rows=rows,
            flags=[str(flag) for flag in reply.get("flags") or []],
        )

    def _failed(self, failure: WorkerFailure) -> Outcome:
        # Dead, or in a state that no later cell should inherit.
        self._discard_worker()
        return self._ended(
            failure.status, failure.cause, flags=[_KILLED] if failure.presumed else []
        )

    def _implied_by(self, point: Point) -> str | None:
        """The smaller cell of this model that ran out of memory, in any block.

        A worker that was killed says less than one that reports for itself: something else than
        want of memory may have killed it. It counts from the second time on.
        """
        smaller = [
            row
            for (_, label, _), row in self._writer.statuses.items()
            if label == self.contender.label
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

    def _introduction(self) -> Message:
        return {
            "do": "start",
            "configuration": self._config.to_json(),
            "contender": self.contender.to_json(),
            "block": self._block,
            "process": self._process,
            "ceilings": self._writer.meta["ceilings"],
        }

    def _record_model(self, model: dict[str, Any]) -> None:
        models, label = self._writer.meta["models"], self.contender.label
        if label not in models:
            self._writer.update(models=models | {label: model})
        elif models[label] != model:
            self._writer.warn(f"{label} was not the same model in every process")

    def _brief(self, point: Point) -> Message:
        """What the suite says of a cell, from the committed figures of the first block."""

        def scalar(point_id: str, metric: str) -> float | None:
            return self._writer.scalars.get((0, self.contender.label, point_id, metric))

        suite = suites.get(self._config.suite)
        return suite.brief(self._config, self.contender, point, scalar)

    def _ended(
        self,
        status: Status,
        cause: str | None,
        *,
        rows: Sequence[Sample] = (),
        flags: Sequence[str] = (),
        process: int | None = None,
    ) -> Outcome:
        """The batch of a cell: what its worker's start took, its samples, its status row."""
        elapsed_s = self._spent_s or None
        row = self._row(STATUS_PHASE, STATUS_METRIC, elapsed_s)
        row["status"], row["flags"] = status, list(flags)
        row["cause"] = None if cause is None else anonymous(cause)
        row["process"] = self._process if process is None else process
        return Outcome(status, elapsed_s, [*self._setup_rows(), *rows, row])

    def _setup_rows(self) -> list[Sample]:
        setup, self._setup = self._setup, {}
        return [
            self._row(_SETUP_PHASE, metric, setup[metric])
            for metric in _SETUP_METRICS
            if setup.get(metric) is not None
        ]

    def _row(self, phase: str, metric: str, value: float | None) -> Sample:
        assert self._point is not None
        sample = new_sample(self._config, self.contender, self._point, phase, metric, value)
        sample |= {"block": self._block, "process": self._process}
        return sample

    def _discard_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker, self._is_ready = None, False


def _slices_of(reply: Message) -> dict[str, float]:
    """Seconds of a slice by phase, as a worker has told them."""
    slices = reply.get("slices")
    if not isinstance(slices, Mapping):
        raise WorkerFailure("error", f"the worker's reply names no phases: {slices!r:.60}")
    return {str(name): float(seconds) for name, seconds in slices.items()}


def _reported(reply: Message) -> WorkerFailure:
    """The failure that a worker reports of itself; any other reply is one out of turn."""
    if reply["event"] == "failed" and reply.get("status") in STATUSES:
        return WorkerFailure(reply["status"], str(reply.get("cause")))
    return WorkerFailure("error", f"the worker's reply {reply['event']!r} is out of turn")
