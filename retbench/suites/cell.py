"""One cell in one worker: what is timed, slice by slice, and what is read when all is done.

A suite prepares a cell: it builds what is measured, reads the memory of its first calls, and names
its phases. A phase is then timed in slices, each when it is this contender's turn (rule M6): first
a call that is not counted, for the other contenders have had the processor and its caches; then
calls for some 20 ms, as one sample. What is true of every suite stands here once: warm-up, the
length of a slice, the check against physics, the energy of calls, flags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from retbench.machine.ceilings import violates_physics
from retbench.machine.clock import LAUNCH_BOUND, Timing
from retbench.machine.energy import used
from retbench.machine.interference import Disturbances
from retbench.suites.base import SLICE_S
from retbench.suites.session import Rows

ENERGY_S = 0.5
"""For how long calls follow each other while their energy is counted: five ticks of a GPU's."""

LONG_CALL = 0.2
"""Share of a phase's budget that a first call takes whose like is not repeated to warm up."""


@dataclass
class Phase:
    """Something that is timed again and again.

    Attributes:
        name: the phase that its samples name.
        metric: what a call takes, in seconds over ``per_call``.
        call: what is timed.
        before: what is done before each sample, and not timed; None where nothing is.
        wake: what is done once before a slice, and not timed, to wake the threads and fill the
            caches; None for a call, where a slice is short.
        most_calls: calls that may follow each other without ``before``.
        per_call: things that one call does, such as tokens: its time is divided by them.
        implementation: what really ran.
        flops: that one call needs, on each of several ranks; 0 where its time is not doubted.
        moved_bytes: that one call must move besides; 0 where they may stay in a cache.
        parts: further calls, by metric, that are timed one by one in place of ``call``, in this
            order.
        check: asked once after the last slice; what it raises fails the cell.
        energy: the metric of the energy that a call takes, in joules over ``energy_per``; empty
            where that is not measured.
        energy_per: things of one call that share its energy, such as sequences.
        compiles: whether a first call is slow for another reason than its work.
        first_s: seconds that its first call took when the cell was prepared; what takes a good part
            of a phase's budget is called but once more before it is timed.
        is_warm: whether that call left all as it is when it is timed, so that one that takes a good
            part is not called again: nothing was given back, compiled or tuned meanwhile.
    """

    name: str
    metric: str
    call: Callable[[], object]
    before: Callable[[], object] | None = None
    wake: Callable[[], object] | None = None
    most_calls: int = 1
    per_call: int = 1
    implementation: str = ""
    flops: float = 0.0
    moved_bytes: float = 0.0
    parts: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    check: Callable[[], None] | None = None
    energy: str = ""
    energy_per: int = 1
    compiles: bool = False
    first_s: float = 0.0
    is_warm: bool = False


class Cell:
    """What a worker measures at one point.

    Args:
        rows: take the samples.
        phases: what is timed in turns, in this order.

    Attributes:
        phases: the phases by name.
    """

    def __init__(self, rows: Rows, *phases: Phase) -> None:
        self.rows = rows
        self.phases = {phase.name: phase for phase in phases}
        self._repeats = dict.fromkeys(self.phases, 1)
        self._flags: dict[str, list[str]] = {name: [] for name in self.phases}
        self._call_s = dict.fromkeys(self.phases, math.inf)
        self._slice_s = dict.fromkeys(self.phases, 0.0)
        session = rows.session
        self._disturbances = Disturbances(
            session.config.device, session.ranks.mates, session.companions, session.config.threads
        )

    def warm_up(self) -> dict[str, float]:
        """Repeat each phase until its time no longer falls; the seconds of a slice of each."""
        session = self.rows.session
        for name, phase in self.phases.items():
            if not phase.compiles and phase.first_s > session.profile.phase_budget_s * LONG_CALL:
                self._slice_s[name] = phase.first_s
                if not phase.is_warm:  # what was given back is then had
                    self._slice_s[name] = self._sample(phase, 1)[phase.metric].host_s
                continue
            timing = self._sample(phase, 1)[phase.metric]
            if timing.seconds < SLICE_S:  # the first call filled caches, and says too much
                timing = self._sample(phase, 1)[phase.metric]
            enough = max(
                session.clock.repeats_for(timing.seconds), math.ceil(SLICE_S / timing.seconds)
            )
            # All ranks must make as many calls.
            repeats = min(phase.most_calls, session.ranks.broadcast(partial(int, enough)))
            trial = partial(self._sample, phase, repeats)
            self._repeats[name], self._flags[name] = repeats, session.warm_up(trial)
            self._slice_s[name] = sum(timing.host_s * repeats for timing in trial().values())
        return dict(self._slice_s)

    def slice(self, name: str, number: int) -> None:
        """Time one slice of a phase, as the sample of a round.

        Args:
            name: the phase's name.
            number: the number of the round.
        """
        phase, rows = self.phases.get(name), self.rows
        if phase is None:  # the first rank measures this by itself
            return
        with self._disturbances.watched():
            if phase.wake is not None:
                phase.wake()
            elif self._slice_s[name] < 2 * SLICE_S and not phase.parts:
                self._sample(phase, 1)
            timings = self._sample(phase, self._repeats[name])
        self._call_s[name] = min(self._call_s[name], timings[phase.metric].seconds)
        for metric, timing in timings.items():
            rows.add(
                phase.name, metric, timing.seconds / phase.per_call, trial=number,
                implementation=phase.implementation,
                flags=self._flags[name] + ([LAUNCH_BOUND] if timing.launch_bound else []),
            )  # fmt: skip

    def finish(self) -> list[str]:
        """Measure the energy, check what was measured, and say what disturbed it.

        Returns:
            The flags of the cell.

        Raises:
            CellFailure: a phase's own check fails, or its fastest call is beyond physics (M15).
        """
        self._add_energy()
        for name, phase in self.phases.items():
            if phase.check is not None:
                phase.check()
            fastest_s = self._call_s[name]
            if phase.flops and math.isfinite(fastest_s):
                dtype = str(self.rows.point.setting("dtype", self.rows.session.config.dtype))
                work = phase.flops, phase.moved_bytes, dtype
                self.rows.session.require_physical(partial(violates_physics, fastest_s, *work))
        return self.rows.flags() + self._disturbances.flags()

    def _add_energy(self) -> None:
        """What the calls of each phase use, and the device in idleness, where it is counted."""
        session = self.rows.session
        phases = {name: phase for name, phase in self.phases.items() if phase.energy}
        if session.energy_counter is None or not phases:
            return
        source = session.energy_counter.source
        for name, phase in phases.items():
            repeats = self._repeats[name]
            call = partial(self._sample, phase, repeats)
            with self._disturbances.watched():  # a counter counts whoever works
                found = used(session.energy_counter, call, ENERGY_S)
            if found is not None:
                joules = found.joules / (found.calls * repeats * phase.energy_per)
                self.rows.add("energy", phase.energy, joules, implementation=source)
        if idle := used(session.energy_counter, partial(time.sleep, 0.01), ENERGY_S):
            self.rows.add("energy", "idle_w", idle.joules / idle.seconds, implementation=source)

    def _sample(self, phase: Phase, repeats: int) -> dict[str, Timing]:
        """One sample of a phase: the time of a call by metric."""
        if phase.before is not None:
            phase.before()
        session = self.rows.session
        if not phase.parts:
            return {phase.metric: session.time(phase.call, repeats)}
        return {metric: session.time(part) for metric, part in phase.parts.items()}
