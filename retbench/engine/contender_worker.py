"""The worker of one contender in one block: started, made ready, given up, and ended.

A worker that dies or hangs is given up; a fresh one is started when the next cell asks for it. One
that reports that its model cannot be measured is not started again, nor one that twice did not
become ready: every further cell ends with that failure.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import NoneType
from typing import Any, Self

from retbench import store, suites
from retbench.config.plan import Contender
from retbench.config.run import RunConfig
from retbench.engine.observer import Observer
from retbench.errors import UserError
from retbench.metrics import STATUSES
from retbench.store.meta import ModelRecord, OperationRecord, misfit
from retbench.store.samples import NO_PROCESS
from retbench.workers.process import Message, Worker, WorkerFailure

# Figures of the ready event that become samples of the process's first cell.
SETUP_METRICS = ("import_s", "build_s", "gate_s", "gate_error")


class Verified:
    """What the processes of one session of a run have verified so far.

    In eager mode on a CPU all processes of a session run the same code on the same machine, so what
    one has verified holds for the next. What each compiles, captures or tunes for itself is
    verified in each.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._holds = config.device == "cpu" and config.mode == "eager"
        self._anew = suites.get(config.suite).compiled(config)
        self._known: set[tuple[str, ...]] = set()

    def lacks(self, *what: str) -> bool:
        """Whether a contender, or a cell by contender and point, is still to be verified."""
        return what not in self._known

    def add(self, *what: str) -> None:
        """A process has found it right."""
        if self._holds and what[0] not in self._anew:
            self._known.add(what)


class ContenderWorker:
    """The worker of one contender in one block; a context manager that leaves none behind.

    Args:
        config: of the run.
        block: of the run.
        writer: knows how earlier cells ended, and keeps what a worker says of its model.
        observer: told of worker starts and phases.
        start_worker: gives a fresh worker and its process number.
        verified: what need not be verified again; of the session.
        contender: whose cells.
    """

    def __init__(
        self,
        config: RunConfig,
        block: int,
        writer: store.RunWriter,
        observer: Observer,
        start_worker: Callable[[], tuple[Worker, int]],
        verified: Verified,
        contender: Contender,
    ) -> None:
        self.contender = contender
        self._config = config
        self._block = block
        self._writer = writer
        self._observer = observer
        self._start_worker = start_worker
        self._verified = verified
        self._worker: Worker | None = None
        self._is_ready = False
        self._process = NO_PROCESS
        self._setup: Message = {}
        self._failed_starts = 0
        self._refusal: WorkerFailure | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

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
            self.discard()

    def end(self) -> None:
        """Let the worker end by itself, so that the next one has the machine to itself."""
        if self._worker is not None:
            self._worker.stop()
            self.discard()

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
        if ready["event"] == "text changed":
            raise UserError(
                "the text changed while the run went on, and no model is trained on another",
                f"restore it and continue with: {store.continue_command(self._writer.path)}",
            )
        problem = _problem_of(ready)
        if problem is not None:
            self._refusal = problem
            raise problem
        self._is_ready, self._failed_starts = True, 0
        self._setup = ready
        self._verified.add(self.contender.label)
        self._record_model(ready["model"])

    def _receive(self, worker: Worker) -> Message:
        reply = worker.receive()
        while reply["event"] == "phase":
            self._observer.phase(str(reply.get("phase", "")))
            reply = worker.receive()
        return reply

    def _introduction(self) -> Message:
        return {
            "do": "start",
            "configuration": self._config.to_json(),
            "contender": self.contender.to_json(),
            "block": self._block,
            "process": self._process,
            "data": self._writer.meta["data"],
            "ceilings": self._writer.meta["ceilings"],
            "verify": self._verified.lacks(self.contender.label),
        }

    def _record_model(self, model: dict[str, Any]) -> None:
        models, label = self._writer.meta["models"], self.contender.label
        if label not in models:
            self._writer.update(models=models | {label: model})
        elif models[label] != model:
            self._writer.warn(f"{label} was not the same model in every process")

    def discard(self) -> None:
        """Give up the worker, and the cell that it is at."""
        if self._worker is not None:
            self._worker.kill()
            self._worker, self._is_ready = None, False


def _problem_of(reply: Message) -> WorkerFailure | None:
    """Why a worker is not ready, as it says, or because it says something else; None if it is."""
    if reply["event"] != "ready":
        return reported(reply)
    model = reply.get("model")
    if isinstance(model, dict):
        problem = misfit(OperationRecord if "operation" in model else ModelRecord, model)
    else:
        problem = "there is nothing"
    if problem is None:
        figures = {metric: reply.get(metric) for metric in SETUP_METRICS}
        wrong = [m for m, value in figures.items() if type(value) not in (int, float, NoneType)]
        problem = f"{wrong[0]!r} holds {figures[wrong[0]]!r:.60}" if wrong else None
    if problem is None:
        return None
    return WorkerFailure("error", f"what the worker says of its model makes no sense: {problem}")


def reported(reply: Message) -> WorkerFailure:
    """The failure that a worker reports of itself; any other reply is one out of turn."""
    if reply["event"] == "failed" and reply.get("status") in STATUSES:
        return WorkerFailure(reply["status"], str(reply.get("cause")))
    return WorkerFailure("error", f"the worker's reply {reply['event']!r} is out of turn")
