"""The worker process: builds one contender's model, verifies it, and measures cell after cell.

Started by the runner, never by hand: see :mod:`retbench.workers`; in one of several processes with
``KIND TIMEOUT_S`` as arguments (see :mod:`retbench.workers.agent`). Takes one JSON message a line
from the socket that is its stdin, and answers there. Of several processes rank 0 does so, and hands
each message on to the others. Ends when the socket closes, and dies with its parent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from retbench import suites
from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.distributed import connect
from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import EXIT_FAILED, UserError
from retbench.machine.memory import (
    available_memory_bytes,
    is_out_of_memory,
    limit_further_memory,
)
from retbench.metrics import Status
from retbench.suites.base import CellFailure
from retbench.suites.cell import Cell
from retbench.suites.session import Rows, Session
from retbench.workers import CPUS, STARTED
from retbench.workers.process import Message, die_with_parent

LOST_S = 3.0
"""How long a rank that has lost another stays: the agent is to see first which has ended before."""

_MEMORY_KEPT_FREE = 0.05


def main(arguments: Sequence[str] = ()) -> None:
    """Answer messages until told to stop or until the socket closes.

    Args:
        arguments: how the processes of a group share the work, and the seconds that one waits for
            another; none for a worker that is alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    die_with_parent()
    volunteer_for_the_oom_killer()
    with contextlib.ExitStack() as stack:
        parent = stack.enter_context(_taken_stdin())
        ranks = ALONE
        try:
            if arguments:
                kind, timeout_s = arguments
                ranks = stack.enter_context(connect(kind, float(timeout_s)))
            worker = _Worker(parent, ranks)
            for message in _messages(parent, ranks):
                worker.answer(message)
        except Exception as error:
            if not arguments:
                raise
            _give_up(error)


def _taken_stdin() -> TextIO:
    """The socket that is stdin, for this process alone: a child would keep it open."""
    with socket.socket(fileno=os.dup(0)) as parent:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return parent.makefile("rw", encoding="utf-8")


def _messages(parent: TextIO, ranks: Ranks) -> Iterator[Message]:
    """What the parent says, to rank 0 alone, until it says no more or to stop."""
    stop = json.dumps({"do": "stop"})
    while True:
        message = json.loads(ranks.broadcast(lambda: parent.readline() or stop))
        if message["do"] == "stop":
            return
        yield message


class _Worker:
    def __init__(self, parent: TextIO, ranks: Ranks) -> None:
        self._parent, self._ranks = parent, ranks
        self._session: Session | None = None
        self._cell: Cell | None = None
        self._rows: Rows | None = None

    def answer(self, message: Message) -> None:
        """Do what one message asks; every failure becomes a reply.

        Raises:
            Exception: this process of several has failed, and not all others have.
        """
        asked = message["do"]
        try:
            {
                "start": self._start,
                "prepare": self._prepare,
                "slice": self._slice,
                "finish": self._finish,
                "ceilings": self._ceilings,
                "end": self._end,
            }[asked](message)
        except Exception as error:
            status, cause = _explain(error)
            if not self._ranks.failed_alike(error, status):
                raise
            if asked in ("start", "ceilings"):
                self._say("failed", status=status, cause=cause)
                return
            rows = self._rows.samples if isinstance(error, CellFailure) and self._rows else []
            self._say("cell", rows=rows, status=status, cause=cause, flags=[])
            self._close()

    def _say(self, event: str, **fields: Any) -> None:
        """Tell the parent; what rank 0 says counts."""
        if self._ranks.first:
            self._tell(event, **fields)

    def _tell(self, event: str, **fields: Any) -> None:
        self._parent.write(json.dumps({"event": event, **fields}) + "\n")
        self._parent.flush()

    def _reply(self, event: str, **fields: Any) -> None:
        """Say that all ranks have done what they were asked, with what disturbed any of them."""
        flags = self._ranks.all_gather(fields.get("flags", []))
        if "flags" in fields:
            fields["flags"] = sorted({flag for each in flags for flag in each})
        self._say(event, **fields)

    def _end(self, _: Message) -> None:
        """Let the commands end that serve the run; one process a machine tells its own."""
        self._ranks.all_gather(None)
        if os.environ["LOCAL_RANK"] == "0":
            self._tell("end")

    def _start(self, message: Message) -> None:
        """Import, build and, if asked to, verify the model."""
        config = suites.configuration(message["configuration"])
        contender = Contender(**message["contender"])
        prepare_process(config)
        import_s = time.perf_counter() - STARTED
        self._ranks.device(config.device)  # before anything else asks for a GPU
        bound_memory(config)
        if any(self._ranks.all_gather(_text_of(config) != message["data"])):
            self._say("text changed")
            return
        # What has been imported stays; else each cell would search it for garbage several times.
        gc.collect()
        gc.freeze()
        started = time.perf_counter()
        session = open_session(
            config, contender, message["block"], message["process"], message.get("ceilings"),
            self._ranks,
        )  # fmt: skip
        built = time.perf_counter()
        measurer = suites.measurer_of(config.suite)
        gate_error = gate_s = None
        if message["verify"]:
            gate_error = measurer.verify(session)
            gate_s = time.perf_counter() - built
        self._session = session
        self._reply(
            "ready",
            model=measurer.describe(session),
            import_s=import_s,
            build_s=built - started,
            gate_s=gate_s,
            gate_error=gate_error,
        )

    def _prepare(self, message: Message) -> None:
        """Make a cell ready, and say which phases of it are to be timed."""
        session = self._session
        if session is None:
            raise RuntimeError("asked for a cell before a model was built")
        session.companions = message["companions"]
        point = Point.from_json(message["point"])
        self._rows = Rows(session, point, message["brief"], verify=message["verify"])
        measurer = suites.measurer_of(session.config.suite)
        self._cell = measurer.prepare(self._rows, lambda phase: self._say("phase", phase=phase))
        self._reply("prepared", phases=list(self._cell.warm_up()))

    def _slice(self, message: Message) -> None:
        """Time one slice."""
        self._prepared().slice(message["phase"], message["round"])
        self._reply("slice")

    def _finish(self, _: Message) -> None:
        """Give the samples of the cell, once they have been checked."""
        cell = self._prepared()
        flags = cell.finish()
        self._reply("cell", rows=cell.rows.samples, status="ok", cause=None, flags=flags)
        self._close()

    def _prepared(self) -> Cell:
        if self._cell is None:
            raise RuntimeError("asked to measure before a cell was prepared")
        return self._cell

    def _close(self) -> None:
        """Give back what the cell held."""
        self._cell, rows, self._rows = None, self._rows, None
        if rows is not None:
            rows.closing.close()

    def _ceilings(self, message: Message) -> None:
        """Measure what this machine can do at most."""
        from retbench.machine import ceilings

        config = suites.configuration(message["configuration"])
        prepare_process(config)
        bound_memory(config)
        dtypes = list(dict.fromkeys(("float32", *config.computed_dtypes)))
        self._reply("ceilings", ceilings=ceilings.measure(config.device, dtypes, config.threads))


def open_session(
    config: RunConfig,
    contender: Contender,
    block: int,
    process: int,
    ceilings: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Session:
    """Build what a contender is measured by and what measures it, in this process.

    On a machine of several ranks each takes a GPU of its own.

    Raises:
        CellFailure: if it cannot be had on this machine.
    """
    import torch

    from retbench.machine.clock import Clock
    from retbench.machine.memory_meter import meter_of

    suite, measurer = suites.get(config.suite), suites.measurer_of(config.suite)
    options = suite.model_options(config)
    measurer.load(config)
    device = torch.device(ranks.device(config.device))
    meter = meter_of(config.device)
    with meter.exact():
        subject = measurer.build(config, contender, options, device)
    clock = Clock(config.device)
    return Session(
        config, contender, block, process, subject, device, clock, meter, ceilings, options, ranks
    )


def _text_of(config: RunConfig) -> Any:
    """The text or the tasks, read before the meter's baseline is taken; what is wrong with it."""
    try:
        return suites.get(config.suite).data(config)
    except UserError as problem:
        return str(problem)


def prepare_process(config: RunConfig) -> None:
    """Import torch and third parties' models, set the threads, and keep to their processors.

    Not before: the imports of several workers may go on side by side.
    """
    import torch

    from models.registry import families, load_plugin

    torch.set_num_threads(config.threads)  # for what plugins compute
    families()
    for plugin in config.plugins:
        load_plugin(plugin)
    torch.set_num_threads(config.threads)  # whatever they have set
    keep_to_cpus(os.environ.get(CPUS, ""))


def keep_to_cpus(cpus: str) -> None:
    """Compute on these logical processors alone, commas between; on any where there are none.

    So do all threads that imports have started, and those that any of them starts.
    """
    if cpus:
        with contextlib.suppress(OSError, ValueError):  # one may have gone since
            chosen = [int(cpu) for cpu in cpus.split(",")]
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), chosen)


def bound_memory(config: RunConfig) -> None:
    """Make allocations beyond the run's limit fail; on a host those beyond what is free, too."""
    import torch

    limit_gib = config.memory_limit_gib
    if config.device == "cpu":
        available = available_memory_bytes("cpu")
        limits = [] if available is None else [int(available * (1 - _MEMORY_KEPT_FREE))]
        if limit_gib is not None:
            limits.append(int(limit_gib * 2**30))
        if limits:
            limit_further_memory(min(limits))
    elif limit_gib is not None:
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * 2**30 / total))


def volunteer_for_the_oom_killer() -> None:
    """If the machine runs out of memory, let it be this process that goes, not the parent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _explain(error: Exception) -> tuple[Status, str]:
    """The status and the one-line cause of a failed cell."""
    from models.config import ConfigError

    if isinstance(error, CellFailure):
        return error.status, error.cause
    if isinstance(error, ConfigError):  # what no check before the build can know of
        return "unsupported", str(error)
    traceback.print_exc()
    lines = str(error).strip().splitlines()
    cause = f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return ("oom" if is_out_of_memory(error) else "error"), cause[:300]


def _give_up(error: Exception) -> NoReturn:
    """End this process of several, and leave word for the agent, which ends the others."""
    from retbench.distributed.failure import is_lost, what_failed

    status, cause = _explain(error)
    if is_lost(error):
        cause = what_failed(error)
        time.sleep(LOST_S)
    told = {"message": cause, "status": status, "extraInfo": {"timestamp": int(time.time())}}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": told}))
    os._exit(EXIT_FAILED)
