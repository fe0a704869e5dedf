"""One block: contenders that take turns, round after round, or one after the other.

The workers of all contenders of a block are alive at the same time. At each point all prepare their
cell; then, phase by phase, there are rounds: in each every contender has one slice timed, in random
order and then in the reverse of it, while the others sleep. What happens to the machine so happens
to all of them, within a fraction of a second, and cancels in their ratio (rule M6). What cannot be
side by side is measured alone, and is flagged so: points whose cells together would not fit into
memory, which is predicted and then observed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain

from retbench import suites
from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import PROFILES, Profile, RunConfig
from retbench.engine.contender_run import ContenderRun, Outcome
from retbench.store.journal import ALONE, Key

Ended = tuple[Contender, Point, Outcome]


def in_turns(config: RunConfig, plan: Plan) -> bool:
    """Whether contenders take turns where they can; not those of several processes each."""
    takes_turns = suites.get(config.suite).takes_turns
    return takes_turns and config.world_size == 1 and len(plan.contenders) > 1


class Block:
    """The cells of one block that are still to be measured.

    Args:
        config: of the run.
        plan: of the run.
        block: its number.
        done: the ``(block, model, point)`` of cells that are committed.
        contender_run: makes a contender's run of this block.
        fits: predicts whether the cells of a point fit into memory together.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        block: int,
        done: set[Key],
        contender_run: Callable[[Contender], ContenderRun],
        fits: Callable[[Point], bool],
    ) -> None:
        self._config, self._plan, self._block = config, plan, block
        self._contender_run = contender_run
        self._order = plan.order(block)
        self._left = {
            point: [c for c in self._order if (block, c.label, point.id) not in done]
            for point in plan.ascending(block)
        }
        # All contenders are to be side by side at a point, or none.
        self._together = [
            point
            for point, left in self._left.items()
            if in_turns(config, plan) and left == self._order and fits(point)
        ]

    def outcomes(self) -> Iterator[list[Ended]]:
        """Measure; yields how the cells of one point ended, those of turns together."""
        observed: list[Point] = []
        if self._together:
            yield from self._in_turns(observed)
        alone = [p for p in self._left if p not in self._together or p in observed]
        for contender in self._order:
            points = [point for point in alone if contender in self._left[point]]
            if points:
                yield from self._one_by_one(contender, points)

    def _in_turns(self, observed: list[Point]) -> Iterator[list[Ended]]:
        """Points at which all contenders are side by side; ``observed`` gets those that cannot."""
        with ExitStack() as stack:
            runs = [stack.enter_context(self._contender_run(c)) for c in self._order]
            for run in runs:
                run.begin()
            for run in runs:
                run.wait()  # or one's imports would run beside another's first calls
            for point in self._together:
                implied = any(_is_smaller(other, point) for other in observed)
                outcomes = None if implied else self._turns(point, runs)
                if outcomes is None:
                    observed.append(point)
                else:
                    yield [(run.contender, point, outcomes[run]) for run in runs]
            for run in runs:
                run.end()

    def _turns(
        self, point: Point, runs: Sequence[ContenderRun]
    ) -> dict[ContenderRun, Outcome] | None:
        """How each run's cell ended; None where several do not fit into memory side by side."""
        outcomes: dict[ContenderRun, Outcome] = {}
        phases: dict[ContenderRun, list[str]] = {}

        def too_large() -> bool:
            return len(runs) > 1 and any(found.status == "oom" for found in outcomes.values())

        order = [c.label for c in self._plan.order(self._block, point.id)]
        for run in sorted(runs, key=lambda run: order.index(run.contender.label)):
            prepared = run.prepare(point, companions=len(runs) - 1)
            if isinstance(prepared, Outcome):
                outcomes[run] = prepared
            else:
                phases[run] = prepared
            if too_large():
                break
        else:
            draw = self._plan.shuffler(self._block, point.id)
            outcomes |= take_turns(phases, PROFILES[self._config.profile], draw)
            left = [] if too_large() else [run for run in phases if run not in outcomes]
            flags = (ALONE,) if len(left) == 1 < len(runs) else ()
            outcomes |= {run: run.finish().flagged(*flags) for run in left}
        if too_large():  # perhaps for what the others' workers hold: each is to be tried alone
            for run in phases:
                run.discard()
            return None
        return outcomes

    def _one_by_one(self, contender: Contender, points: Sequence[Point]) -> Iterator[list[Ended]]:
        """Points that one contender is measured at while no other one's worker is alive."""
        flags = (ALONE,) if suites.get(self._config.suite).takes_turns else ()
        with self._contender_run(contender) as run:
            for point in points:
                outcomes = self._turns(point, [run])
                assert outcomes is not None
                yield [(contender, point, outcomes[run].flagged(*flags))]
            run.end()


def _is_smaller(one: Point, other: Point) -> bool:
    """Whether a point needs no more memory than another: it has no more tokens of anything."""
    return (
        one.settings == other.settings
        and one.seq_len <= other.seq_len
        and one.batch_size <= other.batch_size
    )


def take_turns(
    phases: Mapping[ContenderRun, Sequence[str]], profile: Profile, draw: random.Random
) -> dict[ContenderRun, Outcome]:
    """Go through all phases at one point: each in rounds until there are enough, or time is up.

    Args:
        phases: the contenders that take part, with the names of their phases.
        profile: how many rounds there are, and how long they may take.
        draw: of the orders of rounds.

    Returns:
        How the cells of those ended that did not come to the end; at once where one of several is
        out of memory, for then all are to be tried alone.
    """
    outcomes: dict[ContenderRun, Outcome] = {}
    for phase in dict.fromkeys(chain.from_iterable(phases.values())):
        turns = [run for run in phases if phase in phases[run]]
        budget_s = profile.phase_budget_s * len(turns)
        begun = time.monotonic()
        order: list[ContenderRun] = []
        for number in range(profile.rounds):
            turns = [run for run in turns if run not in outcomes]
            spent_s = time.monotonic() - begun
            # One more is likely to take as long as those before it.
            if number >= profile.min_rounds and spent_s + spent_s / number > budget_s:
                break
            # Whoever came first in a round comes last in the next.
            order = order[::-1] if number % 2 else draw.sample(turns, len(turns))
            for run in (run for run in order if run in turns):
                failed = run.slice(phase, number)
                if failed is None:
                    continue
                outcomes[run] = failed
                if failed.status == "oom" and len(phases) > 1:
                    return outcomes
    return outcomes
