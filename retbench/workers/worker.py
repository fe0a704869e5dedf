"""The worker process: builds one contender's model, verifies it, and measures cell after cell.

Started by the runner, never by hand. Takes one JSON message a line on stdin and answers through a
descriptor of its own, so that nothing a library prints can be taken for an answer. Ends when stdin
closes, and dies with its parent.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from retbench import suites  # noqa: E402
from retbench.config.plan import Contender, Point  # noqa: E402
from retbench.config.run import RunConfig  # noqa: E402
from retbench.distributed import connect  # noqa: E402
from retbench.distributed.process_group import ALONE, Ranks  # noqa: E402
from retbench.machine.memory import (  # noqa: E402
    available_memory_bytes,
    is_out_of_memory,
    limit_further_memory,
)
from retbench.metrics import Status  # noqa: E402
from retbench.suites.cell import Cell  # noqa: E402
from retbench.suites.limits import CellFailure  # noqa: E402
from retbench.suites.session import Rows, Session  # noqa: E402

Message = dict[str, Any]

_PR_SET_PDEATHSIG = 1
_MEMORY_KEPT_FREE = 0.05


def main() -> None:
    """Answer messages until told to stop or until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    _die_with_parent()
    _volunteer_for_the_oom_killer()
    descriptor = int(os.environ["RETBENCH_REPLY_FD"])
    os.set_inheritable(descriptor, False)  # a compiler's child must not outlive us at the pipe
    with os.fdopen(descriptor, "w") as replies:

        def reply(event: str, **fields: Any) -> None:
            replies.write(json.dumps({"event": event, **fields}) + "\n")
            replies.flush()

        with contextlib.ExitStack() as stack:
            worker = _Worker(reply, stack)
            for line in sys.stdin:
                message = json.loads(line)
                if message["do"] == "stop":
                    return
                worker.answer(message)


class _Worker:
    def __init__(self, reply: Callable[..., None], stack: contextlib.ExitStack) -> None:
        self._reply, self._stack = reply, stack
        self._session: Session | None = None
        self._cell: Cell | None = None
        self._rows: Rows | None = None
        self._ranks = ALONE

    def answer(self, message: Message) -> None:
        """Do what one message asks; every failure becomes a reply."""
        asked = message["do"]
        try:
            {
                "start": self._start,
                "prepare": self._prepare,
                "slice": self._slice,
                "finish": self._finish,
                "ceilings": self._ceilings,
            }[asked](message)
        except Exception as error:
            status, cause = _explain(error)
            lost = self._ranks.size > 1 and _is_lost(error)
            if asked in ("start", "ceilings"):
                self._reply("failed", status=status, cause=cause, lost=lost)
                return
            rows = self._rows.samples if isinstance(error, CellFailure) and self._rows else []
            self._reply("cell", rows=rows, status=status, cause=cause, flags=[], lost=lost)
            self._close()

    def _start(self, message: Message) -> None:
        """Import, build and verify the model."""
        config = suites.configuration(message["configuration"])
        contender = Contender(**message["contender"])
        _prepare_process(config)
        import_s = time.perf_counter() - STARTED
        self._ranks = self._stack.enter_context(_connected(config))
        self._ranks.device(config.device)  # before anything else asks for a GPU
        _bound_memory(config)
        started = time.perf_counter()
        session = open_session(
            config, contender, message["block"], message["process"], message.get("ceilings"),
            self._ranks,
        )  # fmt: skip
        built = time.perf_counter()
        suite = suites.get(config.suite)
        gate_error = suite.verify(session)
        self._session = session
        self._reply(
            "ready",
            model=suite.describe(session),
            import_s=import_s,
            build_s=built - started,
            gate_s=time.perf_counter() - built,
            gate_error=gate_error,
        )

    def _prepare(self, message: Message) -> None:
        """Make a cell ready, and say what is to be timed: the seconds of a slice by phase."""
        session = self._session
        if session is None:
            raise RuntimeError("asked for a cell before a model was built")
        session.companions = message["companions"]
        self._rows = Rows(session, Point.from_json(message["point"]), message["brief"])
        suite = suites.get(session.config.suite)
        progress = partial(self._reply, "phase")
        self._cell = suite.prepare(session, self._rows, lambda phase: progress(phase=phase))
        self._reply("prepared", slices=self._cell.warm_up())

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
        _prepare_process(config)
        _bound_memory(config)
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
    from retbench.machine.memory import MemoryMeter

    suite = suites.get(config.suite)
    suite.data(config)  # read the text now: it belongs to the meter's baseline
    options = suite.model_options(config)
    suite.load(config)
    device = torch.device(ranks.device(config.device))
    meter = MemoryMeter(config.device)
    with meter.exact():
        subject = suite.build(config, contender, options, device)
    clock = Clock(config.device)
    return Session(
        config, contender, block, process, subject, device, clock, meter, ceilings, options, ranks
    )


def _connected(config: RunConfig) -> Ranks:
    """The other ranks' workers, where a run has several; the runner gives up before they do."""
    kind = None if config.parallel == "none" else config.parallel
    return connect(kind, timeout_s=2 * config.timeout_s)


def _prepare_process(config: RunConfig) -> None:
    """Import torch and third parties' models, and set the threads."""
    import torch

    from models.registry import families, load_plugin

    torch.set_num_threads(config.threads)
    families()
    for plugin in config.plugins:
        load_plugin(plugin)


def _bound_memory(config: RunConfig) -> None:
    """Make allocations beyond the run's limit fail."""
    import torch

    if config.device == "cpu":
        _bound_host_memory(config.memory_limit_gib)
    elif config.memory_limit_gib is not None:
        _, total = torch.cuda.mem_get_info()
        share = min(1.0, config.memory_limit_gib * 2**30 / total)
        torch.cuda.set_per_process_memory_fraction(share)


def _bound_host_memory(limit_gib: float | None) -> None:
    """Make allocations beyond the limit, or beyond what is free, fail rather than kill."""
    available = available_memory_bytes("cpu")
    limits = [] if available is None else [int(available * (1 - _MEMORY_KEPT_FREE))]
    if limit_gib is not None:
        limits.append(int(limit_gib * 2**30))
    if limits:
        limit_further_memory(min(limits))


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
    # A library that the memory limit keeps from being loaded is the last of these.
    lacks_memory = is_out_of_memory(error) or "failed to map segment" in cause
    return ("oom" if lacks_memory else "error"), cause[:300]


def _is_lost(error: Exception) -> bool:
    """Whether it is the connection to another rank that has failed, for whatever reason."""
    from retbench.distributed.failure import is_lost

    return is_lost(error)


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; Linux alone can.

    A parent that ended before the kernel was asked would leave us to work for nobody.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.environ.get("RETBENCH_PARENT", str(os.getppid())) != str(os.getppid()):
        sys.exit()


def _volunteer_for_the_oom_killer() -> None:
    """If the machine runs out of memory, let it be this process that goes, not the parent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
