"""Turns: contenders of a block side by side, one at work at a time, in rounds of random order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest

from retbench import suites
from retbench.config.plan import Plan
from retbench.config.run import Profile
from retbench.engine import turns
from retbench.engine.contender_run import ContenderRun, Outcome
from retbench.engine.turns import in_turns, take_turns
from retbench.suites.training import TrainingThroughputConfig

Requests = Callable[[], list[dict[str, Any]]]


# With fake workers: who is alive, who works, in which order.


def test_all_contenders_of_a_block_are_alive_before_the_first_is_prepared(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run", plan=drive.THREE)
    asked = [request for request in requests() if request["do"] != "ceilings"]
    assert [request["do"] for request in asked[:4]] == ["start"] * 3 + ["prepare"]
    prepared = [request for request in asked if request["do"] == "prepare"]
    assert {request["companions"] for request in prepared} == {2}
    assert len({request["pid"] for request in prepared}) == 3


def test_only_one_contender_works_at_a_time(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run", plan=drive.THREE)
    work = [r for r in requests() if r["do"].split()[0] in ("prepare", "slice", "finish")]
    assert len(work) == 2 * 3 * 3 * 5  # at three points three contenders each have five requests
    for begun, done in zip(work[::2], work[1::2], strict=True):
        assert (done["do"], done["pid"]) == (f"{begun['do']} done", begun["pid"])


def orders(requests: list[dict[str, Any]], do: str = "slice") -> list[tuple[str, ...]]:
    """Of each round of three contenders the order in which they had their turns."""
    labels = [request["model"] for request in requests if request["do"] == do]
    return list(zip(labels[::3], labels[1::3], labels[2::3], strict=True))


def test_every_round_holds_each_contender_once(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run", plan=drive.THREE)
    made = orders(requests())
    assert len(made) >= 2 * 3  # the profile's fewest rounds at three points
    assert {frozenset(order) for order in made} == {frozenset(("retnet", "transformer", "gqa"))}


def test_the_seed_decides_on_the_orders(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    made = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        asked = len(requests()) if made else 0
        drive.execute(tmp_path / name, plan=replace(drive.THREE, seed=seed))
        made.append(orders(requests()[asked:], "prepare") + orders(requests()[asked:]))
    assert made[0] == made[1] != made[2]


def test_samples_keep_their_round_which_all_contenders_share(
    drive: ModuleType, tmp_path: Path
) -> None:
    frame = drive.execute(tmp_path / "run", plan=drive.THREE).frame()
    timed = frame[frame["metric"] == "tpot_s"]
    rounds = timed.groupby(["point", "model"])["trial"].apply(tuple)
    for _, shared in rounds.groupby("point"):
        assert len(set(shared)) == 1
        assert shared.iloc[0] == tuple(range(len(shared.iloc[0])))


# When contenders take turns.


def test_a_suite_that_is_not_timed_takes_no_turns(drive: ModuleType) -> None:
    for name in ("inference", "training", "kernels"):
        assert in_turns(suites.get(name).config(device="cpu"), drive.THREE)
    for name in ("perplexity", "scaling", "ablation", "recall"):
        assert not in_turns(suites.get(name).config(device="cpu"), drive.THREE)


@pytest.mark.parametrize("case", ["one contender", "two processes"])
def test_one_contender_or_one_of_several_processes_has_nobody_to_take_turns_with(
    drive: ModuleType, case: str
) -> None:
    plan: Plan = drive.THREE
    if case == "one contender":
        plan = replace(plan, contenders=plan.contenders[:1])
    processes = 1 if case == "one contender" else 2
    config = TrainingThroughputConfig(device="cpu", world_size=processes)
    assert not in_turns(config, plan)


# The number of rounds, on a clock that moves only with the slices.


@dataclass(eq=False)
class Timed:
    """A contender whose slices take so long, and which fails in one of them."""

    now: list[float]
    slice_s: float = 1.0
    fails_in: int | None = None
    turns: list[tuple[str, int]] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)

    def slice(self, phase: str, number: int) -> Outcome | None:
        self.begun.append(self.now[0])
        self.turns.append((phase, number))
        self.now[0] += self.slice_s
        return Outcome("error", None, []) if number == self.fails_in else None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the budget's clock shows, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])
    return now


def profile(rounds: int = 10, min_rounds: int = 2, budget_s: float = 1e9) -> Profile:
    return Profile("of a test", 1, 0, rounds, min_rounds, budget_s)


def run_rounds(
    contenders: list[Timed], given: Profile, phases: tuple[str, ...] = ("decode",)
) -> dict[ContenderRun, Outcome]:
    return take_turns(
        {cast(ContenderRun, one): phases for one in contenders}, given, random.Random(0)
    )


def test_there_are_as_many_rounds_as_the_profile_says(now: list[float]) -> None:
    both = [Timed(now), Timed(now)]
    assert run_rounds(both, profile(rounds=7)) == {}
    assert both[0].turns == both[1].turns == [("decode", number) for number in range(7)]


def test_no_round_begins_that_would_exceed_the_budget_of_all_who_take_turns(
    now: list[float],
) -> None:
    both = [Timed(now, 1.0), Timed(now, 2.0)]
    run_rounds(both, profile(budget_s=6.0))  # 12 s for two: four rounds of 3 s
    assert [len(one.turns) for one in both] == [4, 4]


def test_the_fewest_rounds_are_made_however_long_they_take(now: list[float]) -> None:
    one = Timed(now, 50.0)
    run_rounds([one], profile(min_rounds=3, budget_s=1.0))
    assert len(one.turns) == 3


def test_each_phase_has_rounds_and_a_budget_of_its_own(now: list[float]) -> None:
    both = [Timed(now), Timed(now)]
    run_rounds(both, profile(budget_s=3.0), phases=("prefill", "decode"))
    expected = [(phase, number) for phase in ("prefill", "decode") for number in range(3)]
    assert both[0].turns == both[1].turns == expected


def test_a_phase_that_one_contender_lacks_is_the_others_own(now: list[float]) -> None:
    whole, part = Timed(now), Timed(now)
    phases = {whole: ("prefill", "decode"), part: ("decode",)}
    take_turns(cast(Any, phases), profile(rounds=2), random.Random(0))
    assert [phase for phase, _ in whole.turns] == ["prefill"] * 2 + ["decode"] * 2
    assert [phase for phase, _ in part.turns] == ["decode"] * 2


def test_who_fails_has_no_further_turn_and_the_others_have_theirs(now: list[float]) -> None:
    failing, *others = Timed(now, fails_in=1), Timed(now), Timed(now)
    failed = run_rounds([failing, *others], profile(rounds=4), phases=("prefill", "decode"))
    assert {run: ended.status for run, ended in failed.items()} == {failing: "error"}
    assert failing.turns == [("prefill", 0), ("prefill", 1)]
    assert [len(one.turns) for one in others] == [8, 8]


def test_rounds_end_when_nobody_is_left(now: list[float]) -> None:
    both = [Timed(now, fails_in=0), Timed(now, fails_in=2)]
    assert len(run_rounds(both, profile())) == 2
    assert [len(one.turns) for one in both] == [1, 3]


def test_orders_are_random_and_every_other_one_is_the_reverse_of_the_one_before(
    now: list[float],
) -> None:
    three = [Timed(now) for _ in range(3)]
    run_rounds(three, profile(rounds=600))
    rounds = np.array([one.begun for one in three]).T
    places = np.argsort(rounds, axis=1)
    assert (places[1::2] == places[::2, ::-1]).all()
    drawn = Counter(map(tuple, places[::2].tolist()))
    # Binomial(300, 1/6): 50 with a standard deviation of 6.5; five of them either way.
    assert len(drawn) == 6 and all(17 < times < 83 for times in drawn.values())
