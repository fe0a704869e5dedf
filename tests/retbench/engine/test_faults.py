"""Workers that crash, hang or run out of memory: real processes, as far as a test can make them."""

import os
import time
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from retbench import suites
from retbench.engine import contender_run, runner
from retbench.engine.contender_run import ContenderRun
from retbench.store import read_meta, write_meta
from retbench.workers import process

from .fake_runs import (
    FIRST,
    SECOND,
    THIRD,
    Misbehave,
    Requests,
    alive,
    coordinates,
    endings,
    flags,
    statuses,
    wait_for,
)

MOMENTS = ("", " slice 1", " finish")


@pytest.mark.parametrize("moment", MOMENTS, ids=("prepare", "slice", "finish"))
@pytest.mark.parametrize(
    ("action", "status", "cause"),
    [
        ("crash", "error", "exit status 3: RuntimeError: in kernel.py"),
        ("segfault", "error", "killed by signal 11"),
        ("garbage", "error", "the worker's reply makes no sense"),
        ("nested", "error", "it is nested too deeply"),
        ("half a death", "error", "it names no status"),
        ("half a character", "error", "half a surrogate pair"),
        ("an endless number", "error", "which is beyond 64 bits"),
        ("talk without end", "error", "the worker's reply does not end"),
        ("no rows", "error", "the worker's samples make no sense: not a list"),
        ("no flags", "error", "the worker's samples make no sense: not a list"),
        ("a far index", "error", "30000000000000000000, which is beyond 64 bits"),
        ("nan", "error", "it holds NaN"),
        ("foreign rows", "error", "a batch holds the rows of one cell"),
        ("kill", "error", "killed by signal 9"),
        ("memory", "oom", "exit status 1: MemoryError: 8 GiB"),
        ("oom", "oom", "asked for 8 GiB"),
    ],
)
def test_a_failing_worker_costs_its_cell_only(
    drive: ModuleType,
    tmp_path: Path,
    misbehave: Misbehave,
    action: str,
    status: str,
    cause: str,
    moment: str,
) -> None:
    misbehave({"retnet": {THIRD + moment: action}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert statuses(run) == ["ok", "ok", status]
    assert cause in (endings(run)[0, THIRD][1] or "")
    for other in ("transformer", "gqa"):
        assert statuses(run, other) == ["ok"] * 3


@pytest.mark.parametrize(("limit_gib", "status"), [(None, "error"), (1.0, "oom")])
def test_a_thread_that_cannot_be_started_is_want_of_memory_where_that_is_limited(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, limit_gib: float | None, status: str
) -> None:
    misbehave({"retnet": {THIRD: "no thread"}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE, memory_limit_gib=limit_gib)
    assert statuses(run) == ["ok", "ok", status]


def test_a_cell_that_is_prepared_without_phases_costs_itself_only(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave({"retnet": {SECOND: "no phases"}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert statuses(run) == ["ok", "error", "ok"]
    assert endings(run)[0, SECOND][1] == "the worker's reply names no phases: None"
    assert statuses(run, "transformer") == statuses(run, "gqa") == ["ok"] * 3


@pytest.fixture
def hours_pass(monkeypatch: pytest.MonkeyPatch, requests: Requests) -> None:
    """Two hours pass at once whenever a worker hangs, so that no test waits for its limit."""

    def monotonic() -> float:
        hung = sum(request["do"] == "hang" for request in requests())
        return time.monotonic() + 7200 * hung

    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(process, "_LONGEST_POLL_S", 0.02)
    monkeypatch.setattr(process, "_OVERSLEPT_S", 86_400.0)  # they do, and nothing was stopped


def test_time_in_which_a_run_was_suspended_is_no_time_of_its_cells(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended_s = 0.0

    class Suspended(process.Worker):
        """A worker that is suspended with its parent, for two hours in each request."""

        def receive(self) -> Any:
            nonlocal suspended_s
            reply = super().receive()
            suspended_s += 7200
            self.stopped_s += 7200
            return reply

    monkeypatch.setattr(runner, "Worker", Suspended)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + suspended_s)
    monkeypatch.setattr(contender_run, "time", clock)
    run = drive.execute(tmp_path / "run", plan=drive.THREE, timeout_s=3600)
    assert statuses(run) == ["ok"] * 3 and suspended_s > 0
    assert all(row["value"] < 3600 for row in run.endings.values())


@pytest.mark.parametrize("moment", MOMENTS, ids=("prepare", "slice", "finish"))
def test_a_worker_that_hangs_is_stopped_in_its_own_time(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, hours_pass: None, moment: str
) -> None:
    misbehave({"retnet": {SECOND + moment: "hang"}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE, timeout_s=3600)
    assert statuses(run) == ["ok", "timeout", "ok"]
    assert endings(run)[0, SECOND][1] == "not done within 3600 s"
    assert statuses(run, "transformer") == statuses(run, "gqa") == ["ok"] * 3


@pytest.mark.parametrize("moment", MOMENTS[:2], ids=("prepare", "slice"))
def test_of_three_the_two_that_are_left_go_on_in_turns(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, moment: str
) -> None:
    misbehave({"retnet": {SECOND + moment: "crash"}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert flags(run, SECOND) == {"retnet": [], "transformer": [], "gqa": []}
    assert flags(run, THIRD) == {"retnet": [], "transformer": [], "gqa": []}


@pytest.mark.parametrize("moment", MOMENTS[:2], ids=("prepare", "slice"))
def test_of_two_the_one_that_is_left_goes_on_alone_and_says_so(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, moment: str
) -> None:
    misbehave({"retnet": {SECOND + moment: "crash"}})
    run = drive.execute(tmp_path / "run")
    assert flags(run, SECOND) == {"retnet": [], "transformer": ["alone"]}
    assert flags(run, THIRD) == {"retnet": [], "transformer": []}


def test_who_fails_when_all_rounds_are_made_leaves_nobody_alone(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave({"retnet": {SECOND + " finish": "crash"}, "transformer": {}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert flags(run, SECOND) == {"retnet": [], "transformer": [], "gqa": []}


def all_flagged(own: list[str]) -> dict[str, list[str]]:
    return {"retnet": own, "transformer": own, "gqa": own}


def alive_beside(requests: list[dict[str, Any]], point: int) -> set[int]:
    """How many other workers were alive while each of a point's cells was prepared last."""
    last = {r["model"]: r["companions"] for r in requests
            if r["do"] == "prepare" and r["cell"]["seq_len"] == point}  # fmt: skip
    return set(last.values())


@pytest.mark.parametrize("moment", MOMENTS, ids=("prepare", "slice", "finish"))
def test_who_runs_out_of_memory_beside_others_is_measured_alone_and_so_are_they(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests, moment: str
) -> None:
    misbehave({"retnet": {SECOND + moment: "oom beside others"}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert {row["status"] for row in run.endings.values()} == {"ok"}
    assert flags(run, FIRST) == all_flagged([])
    assert flags(run, SECOND) == flags(run, THIRD) == all_flagged(["alone"])
    assert alive_beside(requests(), 16) == {2}
    assert alive_beside(requests(), 32) == alive_beside(requests(), 64) == {0}


def test_what_is_predicted_not_to_fit_together_is_measured_alone(
    drive: ModuleType, tmp_path: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "available_memory_bytes", lambda: 1000)
    monkeypatch.setattr(
        suites.get("inference"),
        "cost",
        lambda *_: SimpleNamespace(memory_bytes=lambda _, point: {16: 133, 32: 266}.get(
            point.seq_len, 267)),
    )  # fmt: skip
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert flags(run, FIRST) == flags(run, SECOND) == all_flagged([])
    assert flags(run, THIRD) == all_flagged(["alone"])
    assert (alive_beside(requests(), 32), alive_beside(requests(), 64)) == ({2}, {0})


def test_alone_means_that_no_other_worker_is_alive(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    prepare = ContenderRun.prepare
    before = set(children())  # such as the compiler's, of another test

    def counted(self: ContenderRun, point: Any, companions: int) -> Any:
        if companions == 0:
            at_once.append(len(set(children()) - before) - (self._worker is not None))
        return prepare(self, point, companions)

    misbehave({"gqa": {SECOND: "oom"}})
    monkeypatch.setattr(ContenderRun, "prepare", counted)
    drive.execute(tmp_path / "run", plan=drive.THREE)
    assert at_once == [0] * 6  # of three contenders at two points


def children() -> list[int]:
    """Processes that this one has started and that run."""
    words = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(word) for word in words if alive(int(word))]


def test_a_lone_cell_that_failed_is_not_measured_again(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {THIRD: "oom"}})
    out = tmp_path / "run"
    first = drive.execute(out, plan=drive.THREE)
    behind = [label for _, label, point in first.endings if point == THIRD].index("retnet")
    cut_after(out, 7 + behind)
    asked = len(requests())
    run = drive.execute(out, plan=drive.THREE, resume=True)
    assert coordinates(run) == coordinates(first)
    assert sum(r["do"] == "prepare" for r in requests()[asked:]) == 2 - behind


def cut_after(out: Path, cells: int) -> None:
    """Make a run look as if it had been killed behind its first ``cells`` cells."""
    kept, count = [], 0
    for line in (out / "samples.jsonl").read_text().splitlines(keepends=True):
        if count < cells:
            kept.append(line)
        count += '"phase":"cell"' in line
    (out / "samples.jsonl").write_text("".join(kept))
    write_meta(out, {**read_meta(out), "state": "running", "samples": None})


def test_a_cause_names_no_folder_of_the_machine(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave({"retnet": {SECOND: "path"}})
    plan = drive.Plan("inference", drive.PLAN.contenders, drive.PLAN.points, 1, 0)
    run = drive.execute(tmp_path / "run", plan=plan)
    assert endings(run)[0, SECOND] == ("error", "no file.py")


def test_a_fresh_worker_takes_the_cells_behind_a_crash(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave({"retnet": {SECOND: "crash"}})
    run = drive.execute(tmp_path / "run")
    first, second, third = [run.endings[0, "retnet", p]["process"] for p in (FIRST, SECOND, THIRD)]
    assert first == second != third
    others = [run.endings[0, "transformer", p]["process"] for p in (FIRST, SECOND, THIRD)]
    assert len(set(others)) == 1


def test_a_slow_cell_is_stopped_with_all_its_children(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests, hours_pass: None
) -> None:
    misbehave({"retnet": {SECOND: "hang with a child"}})
    run = drive.execute(tmp_path / "run", timeout_s=3600)
    assert statuses(run) == ["ok", "timeout", "ok"] * 2
    assert endings(run)[0, SECOND][1] == "not done within 3600 s"
    children = [request["child"] for request in requests() if request["do"] == "spawn"]
    assert len(children) == 2
    wait_for(lambda: not any(alive(child) for child in children))


def test_out_of_memory_is_implied_for_larger_cells_in_all_blocks(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {SECOND: "oom"}})
    run = drive.execute(tmp_path / "run")
    assert statuses(run) == ["ok", "oom", "oom_implied", "ok", "oom_implied", "oom_implied"]
    assert endings(run)[0, SECOND][1] == "asked for 8 GiB"
    assert endings(run)[1, THIRD][1] == f"out of memory at {SECOND} in block 0"
    assert statuses(run, "transformer") == ["ok"] * 6
    asked = [r["model"] for r in requests() if r["do"] == "prepare" and r["block"] == 1]
    assert asked.count("retnet") == 1


def test_out_of_memory_implies_nothing_for_a_smaller_batch(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave
) -> None:
    Point = drive.Point
    points = (Point(16, 4), Point(128, 1), Point(16, 16))
    plan = drive.Plan("inference", drive.PLAN.contenders[:1], points, 1, 0)
    misbehave({"retnet": {"context=16,batch=4": "oom"}})
    run = drive.execute(tmp_path / "run", plan=plan)
    assert endings(run)[0, "context=128,batch=1"][0] == "ok"
    assert endings(run)[0, "context=16,batch=16"][0] == "oom_implied"


@pytest.mark.parametrize(
    ("counted", "expected", "why"),
    [
        (count(), ["oom", "oom", "oom_implied"], "most likely by the kernel for want of memory"),
        (repeat(7), ["error", "error", "ok"], "not by the kernel for want of memory"),
        (repeat(None), ["error", "error", "ok"], "this system does not say"),
    ],
)
def test_a_kill_is_for_want_of_memory_where_the_kernel_counts_one(
    drive: ModuleType,
    tmp_path: Path,
    misbehave: Misbehave,
    monkeypatch: pytest.MonkeyPatch,
    counted: Iterator[int | None],
    expected: list[str],
    why: str,
) -> None:
    monkeypatch.setattr(process, "oom_kills", lambda: next(counted))
    misbehave({"retnet": {FIRST: "kill", SECOND: "kill"}})
    run = drive.execute(tmp_path / "run")
    assert statuses(run)[:3] == expected
    assert why in (endings(run)[0, SECOND][1] or "")


def test_a_model_that_fails_its_gate_is_never_timed(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {"start": "refuse"}})
    run = drive.execute(tmp_path / "run")
    cause = "decoding does not reproduce the forward"
    assert set(endings(run).values()) == {("error", cause)}
    assert {r["model"] for r in requests() if r["do"] == "prepare"} == {"transformer"}
    assert len([r for r in requests() if r["do"] == "start" and r["model"] == "retnet"]) == 2


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        ("no model", "there is nothing"),
        ("half a model", "it lacks 'preset'"),
        ("a text for seconds", "'import_s' holds 'x'"),
    ],
)
def test_what_a_worker_says_of_its_model_is_doubted(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, action: str, cause: str
) -> None:
    misbehave({"retnet": {"start": action}})
    run = drive.execute(tmp_path / "run")
    said = f"what the worker says of its model makes no sense: {cause}"
    assert set(endings(run).values()) == {("error", said)}
    assert statuses(run, "transformer") == ["ok"] * 6


def test_a_worker_that_talks_without_end_is_stopped_in_its_own_time(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, hours_pass: None
) -> None:
    misbehave({"retnet": {THIRD: "tell phases without end"}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert statuses(run) == ["ok", "ok", "timeout"]
    assert statuses(run, "transformer") == ["ok"] * 3


def test_a_worker_that_cannot_start_is_tried_twice_a_block(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {"start": "crash"}})
    run = drive.execute(tmp_path / "run")
    assert statuses(run) == ["error"] * 6
    assert len([r for r in requests() if r["do"] == "start" and r["model"] == "retnet"]) == 4
    assert flags(run, FIRST) == {"retnet": [], "transformer": ["alone"]}
    assert statuses(run, "transformer") == ["ok"] * 6


def test_a_worker_that_hangs_at_its_start_is_stopped(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, hours_pass: None
) -> None:
    misbehave({"retnet": {"start": "hang"}})
    plan = drive.Plan("inference", drive.PLAN.contenders, drive.PLAN.points, 1, 0)
    run = drive.execute(tmp_path / "run", plan=plan, timeout_s=3600)
    assert statuses(run) == ["timeout"] * 3
