"""The jobs that measure a run's blocks: what each is told and does, and who looks after them.

See :mod:`retbench.engine.slurm` for what they are submitted with,
:mod:`retbench.store.merge` for the directories that they write.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from retbench import store, suites
from retbench.config.plan import Plan
from retbench.engine import audit, runner
from retbench.engine.forecast import forecast
from retbench.engine.resolve import check
from retbench.engine.runner import Call
from retbench.errors import Busy, UserError
from retbench.machine.provenance import anonymous
from retbench.metrics import Status
from retbench.store import merge
from retbench.store.journal import Key

if TYPE_CHECKING:
    from submitit import Job

    from retbench.engine.slurm import Launcher

# A forecast is good to a factor of two on a machine that it knows, which a node is not yet.
_TIME_MARGIN = 4
_LEAST_TIME_MIN = 20

_ATTEMPTS = 2
_BUSY_S = 2.0
_LATE_VIEW_S = 180.0  # what a job wrote may be seen so much later here, where disks are shared
# Slurm's states of a job that will still do something.
_ALIVE = (
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "PREEMPTED",
)  # fmt: skip

# What Slurm calls it, and what submitit does where it has been warned in time.
_TIMED_OUT = ("TIMEOUT", "TIME LIMIT", "timed-out")


def load_submitit() -> ModuleType:
    """The package ``submitit``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "launcher slurm: needs the package submitit", "pip install retbench[slurm]"
        ) from None
    return submitit


@dataclass(frozen=True)
class Task:
    """What a job is told: all it needs to measure one block, as a pickle holds it.

    Attributes:
        configuration: of the run, as ``RunConfig.to_json`` gives it.
        plan: with its one block.
        out: the part's directory.
        known: cells that are committed already, of this block and of others.
        worker_command: the program that measures.
    """

    configuration: dict[str, Any]
    plan: Plan
    out: Path
    known: store.Known
    worker_command: tuple[str, ...]


def carry_out(task: Task) -> None:
    """Measure one block; what a job runs, on whichever machine it finds itself.

    Raises:
        UserError: this machine cannot run it, or the job was told to stop.
    """
    config = suites.configuration(task.configuration)
    check(config)
    while True:
        try:
            runner.execute(
                config, out=task.out, resume=(task.out / store.RUN_FILE).exists(), plan=task.plan,
                worker_command=task.worker_command, audits=audit.known, known=task.known,
            )  # fmt: skip
            return
        except Busy:
            # A job that nobody knows of any more is at it: what it leaves undone is for this one.
            time.sleep(_BUSY_S)


class Jobs:
    """The jobs of one call, from their submission until all cells are committed."""

    def __init__(self, launcher: Launcher, call: Call) -> None:
        self._launcher = launcher
        self._call = call
        self._writer = call.writer
        self._parts = {
            n: merge.Part(call.config, call.writer.path, n) for n in call.plan.measured_blocks
        }
        self._jobs: dict[int, Job[None]] = {}
        self._deaths: dict[int, list[str]] = {block: [] for block in self._parts}
        self._ended_s: dict[str, float] = {}
        self._told: set[Key] = set()

    def run(self) -> None:
        """Submit, wait and merge until every cell of the plan has a status."""
        plan, observer = self._call.plan, self._call.observer
        self._refresh()
        self._told = self._writer.done.union(*(part.batches for part in self._parts.values()))
        observer.started(plan, set(self._told))
        self._merge()
        try:
            for blocks in _waves(plan):
                self._start([block for block in blocks if self._lacks(block)])
                while self._jobs:
                    self._call.interrupts.wait(self._launcher.poll_s)
                    self._look_after()
        except BaseException:
            self._give_up()
            raise

    def _look_after(self) -> None:
        """Take in what has been measured, and bury the dead."""
        # In this order: what an ended job leaves undone is not just about to be committed.
        ended = [block for block, job in self._jobs.items() if job.done()]
        self._refresh()
        ended = [block for block in ended if not (self._lacks(block) and self._may_show(block))]
        died = [block for block in ended if self._lacks(block)]
        for block in died:
            self._record_death(block)
        for block in ended:
            del self._jobs[block]
        self._submit([block for block in died if len(self._deaths[block]) < _ATTEMPTS])
        self._merge()
        self._call.observer.phase(f"jobs at work or waiting: {len(self._jobs)}")

    def _refresh(self) -> None:
        for part in self._parts.values():
            part.refresh()

    def _merge(self, *, gaps: bool = False) -> None:
        """Merge the parts, and tell the observer of the cells that are new."""
        merge.merge(self._writer, self._call.plan, self._parts, gaps=gaps)
        for block, contender, point in self._call.plan.cells():
            key = (block, contender.label, point.id)
            batch = self._parts[block].batch(contender, point)
            if batch is not None and key not in self._told:
                self._told.add(key)
                elapsed_s = batch[-1]["value"] or 0.0
                self._call.observer.cell(block, contender, point, batch[-1]["status"], elapsed_s)

    def _lacks(self, block: int) -> bool:
        """Whether a cell of the block has not been measured."""
        there = self._writer.statuses.keys() | self._parts[block].batches.keys()
        return not self._call.plan.keys(block) <= there

    def _may_show(self, block: int) -> bool:
        """Whether what an ended job left may be seen yet: it ended well, just now."""
        job = self._jobs[block]
        ended_s = self._ended_s.setdefault(job.job_id, time.monotonic())
        return time.monotonic() - ended_s < _LATE_VIEW_S and _ended_well(job)

    def _start(self, blocks: Sequence[int]) -> None:
        """See that there is a job for each block: one of an earlier session, or a new one."""
        for block in blocks:
            job = self._of_an_earlier_session(block)
            if job is not None:
                self._jobs[block] = job
        self._submit([block for block in blocks if block not in self._jobs])

    def _of_an_earlier_session(self, block: int) -> Job[None] | None:
        known = self._job_ids(block)
        if not known or self._launcher.cluster != "slurm":
            return None
        job: Job[None] = load_submitit().SlurmJob(self._made_folder(), known[-1])
        return job if job.state in _ALIVE else None

    def _submit(self, blocks: Sequence[int]) -> None:
        if not blocks:
            return
        executor = load_submitit().AutoExecutor(self._made_folder(), cluster=self._launcher.cluster)
        tasks = [self._task(block) for block in blocks]
        expected = forecast(self._call.config, self._call.plan)
        longest_s = max(map(expected.block_s, blocks))
        time_min = max(_LEAST_TIME_MIN, math.ceil(_TIME_MARGIN * longest_s / 60))
        try:
            executor.update_parameters(**self._launcher.parameters(self._call.config, time_min))
            jobs = executor.map_array(carry_out, tasks)
        except (RuntimeError, OSError) as problem:  # what sbatch has against it comes last
            raise UserError(f"no job can be submitted: {_last_line(str(problem))}") from None
        self._jobs |= dict(zip(blocks, jobs, strict=True))
        ids = {str(b): [*self._job_ids(b), self._jobs[b].job_id] for b in blocks}
        self._writer.update(jobs=self._writer.meta.get("jobs", {}) | ids)

    def _made_folder(self) -> Path:
        """Where submitit keeps its logs and pickles. They name hosts: git is told to pass by."""
        folder = self._writer.path / merge.FOLDER / "jobs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / ".gitignore").write_text("*\n")
        return folder

    def _job_ids(self, block: int) -> list[str]:
        """The jobs that were submitted for a block, by all sessions."""
        known: list[str] = self._writer.meta.get("jobs", {}).get(str(block), [])
        return known

    def _task(self, block: int) -> Task:
        call = self._call
        return Task(
            configuration=call.config.to_json(),
            plan=replace(call.plan, only=block),
            out=self._parts[block].path.absolute(),
            known=self._writer.known,
            worker_command=tuple(call.worker_command),
        )

    def _record_death(self, block: int) -> None:
        job = self._jobs[block]
        cause = _cause(job)
        self._deaths[block].append(cause)
        if len(self._deaths[block]) == _ATTEMPTS:
            timed_out = any(mark in cause for mark in _TIMED_OUT)
            status: Status = "timeout" if timed_out else "error"
            self._parts[block].lose(status, anonymous(cause))

    def _give_up(self) -> None:
        """Cancel what still runs or waits; keep what has been measured."""
        for job in self._jobs.values():
            job.cancel(check=False)
        self._refresh()
        self._merge(gaps=True)


def _waves(plan: Plan) -> list[list[int]]:
    """The blocks that may run at the same time: all, unless the first decides for the others."""
    first, *others = plan.measured_blocks
    if others and any(point.once for point in plan.points):
        return [[first], others]
    return [[first, *others]]


def _ended_well(job: Job[None]) -> bool:
    """Whether a job has done what it was told, as it says itself or Slurm of it."""
    if job.paths.result_pickle.exists():
        return job.exception() is None
    job.get_info(mode="force")
    return bool(job.state == "COMPLETED")


def _cause(job: Job[None]) -> str:
    """What a dead job died of, naming the job and no host."""
    if job.paths.result_pickle.exists():
        said = _last_line(_trace(str(job.exception())))
    else:  # what Slurm or submitit wrote, which is "... ON node17 CANCELLED ..."
        said = re.sub(r"(?i) on [\w.-]+(?=[ :])", "", _last_line(job.stderr() or ""))
    job.get_info(mode="force")  # what is remembered may be from when it ran
    how = "" if job.state in _ALIVE else f" as {job.state}"
    return f"job {job.job_id} ended{how}" + (f": {said}" if said else "")


def _trace(message: str) -> str:
    """The traceback within submitit's account of a failure, which rules frame."""
    sections = [part for part in message.split("-" * 22) if part.strip(" -\n")]
    return sections[1] if len(sections) > 1 else message


def _last_line(text: str) -> str:
    r"""The last line that says something, without the modules that an exception's name begins with.

    >>> _last_line("Traceback...\nretbench.errors.Misfit: there is no GPU\n")
    'Misfit: there is no GPU'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+(?=\w+: )", "", lines[-1])[:300] if lines else ""
