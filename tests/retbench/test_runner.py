import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retbench.errors import UserError
from retbench.plan import Contender, Plan, Point
from retbench.store import open_run

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


def test_every_cell_is_measured_once_in_the_order_of_the_plan(
    drive: ModuleType, tmp_path: Path
) -> None:
    run = drive.execute(tmp_path / "run")
    assert cells(run) == [(b, c.label, p.id) for b, c, p in drive.PLAN.cells()]
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
    assert (run.statuses()["value"] < 5).all()


def test_what_a_start_takes_is_recorded_once_a_process(drive: ModuleType, tmp_path: Path) -> None:
    frame = drive.execute(tmp_path / "run").frame()
    setup = frame[frame["phase"] == "setup"]
    assert (
        setup.groupby("process")["metric"].apply(list).tolist()
        == [["import_s", "build_s", "gate_s"]] * 4
    )


def test_run_json_holds_models_provenance_and_plan(drive: ModuleType, tmp_path: Path) -> None:
    meta = drive.execute(tmp_path / "run").meta
    assert meta["models"] == {"retnet": {"family": "fake"}, "transformer": {"family": "fake"}}
    assert meta["provenance"]["machine_id"]
    assert meta["plan"] == json.loads(json.dumps(drive.PLAN.to_json()))
    assert meta["configuration"]["context"] == [16, 32, 64]


def test_ceilings_are_measured_before_the_first_cell_and_after_the_last(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    run = drive.execute(tmp_path / "run")
    drive.execute(tmp_path / "run", resume=True)  # nothing is left to measure, so none again
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


@pytest.mark.parametrize("action", ["crash", "garbage", "refuse"])
def test_without_ceilings_the_run_goes_on(
    drive: ModuleType, tmp_path: Path, misbehave: Any, action: str
) -> None:
    misbehave({"ceilings": action})
    run = drive.execute(tmp_path / "run")
    assert len(cells(run)) == 12
    assert run.meta["ceilings"] is None
    assert "ceilings could not be measured" in run.meta["warnings"][0]


def test_the_observer_follows_the_run(drive: ModuleType, tmp_path: Path) -> None:
    diary = Diary()
    drive.execute(tmp_path / "run", observer=diary)
    kinds = [event[0] for event in diary.events]
    assert diary.events[0] == ("started", 0)
    assert diary.events[-1] == ("finished", tmp_path / "run")
    assert kinds.count("worker") == 4
    assert [event[1:4] for event in diary.events if event[0] == "cell"] == [
        (b, c.label, p.id) for b, c, p in drive.PLAN.cells()
    ]
    assert ("phase", "decode") in diary.events


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
    meta = json.loads((run / "run.json").read_text()) | {"state": "running", "samples": None}
    (run / "run.json").write_text(json.dumps(meta))


def test_a_resumed_run_measures_what_is_left_and_numbers_processes_on(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    drive.execute(tmp_path / "run")
    cut_after(tmp_path / "run", 4)
    asked = len(requests())
    run = drive.execute(tmp_path / "run", resume=True)
    assert cells(run) == [(b, c.label, p.id) for b, c, p in drive.PLAN.cells()]
    assert [request["do"] for request in requests()[asked:]].count("cell") == 8
    assert run.statuses()["process"].tolist() == [0] * 3 + [1] + [2] * 2 + [3] * 3 + [4] * 3
    assert run.meta["resumed"][0]["from_process"] == 2


def change_meta(run: Path, **meta: Any) -> None:
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | meta))


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


def test_a_run_continued_at_another_commit_says_so(drive: ModuleType, tmp_path: Path) -> None:
    provenance = drive.execute(tmp_path / "run").meta["provenance"]
    cut_after(tmp_path / "run", 4)
    change_meta(tmp_path / "run", provenance=provenance | {"commit": {"hash": "0", "dirty": True}})
    drive.execute(tmp_path / "run", resume=True)
    assert open_run(tmp_path / "run").meta["warnings"] == [
        "commit changed before the run was resumed"
    ]
