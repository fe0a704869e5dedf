"""From a plan to a run directory: blocks of fresh worker processes that take turns.

In each block every contender gets a worker process of its own (rule M6; see
:mod:`retbench.engine.turns`). Whatever is measured at a point is committed to the store before the
next one begins. A worker that dies, hangs or runs out of memory costs the cell it was at: that cell
gets a status and a cause (rule M17), and a fresh worker takes what is left. Whenever the run is
killed, ``resume=True`` continues it behind the last committed point, with fresh workers. A
launcher (:mod:`retbench.engine.slurm`) may have the blocks measured elsewhere, as jobs of a
cluster; it only decides where.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from retbench import store, suites, workers
from retbench.config import plugins
from retbench.config.plan import Plan, Point
from retbench.config.run import RunConfig, TimedConfig
from retbench.data.config import TextData
from retbench.engine.contender_run import ContenderRun
from retbench.engine.contender_worker import Verified
from retbench.engine.observer import Observer, Silent
from retbench.engine.opening import Audits, open_writer
from retbench.engine.turns import Block, in_turns
from retbench.errors import Interrupted, UserError
from retbench.machine import ceilings, threads
from retbench.machine.interrupts import Interrupts
from retbench.machine.memory import available_memory_bytes
from retbench.machine.pages import ScatteredPages
from retbench.report import units
from retbench.stats.comparison import level
from retbench.store import merge
from retbench.store.meta import CeilingsRecord, misfit
from retbench.workers import WORKER_COMMAND, agent
from retbench.workers.agent import ONE_NODE, Nodes
from retbench.workers.process import Worker, WorkerFailure

if TYPE_CHECKING:
    from retbench.engine.slurm import Launcher

__all__ = ["WORKER_COMMAND", "Call", "execute"]

SHARE_OF_MEMORY = 0.8
"""Of the memory there is, what the cells of a point may need together to be side by side."""

Settled = Callable[[store.Run, float], list[str]]
"""The ratios of a run that are not settled yet, by name, when it is looked at for the n-th time."""


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
    suite = suites.get(config.suite)
    plan = plan or suite.plan(config)
    if isinstance(config, TextData):
        config.forget()
    data = suite.data(config)  # may take minutes: Ctrl-C ends it at once
    with Interrupts() as interrupts:
        try:
            writer = open_writer(
                config, plan, data, Path(out), resume, here=launcher is None, audits=audits
            )
        except KeyboardInterrupt:
            raise Interrupted("interrupted before the first cell") from None
        with writer:
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
    # pandas, which no run needs that stops after its blocks
    from retbench.report.speed import comparison

    return comparison.still_open(run, alpha)


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


class _Session:
    """The cells of a call, measured by worker processes of this machine."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.config, self.plan, self.writer = call.config, call.plan, call.writer
        self._processes = self.writer.last_process + 1
        self._begun = time.monotonic()
        self._cpus: tuple[int, ...] = ()
        self._verified = Verified(self.config)

    def run(self) -> None:
        """Measure what is not done yet."""
        self._call.observer.started(self.plan, self.writer.done)
        planned = (self.plan.keys(block) for block in self.plan.measured_blocks)
        if all(keys <= self.writer.done for keys in planned) or self.writer.meta.get("stopped"):
            return
        self._choose_cpus()
        self._measure_ceilings()
        with ScatteredPages(self._cpus) as scattered:
            for block in self.plan.measured_blocks:
                self._hold(scattered)
                self._measure(block)
                if self._is_last_begun(block) and self._stops(block):
                    break
        if self.config.profile != "smoke":
            # What else the machine does can only lower them: the better of two measurements counts.
            self._measure_ceilings()

    def _choose_cpus(self) -> None:
        """Choose the processors that the workers keep to: for those in turns, the same for all.

        What else a core serves would else happen to one contender alone.
        """
        if self.config.device == "cpu" and in_turns(self.config, self.plan):
            self._cpus = threads.idle_cpus(self.config.threads)
            self.writer.update(cpus=list(self._cpus))

    def _hold(self, scattered: ScatteredPages) -> None:
        """Hold the scattered pages where times on a CPU are to be compared, and there is room."""
        config = self.config
        takes_turns = suites.get(config.suite).takes_turns
        if config.device == "cpu" and takes_turns and config.profile != "smoke":
            scattered.take(max(map(self._needed_bytes, self.plan.points)))
            self.writer.update(held_bytes=scattered.held_bytes)

    def _measure(self, block: int) -> None:
        """What is lacking of one block."""
        cells = self.plan.keys(block)
        done = cells & self.writer.done
        if done == cells:
            return
        begun = time.monotonic()
        available = self._available_bytes()
        contender_run = partial(
            ContenderRun, self.config, block, self.writer, self._call.observer,
            self._numbered_worker, self._verified,
        )  # fmt: skip
        measured = Block(
            self.config, self.plan, block, done, contender_run,
            lambda point: available is None or self._needed_bytes(point) <= available,
        )  # fmt: skip
        self._call.interrupts.check()
        for ended in measured.outcomes():
            self.writer.append(*(outcome.rows for _, _, outcome in ended))
            for contender, point, outcome in ended:
                elapsed_s = outcome.elapsed_s or 0.0
                self._call.observer.cell(block, contender, point, outcome.status, elapsed_s)
            self._call.interrupts.check()
        if not done:  # a block in two parts has no length
            taken = self.writer.meta["block_s"] | {str(block): time.monotonic() - begun}
            self.writer.update(block_s=taken)

    def _needed_bytes(self, point: Point) -> float:
        """Memory that there is to be for the cells of a point to be side by side, by prediction."""
        suite, config = suites.get(self.config.suite), self.config
        cost = suite.cost(config, self.writer.meta["ceilings"])
        sizes = (suite.size(config, contender, point) for contender in self.plan.contenders)
        return sum(cost.memory_bytes(size, point) for size in sizes) / SHARE_OF_MEMORY

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
        self._call.observer.phase("verdicts")
        still_open = self._call.settled(store.open_run(self.writer.path), alpha)
        if not still_open:
            known = units.rough(cast(TimedConfig, self.config).precision)
            why = f"every ratio that was measured has a verdict or is known within {known}"
        if why is not None:
            self.writer.update(
                stopped={"blocks": block + 1, "alpha": alpha, "why": why, "open": still_open}
            )
        return why is not None

    def _measure_ceilings(self) -> None:
        """Ask a worker of its own for what this machine can do; a failure is but a warning.

        Where another machine began the run they are its: two have no ceilings in common.
        """
        begun, sessions = self.writer.meta["provenance"], self.writer.meta["resumed"]
        now = sessions[-1]["provenance"] if sessions else begun
        if now.get("machine_id") != begun.get("machine_id"):
            return
        self._call.observer.phase("ceilings")
        request = {"do": "ceilings", "configuration": self.config.to_json()}
        try:
            variables = workers.variables(self.config.threads, self._cpus)
            with Worker(self._call.worker_command, variables, self._call.interrupts) as worker:
                reply = worker.ask(request, self.config.timeout_s)
                if reply["event"] != "ceilings":
                    raise WorkerFailure("error", str(reply.get("cause") or reply["event"]))
                if problem := misfit(CeilingsRecord, reply.get("ceilings")):
                    raise WorkerFailure("error", f"the worker's ceilings make no sense: {problem}")
                known = self.writer.meta["ceilings"]
                self.writer.update(ceilings=ceilings.merge(known, reply["ceilings"]))
                worker.stop()
        except WorkerFailure as failure:
            self.writer.warn(f"the machine's ceilings could not be measured: {failure.cause}")

    def _numbered_worker(self) -> tuple[Worker, int]:
        """A fresh worker, of one process or several, and its number; none is given out twice."""
        number, self._processes = self._processes, self._processes + 1
        command = agent.command(self.config, self._call.nodes, self._call.worker_command)
        variables = workers.variables(self.config.threads, self._cpus)
        return Worker(command, variables, self._call.interrupts), number
