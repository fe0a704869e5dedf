"""One contender in one block, and what becomes of its cells.

A cell is prepared, timed slice by slice when it is this contender's turn, and finished; see
:mod:`retbench.engine.turns`. A worker that dies, hangs or runs out of memory costs the cell it was
at; a fresh one takes what is left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from retbench import suites
from retbench.config.plan import Point
from retbench.engine.contender_worker import SETUP_METRICS, ContenderWorker, reported
from retbench.machine.memory import says_no_thread
from retbench.machine.provenance import anonymous
from retbench.metrics import STATUSES, Sample, Status
from retbench.store.journal import STATUS_METRIC, STATUS_PHASE, problem_of_batch
from retbench.store.samples import NO_PROCESS, new_sample
from retbench.suites.base import CellFailure
from retbench.workers.process import Message, WorkerFailure

_SETUP_PHASE = "setup"

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


class ContenderRun(ContenderWorker):
    """The cells of one contender in one block, measured one by one by its worker."""

    _point: Point | None = None
    _spent_s = 0.0

    def prepare(self, point: Point, companions: int) -> list[str] | Outcome:
        """Have a cell made ready, or say why it is not measured.

        Args:
            point: of the cell.
            companions: how many other contenders' workers are alive.

        Returns:
            The names of its phases; or how the cell ended.
        """
        self._point, self._spent_s = point, 0.0
        cell = self.contender.label, point.id
        implied = self._implied_by(point)
        if implied is not None:
            return self._ended("oom_implied", implied, process=NO_PROCESS)
        try:
            self._get_ready()
            request = {
                "do": "prepare", "point": point.to_json(), "brief": self._brief(point),
                "companions": companions, "verify": self._verified.lacks(*cell),
            }  # fmt: skip
            reply = self._asked(request, "prepared")
            if isinstance(reply, Outcome):
                return reply
            phases = reply.get("phases")
            if not isinstance(phases, list):
                cause = f"the worker's reply names no phases: {phases!r:.60}"
                raise WorkerFailure("error", cause)
            self._verified.add(*cell)
            return [str(phase) for phase in phases]
        except CellFailure as failure:  # what an earlier cell should have found is not there
            return self._ended(failure.status, failure.cause, process=NO_PROCESS)
        except WorkerFailure as failure:
            return self._failed(failure)

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

    def _asked(self, request: Message, expected: str) -> Message | Outcome:
        """The reply to a request about the prepared cell; how the cell ended where it says so.

        Raises:
            WorkerFailure: the worker is gone, late, or makes no sense.
        """
        worker = self._worker
        assert worker is not None
        begun = time.monotonic()
        try:
            worker.send(request, max(0.0, self._config.timeout_s - self._spent_s))
            reply = self._receive(worker)
        except WorkerFailure as failure:
            if failure.status != "timeout":
                raise
            # The worker has had what earlier requests had left of it.
            cause = f"not done within {self._config.timeout_s:g} s"
            raise WorkerFailure("timeout", cause) from None
        finally:
            self._spent_s += time.monotonic() - begun - worker.stopped_s
        if reply["event"] == "cell" and reply.get("status") in STATUSES:
            return self._told(reply)
        if reply["event"] != expected:
            raise reported(reply)
        return reply

    def _told(self, reply: Message) -> Outcome:
        """How a worker says that its cell ended."""
        rows, flags = reply.get("rows") or [], reply.get("flags") or []
        ending = self._row(STATUS_PHASE, STATUS_METRIC, None)
        if isinstance(rows, list) and isinstance(flags, list):
            problem = problem_of_batch([*rows, ending])
        else:
            problem = "not a list"
        if problem is not None:
            raise WorkerFailure("error", f"the worker's samples make no sense: {problem}")
        status, cause = cast(Status, reply["status"]), reply.get("cause")
        if status in ("oom", "error"):
            self.discard()  # it lives, but what failed may have left it changed
        return self._ended(
            status,
            None if cause is None else str(cause),
            rows=rows,
            flags=[str(flag) for flag in flags],
        )

    def _failed(self, failure: WorkerFailure) -> Outcome:
        # Dead, or in a state that no later cell should inherit.
        self.discard()
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
        limited = self._config.device == "cpu" and self._config.memory_limit_gib is not None
        if status == "error" and limited and says_no_thread(cause or ""):
            status = "oom"  # the run's limit counts the stacks
        row = self._row(STATUS_PHASE, STATUS_METRIC, elapsed_s)
        row["status"], row["flags"] = status, list(flags)
        row["cause"] = None if cause is None else anonymous(cause)
        row["process"] = self._process if process is None else process
        return Outcome(status, elapsed_s, [*self._setup_rows(), *rows, row])

    def _setup_rows(self) -> list[Sample]:
        setup, self._setup = self._setup, {}
        return [
            self._row(_SETUP_PHASE, metric, setup[metric])
            for metric in SETUP_METRICS
            if setup.get(metric) is not None
        ]

    def _row(self, phase: str, metric: str, value: float | None) -> Sample:
        assert self._point is not None
        sample = new_sample(self._config, self.contender, self._point, phase, metric, value)
        sample |= {"block": self._block, "process": self._process}
        return sample
