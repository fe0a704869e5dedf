"""The session in which one worker process measures one contender, and the samples that it makes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from retbench.config.plan import Contender, Point
from retbench.config.run import MEMORY_BLOCKS, PROFILES, Profile
from retbench.distributed.process_group import ALONE, Ranks
from retbench.machine import ceilings, energy
from retbench.machine.ceilings import Ceilings
from retbench.machine.clock import Clock, Timing, slowed, warm_up
from retbench.metrics import Sample
from retbench.store.samples import new_sample
from retbench.suites.base import CellFailure, model_config

NOT_FINITE = "not_finite"
"""Flags a sample, and its cell, whose value was NaN or infinite."""

if TYPE_CHECKING:
    import torch

    from models.protocol import LanguageModel
    from retbench.machine.memory_meter import MemoryMeter


@dataclass
class Session:
    """One worker process: what is measured, and what measures it.

    Attributes:
        config: the run's configuration, of its suite's own class.
        contender: the contender that is measured.
        block: round of the run, from 0.
        process: number of this process in the run, from 0.
        subject: what the suite built to be measured; for most a model, see :attr:`model`.
        device: where it is.
        clock: the clock of that device.
        meter: measures its memory; its baseline was taken after the imports, before the model.
        ceilings: the machine's ceilings, as measured when the run began; None where unknown.
        options: overrides of the model's configuration that the suite asks for.
        ranks: the processes that measure together, each in a session of its own.
        companions: other contenders' processes that are alive meanwhile, and idle.
    """

    config: Any
    contender: Contender
    block: int
    process: int
    subject: Any
    device: torch.device
    clock: Clock
    meter: MemoryMeter
    ceilings: Ceilings = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE
    companions: int = 0

    @cached_property
    def training_implementation(self) -> str:
        """What computes the mixing in training; asked for first before the model is shared out."""
        with self.autocast():
            return self.model.implementation("train")

    def autocast(self) -> torch.autocast:
        """Where trainings and tests of a run in bfloat16 compute; without effect in others."""
        from retbench.training.step import autocast

        return autocast(self.device, self.config)

    @cached_property
    def trained(self) -> Any:
        """What to call in the model's place in training, once and for all cells.

        From then on the model may hold a share of its parameters only.
        """
        return self.ranks.wrap(self.subject)

    @cached_property
    def energy_counter(self) -> energy.Counter | None:
        """What counts the energy of the device; None where nothing does, or several ranks work."""
        return energy.counter(self.config.device) if self.ranks.size == 1 else None

    @property
    def reads_memory(self) -> bool:
        """Whether the memory of this process is read, for which its heap is given back."""
        return self.block < MEMORY_BLOCKS

    @property
    def model(self) -> LanguageModel:
        """The subject of a suite that measures models, in evaluation mode."""
        return cast("LanguageModel", self.subject)

    @property
    def profile(self) -> Profile:
        """How often to measure."""
        return PROFILES[self.config.profile]

    def build(self, point: Point, seed: int) -> LanguageModel:
        """A new model of this contender, to be trained: float32 weights, at the point's preset.

        Args:
            point: the point; its setting ``preset``, if it has one, overrules the run's.
            seed: the seed of the initialisation.
        """
        config = model_config(self.config, self.contender, self.options, point)
        return config.build(device=self.device, seed=seed)

    def time(self, fn: Callable[[], object], repeats: int = 1) -> Timing:
        """Time a call that all ranks begin together: the slowest one's time is that of all.

        What the run slows down on purpose is slowed down here (see :class:`Contender`).
        """
        ranks, slowdown = self.ranks, self.contender.slowdown
        ranks.barrier()
        timing = self.clock.time(slowed(fn, slowdown, self.clock) if slowdown else fn, repeats)
        return replace(
            timing,
            host_s=ranks.all_reduce_max(timing.host_s),
            device_s=None if timing.device_s is None else ranks.all_reduce_max(timing.device_s),
        )

    def now(self) -> float:
        """Seconds on a clock that all ranks read alike, so that they agree on when to stop."""
        return self.ranks.broadcast(time.perf_counter)

    def warm_up(self, trial: Callable[[], Mapping[str, Timing]]) -> list[str]:
        """Repeat a trial until its time no longer falls (rule M3); the flags of its samples."""

        def trial_s() -> float:
            return sum(timing.seconds for timing in trial().values())

        profile = self.profile
        return warm_up(
            trial_s, at_least=profile.warmup, budget_s=profile.phase_budget_s / 2, now=self.now
        )

    def require_physical(self, violation: Callable[[Ceilings], str | None]) -> None:
        """M15: a time that this machine cannot have taken makes the cell invalid.

        Before a cell is condemned the ceilings are measured again: other work on the machine may
        have lowered them when the run began. Of several ranks the first decides.

        Args:
            violation: says why a time is impossible under some ceilings; None where it is not.

        Raises:
            CellFailure: with the status ``invalid``.
        """
        cause = self.ranks.broadcast(lambda: self._impossible(violation))
        if cause is not None:
            raise CellFailure("invalid", cause)

    def _impossible(self, violation: Callable[[Ceilings], str | None]) -> str | None:
        """Why a time is, by the ceilings measured again where it may be."""
        if self.ceilings is None or violation(self.ceilings) is None:
            return None
        config = self.config
        again = ceilings.measure(config.device, config.computed_dtypes, config.threads)
        self.ceilings = ceilings.merge(self.ceilings, again)
        return violation(self.ceilings)


@dataclass
class Rows:
    """The samples of one cell in one process, as they are made.

    Attributes:
        session: what this process measures with.
        point: the point of the cell.
        brief: what the suite's ``brief`` said of the cell.
        verify: whether the cell is to be verified before it is timed; else another process has.
        samples: what has been added so far.
        closing: what is undone once the cell has been measured, or has failed.
    """

    session: Session
    point: Point
    brief: Mapping[str, Any] = field(default_factory=dict)
    verify: bool = True
    samples: list[Sample] = field(default_factory=list)
    closing: ExitStack = field(default_factory=ExitStack)

    def add(
        self,
        phase: str,
        metric: str,
        value: float,
        *,
        trial: int | None = None,
        index: int | None = None,
        implementation: str = "",
        flags: Sequence[str] = (),
        seq_len: int | None = None,
    ) -> None:
        """Add one measurement of a declared metric, in that metric's unit.

        ``seq_len`` is the point's unless something else was measured at, as in a test of lengths.
        A value that is not finite, which no file can hold, is left out: its sample is an error
        whose cause names it, and the cell's others stay.
        """
        session = self.session
        sample = new_sample(session.config, session.contender, self.point, phase, metric, value)
        sample |= {
            "implementation": implementation, "block": session.block, "process": session.process,
            "trial": trial, "index": index, "flags": list(flags),
        }  # fmt: skip
        if seq_len:
            sample["seq_len"] = seq_len
        if not math.isfinite(value):
            sample |= {"value": None, "status": "error", "cause": f"{metric} is {value}"}
            sample["flags"].append(NOT_FINITE)
        self.samples.append(sample)

    def add_analytic(self, figures: Mapping[str, float], seq_len: int | None = None) -> None:
        """Add what arithmetic says, by metric; see :meth:`add`."""
        for metric, figure in figures.items():
            self.add("analytic", metric, figure, implementation="analytic", seq_len=seq_len)

    def flags(self) -> list[str]:
        """Every flag that any sample carries, once."""
        return sorted({flag for sample in self.samples for flag in sample["flags"]})
