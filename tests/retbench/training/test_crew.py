"""Several processes measure one run: rank 0 leads, and a rank that fails is named.

With fake workers, which fail on demand; real ones measure in test_parallel_suite.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retbench.store import open_run

HERE = Path(__file__).parent
FIRST, SECOND, THIRD = (f"context={n},batch=1" for n in (16, 32, 64))
OTHER, BOTH = "1", "01"

HOW: dict[str, tuple[float, str, dict[str, dict[str, str]]]] = {
    "sound": (20, BOTH, {}),
    "crash": (20, OTHER, {"retnet": {SECOND: "crash"}}),
    "crash in a slice": (20, OTHER, {"retnet": {f"{SECOND} slice 1": "crash"}}),
    "kill": (20, OTHER, {"retnet": {SECOND: "kill"}}),
    "oom": (20, OTHER, {"retnet": {SECOND: "oom"}}),
    "all oom": (20, BOTH, {"retnet": {SECOND: "oom"}}),
    "hang": (1.5, OTHER, {"retnet": {SECOND: "hang"}}),
    "start": (20, OTHER, {"retnet": {"start": "crash"}}),
    "refuse": (20, BOTH, {"retnet": {"start": "refuse"}}),
    "leader": (20, "0", {"retnet": {SECOND: "kill the job"}}),
    "follower": (20, OTHER, {"retnet": {SECOND: "kill the job"}}),
    "stopped": (20, OTHER, {"retnet": {SECOND: "interrupt the job"}}),
}
"""By name: the time of a cell, the ranks whose workers misbehave, and how."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its folder, and its processes by rank."""

    folder: Path
    statuses: tuple[int, ...]
    errors: tuple[str, ...]

    def endings(self, model: str = "retnet", block: int = 0) -> list[tuple[str, str | None]]:
        """Status and cause of one model's cells in one block."""
        rows = open_run(self.folder).endings
        found = [rows.get((block, model, point)) for point in (FIRST, SECOND, THIRD)]
        return [(row["status"], row["cause"]) for row in found if row is not None]


@pytest.fixture(scope="module")
def runs(forked: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Runs in two processes, by how their workers misbehave."""
    folder = tmp_path_factory.mktemp("crews")
    programs = [
        [2, 60, [HERE / "crewed.py", folder / name, str(timeout_s),
                 json.dumps(dict.fromkeys(ranks, actions))]]
        for name, (timeout_s, ranks, actions) in HOW.items()
    ]  # fmt: skip
    found = {}
    for name, ranks in zip(HOW, forked(programs, folder), strict=True):
        assert all(each.out == "" for each in ranks)
        statuses, errors = zip(*((each.status, each.err) for each in ranks), strict=True)
        found[name] = Ended(folder / name, statuses, errors)
    return found


@pytest.mark.parametrize("name", list(HOW)[:-3])
def test_rank_0_alone_writes_and_the_run_goes_to_its_end(runs: dict[str, Ended], name: str) -> None:
    ended = runs[name]
    assert (ended.statuses, ended.errors) == ((0, 0), ("", ""))
    run = open_run(ended.folder)
    assert run.meta["state"] == "finished" and len(run.endings) == 2 * 2 * 3
    assert ended.endings("transformer", 1) == [("ok", None)] * 3
    assert not (run.frame()[["block", "model", "point", "metric", "trial"]].duplicated()).any()


def test_the_workers_of_all_ranks_measure_as_one(runs: dict[str, Ended]) -> None:
    assert runs["sound"].endings() == [("ok", None)] * 3


def test_contenders_of_several_ranks_are_measured_one_after_the_other(
    runs: dict[str, Ended],
) -> None:
    endings = open_run(runs["sound"].folder).endings
    assert {tuple(row["flags"]) for row in endings.values()} == {("noisy", "alone")}
    labels = [label for block, label, _ in endings if block == 0]
    assert labels == sorted(labels) or labels == sorted(labels, reverse=True)


@pytest.mark.parametrize(
    ("name", "status", "cause"),
    [
        ("crash", "error", "rank 1: exit status 3: RuntimeError: in kernel.py"),
        ("crash in a slice", "error", "rank 1: exit status 3: RuntimeError: in kernel.py"),
        ("kill", "oom", "rank 1: killed by signal 9, most likely by the kernel for want of memory"),
        ("hang", "timeout", "rank 1: not done within 1.5 s"),
    ],
)
def test_a_worker_that_fails_in_another_rank_costs_its_cell_and_is_named(
    runs: dict[str, Ended], name: str, status: str, cause: str
) -> None:
    assert runs[name].endings() == [("ok", None), (status, cause), ("ok", None)]


def test_memory_that_another_rank_has_not_is_not_had(runs: dict[str, Ended]) -> None:
    assert runs["oom"].endings() == [
        ("ok", None), ("oom", "rank 1: asked for 8 GiB"),
        ("oom_implied", f"out of memory at {SECOND} in block 0"),
    ]  # fmt: skip


def test_what_all_ranks_have_in_common_names_none(runs: dict[str, Ended]) -> None:
    assert runs["all oom"].endings()[1] == ("oom", "asked for 8 GiB")
    refused = "decoding does not reproduce the forward"
    assert runs["refuse"].endings() == [("error", refused)] * 3


def test_a_worker_that_cannot_start_in_another_rank_is_tried_twice(
    runs: dict[str, Ended],
) -> None:
    cause = "rank 1: exit status 3: RuntimeError: in kernel.py"
    assert runs["start"].endings() == [("error", cause)] * 3


def test_the_others_end_with_rank_0_and_one_says_so(runs: dict[str, Ended]) -> None:
    ended = runs["leader"]
    assert ended.statuses == (-9, 1)
    assert ended.errors[1].count("\n") == 1 and "rank 0 has ended" in ended.errors[1]


def test_without_another_rank_the_run_ends_and_keeps_what_it_has(runs: dict[str, Ended]) -> None:
    ended = runs["follower"]
    assert ended.statuses == (1, -9)
    assert ended.errors[0].count("\n") == 1 and "rank 1 has ended" in ended.errors[0]
    assert open_run(ended.folder).meta["state"] == "interrupted"
    assert ended.endings()[0] == ("ok", None)


def test_a_ctrl_c_of_one_stops_all(runs: dict[str, Ended]) -> None:
    ended = runs["stopped"]
    assert (ended.statuses, ended.errors[1]) == ((130, 130), "")
    assert "cells are kept; continue with: " in ended.errors[0]
    assert "retbench run --resume" in ended.errors[0]
    assert ended.errors[0].endswith(" --parallel ddp, in 2 processes of torchrun\n")
