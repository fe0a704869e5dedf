import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retbench.config.plan import Contender, Plan, Point
from retbench.engine import runner
from retbench.errors import UserError
from retbench.store import open_run, read_meta, write_meta

Requests = Callable[[], list[dict[str, Any]]]


class Diary:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def started(self, plan: Plan, done: set[Any]) -> None:
        self.events.append(("started", len(done)))

    def worker(self, contender: Contender, block: int) -> None:
        self.events.append(("worker", contender.label, block))

    def phase(self, text: str) -> None:
        self.events.append(("phase", text))

    def cell(
        self, block: int, contender: Contender, point: Point, status: str, elapsed_s: float
    ) -> None:
        self.events.append(("cell", block, contender.label, point.id, status))

    def finished(self, run: Any) -> None:
        self.events.append(("finished", run.path))


def cells(run: Any) -> list[tuple[int, str, str]]:
    statuses = run.statuses()
    return list(zip(statuses["block"], statuses["model"], statuses["point"], strict=True))


def test_every_cell_is_measured_once_point_after_point_in_the_order_of_the_block(
    drive: ModuleType, tmp_path: Path
) -> None:
    run = drive.execute(tmp_path / "run")
    assert cells(run) == drive.cells()
    assert set(run.statuses()["status"]) == {"ok"}
    assert run.meta["state"] == "finished"


def test_each_contender_has_a_fresh_process_in_each_block(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    run = drive.execute(tmp_path / "run", threads=2)
    starts = [request for request in requests() if request["do"] == "start"]
    assert len({start["pid"] for start in starts}) == 4
    assert {start["threads"] for start in starts} == {"2"}
    processes = run.statuses().groupby(["block", "model"])["process"].unique()
    assert sorted(process for (process,) in processes) == [0, 1, 2, 3]


def test_a_cell_keeps_its_samples_and_its_flags(drive: ModuleType, tmp_path: Path) -> None:
    run = drive.execute(tmp_path / "run")
    frame = run.frame()
    assert (frame["metric"] == "tpot_s").sum() == 12 * 3
    assert run.statuses()["flags"].tolist() == [["noisy"]] * 12
    assert (run.statuses()["value"] > 0).all()


def test_what_a_start_takes_is_recorded_once_a_process(drive: ModuleType, tmp_path: Path) -> None:
    frame = drive.execute(tmp_path / "run").frame()
    setup = frame[frame["phase"] == "setup"]
    assert (
        setup.groupby("process")["metric"].apply(list).tolist()
        == [["import_s", "build_s", "gate_s"]] * 4
    )


def test_run_json_holds_models_provenance_and_plan(drive: ModuleType, tmp_path: Path) -> None:
    meta = drive.execute(tmp_path / "run").meta
    assert {label: m["family"] for label, m in meta["models"].items()} == {  # type: ignore[typeddict-item]
        "retnet": "fake", "transformer": "fake",
    }  # fmt: skip
    assert meta["provenance"]["machine_id"]
    assert meta["plan"] == json.loads(json.dumps(drive.PLAN.to_json()))
    assert meta["configuration"]["context"] == [16, 32, 64]


def test_a_smoke_run_measures_ceilings_once(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run")
    assert [request["do"] for request in requests()].count("ceilings") == 1


def test_ceilings_are_measured_before_the_first_cell_and_after_the_last(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    run = drive.execute(tmp_path / "run", profile="quick")
    # Nothing is left to measure, so none again.
    drive.execute(tmp_path / "run", profile="quick", resume=True)
    asked = [request["do"] for request in requests()]
    assert asked.count("ceilings") == 2
    assert (asked[0], asked[-1]) == ("ceilings", "ceilings")
    assert run.meta["ceilings"]["matmul_flop_per_s"] == {"float32": 1e11}


def test_every_worker_is_told_the_ceilings(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run")
    told = [request["ceilings"] for request in requests() if request["do"] == "start"]
    assert [ceilings["matmul_flop_per_s"] for ceilings in told] == [{"float32": 1e11}] * 4


def verified(requests: list[dict[str, Any]]) -> list[bool]:
    return [request["verify"] for request in requests if request["do"] in ("start", "prepare")]


@pytest.mark.parametrize(("mode", "again"), [("eager", False), ("compile", True)])
def test_what_a_process_has_verified_holds_for_the_next_blocks_unless_each_compiles(
    drive: ModuleType, tmp_path: Path, requests: Requests, mode: str, again: bool
) -> None:
    drive.execute(tmp_path / "run", mode=mode)
    assert verified(requests()) == [True] * 8 + [again] * 8
    cut_after(tmp_path / "run", 8)
    asked = len(requests())
    drive.execute(tmp_path / "run", mode=mode, resume=True)
    assert all(verified(requests()[asked:]))  # for this may be another machine


def test_what_failed_is_not_held_for_verified(
    drive: ModuleType, tmp_path: Path, misbehave: Any, requests: Requests
) -> None:
    misbehave({"retnet": {"context=32,batch=1": "crash"}})
    drive.execute(tmp_path / "run")
    asked = [r for r in requests() if r["do"] == "prepare" and r["model"] == "retnet"]
    again = {r["cell"]["seq_len"]: r["verify"] for r in asked[3:]}
    assert again == {16: False, 32: True, 64: False}


@pytest.mark.parametrize("action", ["crash", "garbage", "refuse"])
def test_without_ceilings_the_run_goes_on(
    drive: ModuleType, tmp_path: Path, misbehave: Any, action: str
) -> None:
    misbehave({"ceilings": action})
    run = drive.execute(tmp_path / "run")
    assert len(cells(run)) == 12
    assert run.meta["ceilings"] is None
    assert "ceilings could not be measured" in run.meta["warnings"][0]


@pytest.mark.parametrize("contenders", [2, 1])
def test_contenders_that_take_turns_keep_to_the_same_cpus(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contenders: int
) -> None:
    """What else a core serves would else befall one of them alone."""
    given: set[tuple[int, ...]] = set()

    def variables(threads: int, cpus: tuple[int, ...] = ()) -> Any:
        given.add(cpus)
        return os.environ

    monkeypatch.setattr(runner.threads, "idle_cpus", lambda threads: (3,))
    monkeypatch.setattr(runner.workers, "variables", variables)
    plan = replace(drive.PLAN, contenders=drive.PLAN.contenders[:contenders])
    run = drive.execute(tmp_path / "run", plan=plan)
    assert given == {(3,) if contenders == 2 else ()}
    assert run.meta.get("cpus") == ([3] if contenders == 2 else None)


@pytest.mark.parametrize(
    ("changes", "held"), [({"profile": "quick"}, 2), ({}, None), ({"device": "cuda"}, None)]
)
def test_scattered_pages_are_held_in_each_block_where_times_on_a_cpu_are_compared(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any,
    held: int | None,
) -> None:  # fmt: skip
    class Held(runner.ScatteredPages):
        def take(self, needed_bytes: float = 0.0) -> None:
            assert needed_bytes > 0
            self.held_bytes += 1

    monkeypatch.setattr(runner, "ScatteredPages", Held)
    run = drive.execute(tmp_path / "run", **changes)
    assert run.meta.get("held_bytes") == held


def test_the_observer_follows_the_run(drive: ModuleType, tmp_path: Path) -> None:
    diary = Diary()
    drive.execute(tmp_path / "run", observer=diary)
    kinds = [event[0] for event in diary.events]
    assert diary.events[0] == ("started", 0)
    assert diary.events[-1] == ("finished", tmp_path / "run")
    assert kinds.count("worker") == 4
    assert [event[1:4] for event in diary.events if event[0] == "cell"] == drive.cells()
    assert ("phase", "warm-up") in diary.events


def test_a_finished_run_is_resumed_to_itself(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    asked = len(requests())
    drive.execute(tmp_path / "run", resume=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    assert len(requests()) == asked


def cut_after(run: Path, cells: int) -> None:
    """Make a run look as if it had been killed behind its first ``cells`` cells."""
    kept, count = [], 0
    for line in (run / "samples.jsonl").read_text().splitlines(keepends=True):
        kept.append(line)
        count += '"phase":"cell"' in line
        if count == cells:
            break
    (run / "samples.jsonl").write_text("".join(kept))
    write_meta(run, {**read_meta(run), "state": "running", "samples": None})


def test_a_resumed_run_measures_what_is_left_and_numbers_processes_on(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run")
    cut_after(tmp_path / "run", 4)
    asked = len(requests())
    run = drive.execute(tmp_path / "run", resume=True)
    assert cells(run) == drive.cells()
    assert [request["do"] for request in requests()[asked:]].count("prepare") == 8
    first, second = (run.statuses().query(f"block == {block}")["process"] for block in (0, 1))
    assert set(first[:4]) == {0, 1} and set(first[4:]) == {2, 3}
    assert set(second) == {4, 5}
    assert run.meta["resumed"][0]["from_process"] == 2


def test_cells_that_took_turns_are_kept_all_or_none(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run")
    whole = (tmp_path / "run" / "samples.jsonl").read_bytes()
    cut_after(tmp_path / "run", 5)  # of two at the third point one
    asked = len(requests())
    run = drive.execute(tmp_path / "run", resume=True)
    assert cells(run) == drive.cells()
    assert [request["do"] for request in requests()[asked:]].count("prepare") == 8
    torn = (tmp_path / "run" / "samples.jsonl.cut").read_bytes()
    assert torn in whole and torn.count(b'"phase":"cell"') == 1


def change_meta(run: Path, **meta: Any) -> None:
    write_meta(run, {**read_meta(run), **meta})  # type: ignore[typeddict-item]


def test_a_run_of_another_machine_is_not_continued(drive: ModuleType, tmp_path: Path) -> None:
    provenance = drive.execute(tmp_path / "run").meta["provenance"]
    cut_after(tmp_path / "run", 4)
    change_meta(tmp_path / "run", provenance=provenance | {"machine_id": "another"})
    with pytest.raises(UserError, match="begun on another machine"):
        drive.execute(tmp_path / "run", resume=True)


def test_a_run_of_another_plan_is_not_continued(drive: ModuleType, tmp_path: Path) -> None:
    drive.execute(tmp_path / "run")
    plan = Plan("inference", drive.PLAN.contenders, (Point(16, 2),), 2, 0)
    with pytest.raises(UserError, match="begun with other cells"):
        drive.execute(tmp_path / "run", plan=plan, resume=True)


def test_a_run_continued_at_another_commit_or_in_another_environment_says_so(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance = drive.execute(tmp_path / "run").meta["provenance"]
    cut_after(tmp_path / "run", 4)
    change_meta(tmp_path / "run", provenance=provenance | {"commit": {"hash": "0", "dirty": True}})
    monkeypatch.setenv("MKL_VERBOSE", "1")
    drive.execute(tmp_path / "run", resume=True)
    assert open_run(tmp_path / "run").meta["warnings"] == [
        "commit changed before the run was resumed",
        "the environment changed before the run was resumed",
    ]


# When a run ends.

GROWING = {"minutes": 5.0}


def growing(drive: ModuleType) -> Plan:
    """A plan that may end after two blocks, and has five at most."""
    return replace(drive.PLAN, blocks=5, least=2)


def settles_at(blocks: int) -> Callable[[Any, float], list[str]]:
    """Settled when it has so many blocks, and not before."""
    return lambda run, _: [] if len(blocks_of(run)) >= blocks else ["tpot_s retnet / transformer"]


def blocks_of(run: Any) -> set[int]:
    return {block for block, _, _ in cells(run)}


def test_a_plan_that_is_certain_is_never_looked_at(drive: ModuleType, tmp_path: Path) -> None:
    run = drive.execute(tmp_path / "run", settled=lambda *_: pytest.fail("was looked at"))
    assert (blocks_of(run), run.meta["stopped"]) == ({0, 1}, None)


@pytest.mark.parametrize(("blocks", "alpha"), [(2, 0.01), (4, 0.0025), (5, 0.04)])
def test_blocks_are_added_until_every_ratio_is_settled(
    drive: ModuleType, tmp_path: Path, blocks: int, alpha: float
) -> None:
    settled = settles_at(blocks)
    run = drive.execute(tmp_path / "run", plan=growing(drive), settled=settled, **GROWING)
    assert blocks_of(run) == set(range(blocks))
    assert run.meta["stopped"] == {
        "blocks": blocks, "alpha": alpha, "open": [],
        "why": "every ratio that was measured has a verdict or is known within 2%",
    }  # fmt: skip
    assert set(run.meta["block_s"]) == {str(block) for block in range(blocks)}


def test_a_look_sees_the_blocks_so_far(drive: ModuleType, tmp_path: Path) -> None:
    seen = []

    def look(run: Any, alpha: float) -> list[str]:
        seen.append((alpha, blocks_of(run)))
        return settles_at(3)(run, alpha)

    drive.execute(tmp_path / "run", plan=growing(drive), settled=look, **GROWING)
    assert seen == [(0.01, {0, 1}), (0.005, {0, 1, 2})]


def test_no_block_is_begun_that_the_minutes_do_not_suffice_for(
    drive: ModuleType, tmp_path: Path
) -> None:
    run = drive.execute(tmp_path / "run", plan=growing(drive), settled=settles_at(99), minutes=1e-6)
    assert blocks_of(run) == {0, 1}
    stopped = run.meta["stopped"]
    assert stopped["alpha"] == 0.05  # nothing that was seen could have ended it before
    assert stopped["why"] == "1e-06 minutes do not suffice for another block"
    assert stopped["open"] == ["tpot_s retnet / transformer"]


def test_the_next_block_is_expected_to_take_as_long_as_the_last_one(
    drive: ModuleType, tmp_path: Path
) -> None:
    """Not as the first one, which verifies every cell besides."""
    about = {"plan": growing(drive), "settled": settles_at(99), **GROWING}
    drive.execute(tmp_path / "run", **about)
    cut_after(tmp_path / "run", 6)
    change_meta(tmp_path / "run", stopped=None, block_s={"0": 1e6})
    assert blocks_of(drive.execute(tmp_path / "run", resume=True, **about)) == set(range(5))


def test_a_run_ends_at_the_most_blocks_whatever_is_open(drive: ModuleType, tmp_path: Path) -> None:
    run = drive.execute(tmp_path / "run", plan=growing(drive), settled=settles_at(99), **GROWING)
    assert blocks_of(run) == set(range(5))
    assert run.meta["stopped"]["why"] == "5 blocks are the most there may be"


def test_a_run_that_stopped_is_resumed_to_itself(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    about = {"plan": growing(drive), "settled": settles_at(2), **GROWING}
    drive.execute(tmp_path / "run", **about)
    asked = len(requests())
    drive.execute(tmp_path / "run", resume=True, **about)
    assert len(requests()) == asked


def test_a_run_killed_in_a_further_block_is_looked_at_behind_that_one(
    drive: ModuleType, tmp_path: Path
) -> None:
    about = {"plan": growing(drive), **GROWING}
    drive.execute(tmp_path / "run", settled=settles_at(4), **about)
    cut_after(tmp_path / "run", 20)  # in the fourth of the blocks
    change_meta(tmp_path / "run", stopped=None)
    seen: list[float] = []

    def look(run: Any, alpha: float) -> list[str]:
        seen.append(alpha)
        return []

    run = drive.execute(tmp_path / "run", resume=True, settled=look, **about)
    assert seen == [0.0025]
    assert (blocks_of(run), run.meta["stopped"]["blocks"]) == ({0, 1, 2, 3}, 4)


def test_a_block_in_two_parts_has_no_length(drive: ModuleType, tmp_path: Path) -> None:
    drive.execute(tmp_path / "run")
    cut_after(tmp_path / "run", 2)
    change_meta(tmp_path / "run", block_s={})
    assert set(drive.execute(tmp_path / "run", resume=True).meta["block_s"]) == {"1"}


def test_run_json_names_the_primary_comparisons_before_anything_is_measured(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(drive.PLAN, primary=(("tpot_s", "context=64,batch=1"),))
    monkeypatch.setattr(runner._Session, "run", lambda _: None)
    run = drive.execute(tmp_path / "run", plan=plan)
    assert run.meta["primary"] == [["tpot_s", "context=64,batch=1"]]
