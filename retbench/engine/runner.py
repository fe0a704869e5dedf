"""From a plan to a run directory: blocks of fresh worker processes that take turns.

In each block every contender gets a worker process of its own (rule M6; see
:mod:`retbench.engine.turns`). Whatever is measured at a point is committed to the store before the
next one begins. A worker that dies, hangs or runs out of memory costs the cell it was at: that cell
gets a status and a cause (rule M17), and a fresh worker takes what is left. Whenever the run is
killed,
``resume=True`` continues it behind the last committed point, with fresh workers. A
:class:`Launcher` may have the blocks measured elsewhere, as jobs of a cluster; it only decides
where.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from retbench import store, suites, workers
from retbench.config import plugins
from retbench.config.plan import Contender, Plan
from retbench.config.run import RunConfig
from retbench.engine.contender_run import ContenderRun
from retbench.engine.observer import Observer, Silent
from retbench.engine.turns import Block, in_turns
from retbench.errors import Interrupted, UserError
from retbench.machine import ceilings, provenance, threads
from retbench.machine.interrupts import Interrupts
from retbench.machine.memory import available_memory_bytes
from retbench.stats.comparison import level
from retbench.store import merge
from retbench.suites.base import Suite
from retbench.workers import WORKER_COMMAND, agent
from retbench.workers.agent import ONE_NODE, Nodes
from retbench.workers.process import Worker, WorkerFailure

__all__ = ["WORKER_COMMAND", "Call", "Launcher", "Observer", "execute"]


Settled = Callable[[store.Run, float], list[str]]
"""The ratios of a run that are not settled yet, by name, when it is looked at for the n-th time."""


Audits = Callable[[RunConfig, str], Mapping[str, Any] | None]
"""The audit that is known of runs like this one on a machine, by its id; None where there is none.
See :func:`retbench.engine.audit.known`."""


@dataclass(frozen=True)
class Call:
    """One call of :func:`execute`: what is to be measured, and who writes, watches and stops it."""

    config: RunConfig
    plan: Plan
    writer: store.RunWriter
    observer: Observer
    interrupts: Interrupts
    worker_command: Sequence[str]
    nodes: Nodes
    settled: Settled


class Launcher(Protocol):
    """Has the blocks of a run measured elsewhere; see :mod:`retbench.engine.slurm`."""

    def measure(self, call: Call) -> None:
        """Commit every cell of the plan that the writer lacks.

        Raises:
            UserError: it cannot; what was finished is kept.
            KeyboardInterrupt: the user asked to stop.
        """


def execute(
    config: RunConfig,
    *,
    out: Path,
    resume: bool = False,
    observer: Observer | None = None,
    plan: Plan | None = None,
    worker_command: Sequence[str] = WORKER_COMMAND,
    audits: Audits | None = None,
    known: store.Known | None = None,
    launcher: Launcher | None = None,
    nodes: Nodes = ONE_NODE,
    settled: Settled | None = None,
    note: str | None = None,
) -> store.Run:
    """Measure every cell of a plan.

    Args:
        config: what to measure, and how.
        out: the run directory; new or empty, or with ``resume`` the one to continue.
        resume: continue an earlier run with the same configuration.
        observer: told of the progress.
        plan: the cells; by default those of the configuration's suite.
        worker_command: the program that measures.
        audits: looks up that of this machine, for a run that has none yet.
        known: cells of the same run that another directory holds; they count as done.
        launcher: has the blocks measured elsewhere; None to measure them here.
        nodes: the machines whose processes measure together.
        note: a warning for the reader of a new run.
        settled: decides when a run that adds blocks has enough of them; by default its report.

    Returns:
        The finished run.

    Raises:
        UserError: the directory, the configuration or the disk does not allow it.
        Interrupted: the user stopped the run; what was finished is kept.
    """
    observer = observer or Silent()
    plan = plan or _plan_of(config)
    data = suites.get(config.suite).data(config)  # may take minutes: Ctrl-C ends it at once
    with Interrupts() as interrupts:
        try:
            writer = _open_writer(config, plan, data, Path(out), resume, here=launcher is None)
        except KeyboardInterrupt:
            raise Interrupted("interrupted before the first cell") from None
        with writer:
            if audits is not None and writer.meta["audit"] is None:
                writer.update(audit=audits(config, writer.meta["provenance"]["machine_id"]))
            if note is not None:
                writer.warn(note)
            if known is not None:
                writer.learn(known)
            call = Call(
                config, plan, writer, observer, interrupts, worker_command, nodes,
                settled or still_open,
            )  # fmt: skip
            _run_to_the_end(call, launcher)
        run = store.open_run(out)
        observer.finished(run)
        return run


def still_open(run: store.Run, alpha: float) -> list[str]:
    """See :data:`Settled`; by the report's own verdicts."""
    from retbench.report import settled  # pandas, which no run needs that stops after its blocks

    return settled.still_open(run, alpha)


def _plan_of(config: RunConfig) -> Plan:
    return suites.get(config.suite).plan(config)


def _run_to_the_end(call: Call, launcher: Launcher | None) -> None:
    writer = call.writer
    try:
        if launcher is None:
            merge.absorb(call.config, call.plan, writer)
            _Session(call).run()
        else:
            launcher.measure(call)
        if writer.meta["state"] != "finished":
            writer.finish("finished")
    except KeyboardInterrupt:
        _finish_interrupted(writer)
        # Of a run that ends where all is settled nobody knows how many cells it will have.
        total = "" if call.plan.least else f"of {len(list(call.plan.cells()))} "
        raise Interrupted(
            f"interrupted, {len(writer.done)} {total}cells are kept",
            f"continue with: {store.continue_command(writer.path)}"
            + plugins.flags(call.config.plugins, writer.path),
        ) from None
    except BaseException:
        _finish_interrupted(writer)
        raise


def _finish_interrupted(writer: store.RunWriter) -> None:
    # On a full disk run.json stays as it is, and a resume works all the same.
    with contextlib.suppress(UserError):
        writer.finish("interrupted")


def _open_writer(
    config: RunConfig, plan: Plan, data: Any, out: Path, resume: bool, *, here: bool
) -> store.RunWriter:
    """Begin or continue the run directory; ``here`` says whether this machine measures."""
    known = plugins.published(config.plugins, out)
    configuration = config.to_json() | {"out": None, "plugins": known}
    # A machine that only submits jobs need not be asked for its GPU.
    device = config.device if here else "cpu"
    found = provenance.provenance(device, config.threads, sys.orig_argv, seed=config.seed)
    if not resume:
        meta: dict[str, Any] = {
            "suite": config.suite,
            "configuration": configuration,
            "plan": plan.to_json(),
            "data": data,
            "models": {},
            "provenance": found,
            "resumed": [],
            "ceilings": None,
            "audit": None,
            "primary": [list(named) for named in plan.primary],
            "block_s": {},
            "stopped": None,
            "warnings": [],
        }
        return store.RunWriter.create(out, meta)
    suite = suites.get(config.suite)
    together = len(plan.contenders) if in_turns(config, suite, plan) else 1
    writer = store.RunWriter.resume(out, configuration, together)
    try:
        if here:
            _require_same_machine(writer, found)
        _require_same_plan(writer, plan, data)
        if writer.meta["state"] != "finished":
            _record_resumption(writer, found)
    except BaseException:
        writer.close()
        raise
    return writer


def _require_same_machine(writer: store.RunWriter, found: Mapping[str, Any]) -> None:
    """Cells of two machines make no comparison."""
    begun = writer.meta["provenance"].get("machine_id")
    if begun != found["machine_id"]:
        raise UserError(
            f"{writer.path} was begun on another machine ({begun}, this one is "
            f"{found['machine_id']})",
            "continue it there, or begin a new run with another --out",
        )


def _require_same_plan(writer: store.RunWriter, plan: Plan, data: Mapping[str, Any] | None) -> None:
    """Nor do cells of two plans or of two texts."""
    if writer.meta["plan"] != plan.to_json():
        raise UserError(
            f"{writer.path} was begun with other cells than this version of the suite plans",
            "begin a new run with another --out",
        )
    if writer.meta.get("data") != data:
        raise UserError(
            f"{writer.path} was begun with another text: its content or its tokens have changed",
            "restore the text, or begin a new run with another --out",
        )


def _record_resumption(writer: store.RunWriter, found: dict[str, Any]) -> None:
    begun = writer.meta["provenance"]
    changed = [key for key in ("commit", "versions", "python") if begun.get(key) != found[key]]
    warnings = writer.meta["warnings"] + [
        f"{key} changed before the run was resumed" for key in changed
    ]
    session = {"from_process": writer.last_process + 1, "provenance": found}
    writer.update(
        resumed=[*writer.meta["resumed"], session],
        warnings=list(dict.fromkeys(warnings)),
    )


class _Session:
    """The cells of a call, measured by worker processes of this machine."""

    def __init__(self, call: Call) -> None:
        self.config = call.config
        self.plan = call.plan
        self.writer = call.writer
        self._observer = call.observer
        self._interrupts = call.interrupts
        self._worker_command = call.worker_command
        self._nodes = call.nodes
        self._settled = call.settled
        self._processes = self.writer.last_process + 1
        self._begun = time.monotonic()
        self._cpus: tuple[int, ...] = ()

    def run(self) -> None:
        """Measure what is not done yet."""
        self._observer.started(self.plan, self.writer.done)
        planned = {(block, c.label, point.id) for block, c, point in self.plan.cells()}
        if planned <= self.writer.done or self.writer.meta.get("stopped"):
            return
        suite = suites.get(self.config.suite)
        self._settle_down(suite)
        self._measure_ceilings()
        for block in self.plan.measured_blocks:
            self._measure(suite, block)
            if self._is_last_begun(block) and self._stops(block):
                break
        if self.config.profile != "smoke":
            # What else the machine does can only lower them: the better of two measurements counts.
            self._measure_ceilings()

    def _settle_down(self, suite: Suite[Any]) -> None:
        """Choose the processors that the workers keep to: for those in turns, the same for all.

        What else a core serves would else happen to one contender alone.
        """
        if self.config.device == "cpu" and in_turns(self.config, suite, self.plan):
            self._cpus = threads.idlest_cpus(self.config.threads)
            self.writer.update(cpus=list(self._cpus))

    def _measure(self, suite: Suite[Any], block: int) -> None:
        """What is lacking of one block."""
        done = {(label, point) for b, label, point in self.writer.done if b == block}
        cells = {(c.label, p.id) for c in self.plan.contenders for p in self.plan.ascending(block)}
        if cells <= done:
            return
        begun = time.monotonic()
        cost = suite.cost(self.config, self.writer.meta["ceilings"])
        measured = Block(
            self.config, suite, self.plan, block, done, partial(self._contender_run, block), cost,
            self._available_bytes(),
        )  # fmt: skip
        self._interrupts.check()
        for ended in measured.outcomes():
            self.writer.append(*(outcome.rows for _, _, outcome in ended))
            for contender, point, outcome in ended:
                elapsed_s = outcome.elapsed_s or 0.0
                self._observer.cell(block, contender, point, outcome.status, elapsed_s)
            self._interrupts.check()
        if not done:  # a block in two parts has no length
            taken = self.writer.meta["block_s"] | {str(block): time.monotonic() - begun}
            self.writer.update(block_s=taken)

    def _available_bytes(self) -> int | None:
        """Memory that there is for the cells of a point, without asking a GPU; None if unknown."""
        if self.config.device == "cpu":
            return available_memory_bytes()
        found = self.writer.meta["provenance"].get("gpu") or {}
        return cast("int | None", found.get("memory_bytes"))

    def _is_last_begun(self, block: int) -> bool:
        """Whether a run that may stop is to be looked at behind a block: no later one was begun."""
        least = self.plan.least
        return least is not None and block + 1 >= least and max(self.writer.done)[0] <= block

    def _stops(self, block: int) -> bool:
        """Whether the run ends with this block: all is settled, or there is no time for another."""
        least = cast(int, self.plan.least)
        # The first one is longer: it verifies every cell's step.
        *_, block_s = 0.0, *self.writer.meta["block_s"].values()
        spent_s = self.writer.meta["elapsed_s"] + time.monotonic() - self._begun
        why = None
        if spent_s + block_s > self.config.minutes * 60:
            why = f"{self.config.minutes:g} minutes do not suffice for another block"
        elif block + 1 == self.plan.blocks:
            why = f"{self.plan.blocks} blocks are the most there may be"
        alpha = level(block + 1 - least, is_last=why is not None)
        self._observer.phase("verdicts")
        still_open = self._settled(store.open_run(self.writer.path), alpha)
        if not still_open:
            why = "every ratio is settled"
        if why is not None:
            self.writer.update(
                stopped={"blocks": block + 1, "alpha": alpha, "why": why, "open": still_open}
            )
        return why is not None

    def _contender_run(self, block: int, contender: Contender) -> ContenderRun:
        return ContenderRun(
            self.config, contender, block, self.writer, self._observer, self._numbered_worker
        )

    def _measure_ceilings(self) -> None:
        """Ask a worker of its own for what this machine can do; a failure is but a warning."""
        self._observer.phase("ceilings")
        request = {"do": "ceilings", "configuration": self.config.to_json()}
        try:
            variables = workers.variables(self.config.threads, self._cpus)
            with Worker(self._worker_command, variables, self._interrupts) as worker:
                reply = worker.ask(request, self.config.timeout_s)
                while reply["event"] == "phase":
                    reply = worker.receive()
                if reply["event"] != "ceilings":
                    raise WorkerFailure("error", str(reply.get("cause") or reply["event"]))
                known = self.writer.meta["ceilings"]
                self.writer.update(ceilings=ceilings.merge(known, reply["ceilings"]))
                worker.stop()
        except WorkerFailure as failure:
            self.writer.warn(f"the machine's ceilings could not be measured: {failure.cause}")

    def _numbered_worker(self) -> tuple[Worker, int]:
        """A fresh worker, of one process or several, and its number; none is given out twice."""
        number, self._processes = self._processes, self._processes + 1
        command = agent.command(self.config, self._nodes, self._worker_command)
        variables = workers.variables(self.config.threads, self._cpus)
        return Worker(command, variables, self._interrupts), number
