"""Blocks as jobs: of submitit's local executor, and of a Slurm that fake_slurm.py stands in for."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retbench import suites
from retbench.config.plan import Plan, Point
from retbench.config.run import RunConfig
from retbench.engine import slurm, slurm_jobs
from retbench.engine.slurm import Launcher
from retbench.errors import UserError
from retbench.store import Known, open_run, read_meta, write_meta
from retbench.store.merge import Part

from ...forked_workers import Forked

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.usefixtures("importable")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
FIRST, SECOND, THIRD = (f"context={n},batch=1" for n in (16, 32, 64))
LIMIT_S = 120.0  # that a busy machine is waited for

Misbehave = Callable[[dict[str, dict[str, str]]], None]
Requests = Callable[[], list[dict[str, Any]]]


def local() -> Launcher:
    """Jobs that are processes of this machine."""
    return Launcher({}, cluster="local", poll_s=0.05)


def launcher(**options: Any) -> Launcher:
    return Launcher(options, poll_s=0.05)


class Diary:
    """An observer that writes down which cells it is told of."""

    def __init__(self) -> None:
        self.done: set[Any] = set()
        self.cells: list[tuple[int, str, str]] = []

    def started(self, plan: Plan, done: set[Any]) -> None:
        self.done = done

    def cell(self, block: int, contender: Any, point: Point, *_: Any) -> None:
        self.cells.append((block, contender.label, point.id))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory, drive: ModuleType
) -> tuple[Path, list[tuple[int, str, str]]]:
    """A run over submitit's local executor, made once, and the cells its observer was told of."""
    out, diary = tmp_path_factory.mktemp("launched") / "run", Diary()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("XDG_CACHE_HOME", str(out.parent / "cache"))
        drive.execute(out, launcher=local(), observer=diary)
    return out, diary.cells


def keys(plan: Plan) -> list[tuple[int, str, str]]:
    return [(block, contender.label, point.id) for block, contender, point in plan.cells()]


def samples(run: Any) -> list[Any]:
    """All samples in their order, but for how long a cell took."""
    frame = run.frame()
    frame.loc[frame["metric"] == "cell_s", "value"] = 0.0
    return json.loads(frame.to_json(orient="records"))


def wait_for(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def committed(out: Path) -> int:
    """The cells that are committed in the parts of a run."""
    texts = [file.read_text() for file in out.glob("parts/block-*/samples.jsonl")]
    return sum(text.count('"phase":"cell"') for text in texts)


def forget_all_but(run: Path, lines: int) -> None:
    """Make a run look as if its process had been killed behind so many lines of its samples."""
    file = run / "samples.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:lines]))
    change_meta(run, state="running", samples=None)


def change_meta(run: Path, **meta: Any) -> None:
    write_meta(run, {**read_meta(run), **meta})  # type: ignore[typeddict-item]


# A run over jobs is a run.


def test_a_run_over_jobs_has_the_samples_of_a_local_one(
    drive: ModuleType, tmp_path: Path, launched: tuple[Path, Any]
) -> None:
    here = drive.execute(tmp_path / "here")
    there = open_run(launched[0])
    assert samples(there) == samples(here)
    assert there.meta["state"] == "finished"
    assert there.meta["models"] == here.meta["models"]
    assert there.meta["ceilings"]["matmul_flop_per_s"] == {"float32": 1e11}


def test_the_observer_is_told_of_every_cell_once(
    drive: ModuleType, launched: tuple[Path, Any]
) -> None:
    assert sorted(launched[1]) == sorted(keys(drive.PLAN))


def test_run_json_keeps_the_machine_of_each_part_and_its_jobs(launched: tuple[Path, Any]) -> None:
    meta = open_run(launched[0]).meta
    assert [part["block"] for part in meta["parts"]] == [0, 1]
    assert {part["provenance"]["machine_id"] for part in meta["parts"]} == {
        meta["provenance"]["machine_id"]
    }
    assert {block: len(jobs) for block, jobs in meta["jobs"].items()} == {"0": 1, "1": 1}
    assert "launcher" not in meta["configuration"]
    assert meta["warnings"] == []


def test_each_part_is_a_run_directory_of_one_block(launched: tuple[Path, Any]) -> None:
    for block in (0, 1):
        part = open_run(launched[0] / "parts" / f"block-{block}")
        assert part.meta["state"] == "finished"
        assert {key[0] for key in part.endings} == {block}


def test_the_other_blocks_wait_for_the_first_where_it_tries_things_out(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    points = (replace(drive.PLAN.points[0], once=True), drive.PLAN.points[1])
    plan = replace(drive.PLAN, points=points)
    run = drive.execute(tmp_path / "run", plan=plan, launcher=local())
    assert list(run.endings) == keys(plan)
    starts = [request["block"] for request in requests() if request["do"] == "start"]
    assert starts == [0, 0, 1, 1]
    (job,) = run.meta["jobs"]["1"]
    told = submitit.LocalJob(tmp_path / "run" / "parts" / "jobs", job).submission().args[0]
    assert told.known.scalars[0, "retnet", FIRST, "import_s"] == 0.5


def test_a_block_is_briefed_from_the_figures_of_the_first(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def brief(config: RunConfig, contender: Any, point: Point, scalar: Any) -> dict[str, Any]:
        seen.append(scalar(FIRST, "tried"))
        return {}

    monkeypatch.setattr(suites.get("inference"), "brief", brief)
    known = Known({}, {(0, label, FIRST, "tried"): 3e-4 for label in ("retnet", "transformer")})
    run = drive.execute(tmp_path / "run", plan=replace(drive.PLAN, only=1), known=known)
    assert {key[0] for key in run.endings} == {1}
    assert seen == [3e-4] * 6


# Dead jobs.


def test_a_job_that_dies_is_submitted_once_more_and_goes_on(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {SECOND: "kill the job once"}})
    plan = replace(drive.PLAN, blocks=1)
    run = drive.execute(tmp_path / "run", plan=plan, launcher=local())
    assert list(run.endings) == keys(plan)
    assert {row["status"] for row in run.endings.values()} == {"ok"}
    assert len(run.meta["jobs"]["0"]) == 2
    asked = Counter(r["cell"]["seq_len"] for r in requests() if r["do"] == "prepare")
    assert (asked[16], asked[64]) == (2, 2)
    assert asked[32] in (3, 4)  # at which it died; whoever came before is prepared again
    assert len(run.meta["parts"][0]["resumed"]) == 1


def test_a_job_that_dies_twice_costs_the_cells_that_it_left(
    drive: ModuleType,
    tmp_path: Path,
    misbehave: Misbehave,
    fake_slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_SLURM_FAILED", "TIMEOUT")
    misbehave({"retnet": {SECOND: "kill the job"}})
    run = drive.execute(tmp_path / "run", launcher=launcher())
    assert list(run.endings) == keys(drive.PLAN)
    statuses = [row["status"] for row in run.endings.values()]
    assert statuses == (["ok"] * 2 + ["timeout"] * 4) * 2  # of a point all or none
    lost = run.endings[1, "retnet", THIRD]
    first, last = run.meta["jobs"]["1"]
    assert first != last
    assert lost["cause"].startswith(f"job {last} ended as TIMEOUT: slurmstepd: error: *** JOB")
    assert "node1" not in lost["cause"]
    assert lost["process"] == -1
    assert run.meta["state"] == "finished"
    # The forecast of so small a run is below the least that is asked for, in minutes.
    scripts = (fake_slurm / "submissions").read_text()
    assert scripts.count("#SBATCH --time=20\n") == scripts.count("#!/bin/bash") > 1


def test_a_node_that_cannot_run_it_is_the_cause(drive: ModuleType, tmp_path: Path) -> None:
    plan = replace(drive.PLAN, blocks=1)
    run = drive.execute(tmp_path / "run", plan=plan, launcher=local(), threads=9999)
    (job,) = {row["cause"].partition(":")[0] for row in run.endings.values()}
    assert job == f"job {run.meta['jobs']['0'][-1]} ended as FINISHED"
    cause = run.endings[0, "retnet", FIRST]["cause"]
    assert "Misfit: threads: 9999 are more than the" in cause


# Slurm.


def test_all_blocks_are_one_array_and_ask_for_what_was_said(
    drive: ModuleType, tmp_path: Path, fake_slurm: Path
) -> None:
    asked = slurm.read_options(["partition=gpu", "account=1234", "time=30", "mem_gb=8"])
    run = drive.execute(tmp_path / "run", launcher=launcher(**asked))
    assert {row["status"] for row in run.endings.values()} == {"ok"}
    script = (fake_slurm / "submissions").read_text()
    assert script.count("#!/bin/bash") == 1
    for flag in ("array=0-1%2", "partition=gpu", "account=1234", "time=30", "cpus-per-task=1"):
        assert f"#SBATCH --{flag}\n" in script
    assert re.search(r"^srun .*--cpus-per-task=1 ", script, re.MULTILINE)
    assert {job.partition("_")[2] for (job,) in run.meta["jobs"].values()} == {"0", "1"}


@pytest.mark.parametrize(("late_s", "statuses"), [(math.inf, {"ok"}), (0.0, {"error"})])
def test_what_a_job_left_may_be_seen_later(
    drive: ModuleType,
    tmp_path: Path,
    fake_slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    late_s: float,
    statuses: set[str],
) -> None:
    looks: Counter[int] = Counter()
    refresh = Part.refresh

    def late(part: Part) -> None:
        looks[part.block] += len(list(fake_slurm.glob(f"*_{part.block}.rc")))
        if late_s and looks[part.block] > 5:  # looks after its job has ended
            refresh(part)

    monkeypatch.setattr(Part, "refresh", late)
    monkeypatch.setattr(slurm_jobs, "_LATE_VIEW_S", late_s)
    run = drive.execute(tmp_path / "run", launcher=launcher())
    assert {len(jobs) for jobs in run.meta["jobs"].values()} == {1 if late_s else 2}
    assert {row["status"] for row in run.endings.values()} == statuses


def start(out: Path, *words: str, cell_s: float) -> Any:
    """Start a run over Slurm in a process of its own."""
    return Forked(
        [sys.executable, str(HERE.parent / "drive.py"), str(out), "slurm", *words],
        env={**os.environ, "FAKE_WORKER_S": str(cell_s)},
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(state: Path) -> bool:
    """Whether a process of any job is: each job has a process group."""
    groups = {file.read_text() for file in state.glob("*.pid")}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            condition, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if group in groups and condition != "Z":
                return True
    return False


def test_a_stopped_run_cancels_its_jobs_and_is_continued_here(
    drive: ModuleType, tmp_path: Path, fake_slurm: Path, requests: Requests
) -> None:
    out = tmp_path / "run"
    process = start(out, cell_s=0.5)
    wait_for(lambda: committed(out) >= 3)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "of 12 cells are kept; continue with: python -m retbench run --resume" in message
    wait_for(lambda: not alive(fake_slurm))
    kept, asked = committed(out), len(requests())
    assert 3 <= kept < 12
    run = drive.execute(out, resume=True)
    assert set(run.endings) == set(keys(drive.PLAN))
    assert {row["status"] for row in run.endings.values()} == {"ok"}
    assert len([r for r in requests()[asked:] if r["do"] == "prepare"]) == 12 - kept


def test_a_killed_run_finds_its_jobs_again(
    drive: ModuleType, tmp_path: Path, fake_slurm: Path, requests: Requests
) -> None:
    out = tmp_path / "run"
    process = start(out, cell_s=0.5)
    wait_for(lambda: committed(out) >= 2)
    process.kill()
    process.communicate()
    diary = Diary()
    run = drive.execute(out, resume=True, launcher=launcher(), observer=diary)
    assert list(run.endings) == keys(drive.PLAN)
    assert {len(jobs) for jobs in run.meta["jobs"].values()} == {1}
    assert len([r for r in requests() if r["do"] == "prepare"]) == 12
    assert not diary.done & set(diary.cells)
    assert diary.done | set(diary.cells) == set(keys(drive.PLAN))


# What earlier runs left.


@pytest.mark.parametrize("launcher", [None, local()])
def test_parts_that_are_finished_are_not_measured_again(
    drive: ModuleType,
    tmp_path: Path,
    requests: Requests,
    launched: tuple[Path, Any],
    launcher: Launcher | None,
) -> None:
    run = Path(shutil.copytree(launched[0], tmp_path / "run"))
    whole = (run / "samples.jsonl").read_bytes()
    forget_all_but(run, 12)  # within the third cell, as a kill can do it
    drive.execute(run, resume=True, launcher=launcher)
    assert (run / "samples.jsonl").read_bytes() == whole
    assert open_run(run).meta["state"] == "finished"
    assert not (tmp_path / "requests.jsonl").exists()


def test_parts_of_other_hardware_are_a_warning(
    drive: ModuleType, tmp_path: Path, launched: tuple[Path, Any]
) -> None:
    run = Path(shutil.copytree(launched[0], tmp_path / "run"))
    found = json.loads((run / "parts" / "block-1" / "run.json").read_text())["provenance"]
    found |= {"machine_id": "another", "gpu": {"name": "NVIDIA T4"}}
    change_meta(run / "parts" / "block-1", provenance=found)
    change_meta(run, parts=[])
    forget_all_but(run, 0)
    drive.execute(run, resume=True, launcher=local())
    (warning,) = open_run(run).meta["warnings"]
    assert warning.startswith("block 1 was measured on other hardware, NVIDIA T4 (machine another)")


@pytest.mark.parametrize(
    ("key", "other"),
    [("data", {"seed": 7}), ("configuration", {"seed": 7}), ("configuration", {"threads": 7})],
)
def test_a_part_of_another_text_or_configuration_is_refused(
    drive: ModuleType, tmp_path: Path, launched: tuple[Path, Any], key: str, other: Any
) -> None:
    run = Path(shutil.copytree(launched[0], tmp_path / "run"))
    meta: Any = open_run(run / "parts" / "block-1").meta
    change_meta(run / "parts" / "block-1", **{key: (meta[key] or {}) | other})
    change_meta(run, parts=[])
    forget_all_but(run, 0)
    with pytest.raises(UserError, match=r"block-1 was measured with another text or .*; delete"):
        drive.execute(run, resume=True, launcher=local())


def test_what_sbatch_refuses_is_said_in_its_words(
    drive: ModuleType, tmp_path: Path, fake_slurm: Path
) -> None:
    with pytest.raises(UserError, match=r"no job can be submitted: .*invalid partition .*closed"):
        drive.execute(tmp_path / "run", launcher=launcher(partition="closed"))
    assert open_run(tmp_path / "run").meta["state"] == "interrupted"
