"""Kills, crashes, hangs, full disks: with real processes, as far as a test can make them."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from retbench import suites
from retbench.engine import runner
from retbench.engine.contender_run import ContenderRun
from retbench.errors import UserError
from retbench.store import RunWriter, open_run, read_meta, write_meta
from retbench.suites.inference import InferenceSuite
from retbench.workers import process

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FIRST, SECOND, THIRD = (f"context={n},batch=1" for n in (16, 32, 64))
LIMIT_S = 120.0  # that a busy machine is waited for

Misbehave = Callable[[dict[str, dict[str, str]]], None]
Requests = Callable[[], list[dict[str, Any]]]


def endings(run: Any, model: str = "retnet") -> dict[tuple[int, str], tuple[str, str | None]]:
    """Status and cause of one model's cells, by block and point."""
    return {
        (block, point): (row["status"], row["cause"])
        for (block, label, point), row in run.endings.items()
        if label == model
    }


def statuses(run: Any, model: str = "retnet") -> list[str]:
    return [status for status, _ in endings(run, model).values()]


def start(out: Path, *words: str, cell_s: float = 0.02, **environment: str) -> Any:
    """Start a run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(HERE.parent / "drive.py"), str(out), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE_WORKER_S": str(cell_s), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def committed(out: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (out / "samples.jsonl").read_text().count('"phase":"cell"')
    return 0


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def coordinates(run: Any) -> list[tuple[Any, ...]]:
    frame = run.frame()
    measured = frame[frame["phase"] != "setup"]  # how often a worker starts is no result
    columns = ["block", "model", "point", "phase", "metric", "status"]  # nor how many rounds
    return sorted(set(measured[columns].itertuples(index=False, name=None)))


def flags(run: Any, point: str, block: int = 0) -> dict[str, list[str]]:
    """The flags of the cells of a point, by model; what every fake cell has left out."""
    found = {m: row["flags"] for (b, m, p), row in run.endings.items() if (b, p) == (block, point)}
    return {model: [flag for flag in own if flag != "noisy"] for model, own in found.items()}


# A worker that fails costs its cell.


MOMENTS = ("", " slice 1", " finish")


@pytest.mark.parametrize("moment", MOMENTS, ids=("prepare", "slice", "finish"))
@pytest.mark.parametrize(
    ("action", "status", "cause"),
    [
        ("crash", "error", "exit status 3: RuntimeError: in kernel.py"),
        ("segfault", "error", "killed by signal 11"),
        ("garbage", "error", "the worker's reply makes no sense"),
        ("nan", "error", "it holds NaN"),
        ("foreign rows", "error", "a batch holds the rows of one cell"),
        ("kill", "oom", "killed by signal 9, most likely by the kernel for want of memory"),
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


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        ("no phases", "the worker's reply names no phases: None"),
        ("phases without length", "the worker's phases have no length: {'decode': None}"),
    ],
)
def test_a_cell_that_is_prepared_without_slices_costs_itself_only(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, action: str, cause: str
) -> None:
    misbehave({"retnet": {SECOND: action}})
    run = drive.execute(tmp_path / "run", plan=drive.THREE)
    assert statuses(run) == ["ok", "error", "ok"]
    assert endings(run)[0, SECOND][1] == cause
    assert statuses(run, "transformer") == statuses(run, "gqa") == ["ok"] * 3


@pytest.fixture
def hours_pass(monkeypatch: pytest.MonkeyPatch, requests: Requests) -> None:
    """Two hours pass at once whenever a worker hangs, so that no test waits for its limit."""

    def monotonic() -> float:
        hung = sum(request["do"] == "hang" for request in requests())
        return time.monotonic() + 7200 * hung

    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(process, "_LONGEST_POLL_S", 0.02)


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


def test_who_runs_out_of_memory_beside_others_is_measured_alone_and_so_are_they(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {SECOND: "oom beside others"}})
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


def test_a_second_kill_is_taken_for_want_of_memory(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave({"retnet": {FIRST: "kill", SECOND: "kill"}})
    run = drive.execute(tmp_path / "run")
    assert statuses(run)[:3] == ["oom", "oom", "oom_implied"]


def test_a_model_that_fails_its_gate_is_never_timed(
    drive: ModuleType, tmp_path: Path, misbehave: Misbehave, requests: Requests
) -> None:
    misbehave({"retnet": {"start": "refuse"}})
    run = drive.execute(tmp_path / "run")
    cause = "decoding does not reproduce the forward"
    assert set(endings(run).values()) == {("error", cause)}
    assert {r["model"] for r in requests() if r["do"] == "prepare"} == {"transformer"}
    assert len([r for r in requests() if r["do"] == "start" and r["model"] == "retnet"]) == 2


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


# A run that is killed or stopped loses nothing.


def test_a_run_killed_at_any_moment_and_resumed_has_each_cell_once(
    drive: ModuleType, tmp_path: Path
) -> None:
    moments = random.Random(2)  # fixed, so that a failure can be repeated
    out = tmp_path / "run"
    for new_cells in (0, 0, 1, 2, 2):
        words = ["resume"] if (out / "run.json").exists() else []
        wanted = committed(out) + new_cells
        process = start(out, *words, cell_s=0.2)
        while committed(out) < wanted:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
    assert 2 <= committed(out) < 12
    run = drive.execute(out, resume=(out / "run.json").exists())
    undisturbed = drive.execute(tmp_path / "undisturbed")
    assert coordinates(run) == coordinates(undisturbed)
    assert run.meta["state"] == "finished"


@pytest.mark.parametrize("moment", [" slice 0", " slice 2", " finish"])
def test_a_run_killed_in_mid_round_and_resumed_has_each_cell_once(
    drive: ModuleType, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "run"
    actions = {"retnet": {SECOND + moment: "kill the job"}}
    process = start(out, FAKE_WORKER=json.dumps(actions), FAKE_WORKER_LOG=str(tmp_path / "log"))
    process.communicate(timeout=LIMIT_S)
    assert (process.returncode, committed(out)) == (-signal.SIGKILL, 2)
    run = drive.execute(out, resume=True)
    assert coordinates(run) == coordinates(drive.execute(tmp_path / "undisturbed"))
    trials = run.frame().query("metric == 'tpot_s'").groupby(["block", "point", "model"])["trial"]
    assert set(trials.apply(tuple)) == {(0, 1, 2)}
    pids = {json.loads(line)["pid"] for line in (tmp_path / "log").read_text().splitlines()}
    wait_for(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_its_cells_and_says_how_to_go_on(
    drive: ModuleType, tmp_path: Path, number: int
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(
        out,
        FAKE_WORKER=json.dumps({"retnet": {f"{SECOND} slice 1": "hang"}}),
        FAKE_WORKER_LOG=str(log),
    )
    in_mid_round = '"do": "slice", "cell": {"seq_len": 32, "batch_size": 1,'
    wait_for(lambda: log.exists() and any(
        in_mid_round in line and '"retnet"' in line and '"round": 1' in line
        for line in log.read_text().splitlines()
    ))  # fmt: skip
    process.send_signal(number)
    _, message = process.communicate(timeout=LIMIT_S)  # the worker hangs for longer
    assert process.returncode == 130
    assert (
        f"2 of 12 cells are kept; continue with: python -m retbench run --resume --out {out}"
        in (message)
    )
    assert open_run(out).meta["state"] == "interrupted"
    pids = {json.loads(line)["pid"] for line in log.read_text().splitlines()}
    assert not any(alive(pid) for pid in pids)
    resumed = drive.execute(out, resume=True)
    assert coordinates(resumed) == coordinates(drive.execute(tmp_path / "undisturbed"))


def test_ctrl_c_ends_the_reading_of_a_text_at_once(
    drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("reads on")

    monkeypatch.setattr(InferenceSuite, "data", data)
    with pytest.raises(KeyboardInterrupt):
        drive.execute(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_exception_in_the_observer_leaves_no_worker(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return self._fail if name == "cell" else lambda *_: None

        def _fail(self, *_: Any) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        drive.execute(tmp_path / "run", observer=Broken())
    assert not any(alive(request["pid"]) for request in requests())
    assert open_run(tmp_path / "run").meta["state"] == "interrupted"
    assert len(drive.execute(tmp_path / "run", resume=True).endings) == 12


def test_the_signal_handlers_are_given_back(drive: ModuleType, tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    drive.execute(tmp_path / "run")
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_goes_on(
    drive: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(out, cell_s=0.1)
    try:
        wait_for(lambda: committed(out) >= 1)
        with pytest.raises(UserError, match="another process is writing"):
            drive.execute(out, resume=True)
        with pytest.raises(UserError, match="holds a run already"):
            drive.execute(out)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    assert len(open_run(out).endings) == 12


# Disks.


@contextlib.contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond the limit: a disk that is full, without one.

    Lifted within the test: the log that the test's result goes to may itself be a longer file.
    """
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_keeps_whole_cells(
    tmp_path: Path, meta: dict[str, Any], batch: Any
) -> None:
    with RunWriter.create(tmp_path / "run", meta) as writer:
        writer.append(batch())
        before = (tmp_path / "run" / "samples.jsonl").read_bytes()
        full = pytest.raises(UserError, match=r"cannot write .*samples\.jsonl: File too large")
        with full, full_disk(len(before) + 300):  # the next cell's first line fits, and no more
            writer.append(batch(block=1))
        assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
        assert writer.done == {(0, "retnet", FIRST)}
    assert len(open_run(tmp_path / "run").endings) == 1


def test_a_run_goes_on_when_there_is_room_again(drive: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*samples\.jsonl"), full_disk(12_000):
        drive.execute(tmp_path / "run")
    kept = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert 0 < len(open_run(tmp_path / "run").endings) < 12
    run = drive.execute(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "samples.jsonl").read_bytes().startswith(kept)
    assert coordinates(run) == coordinates(drive.execute(tmp_path / "undisturbed"))


def test_run_json_stays_when_the_disk_is_full(tmp_path: Path, meta: dict[str, Any]) -> None:
    with RunWriter.create(tmp_path / "run", meta) as writer:
        before = (tmp_path / "run" / "run.json").read_bytes()
        with pytest.raises(UserError, match=r"cannot write .*run\.json"), full_disk(100):
            writer.update(models={"retnet": {}})
        assert writer.meta["models"] == {}
    assert {f.name for f in (tmp_path / "run").iterdir()} == {"run.json", "samples.jsonl"}
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(
    drive: ModuleType, tmp_path: Path, requests: Requests
) -> None:
    # A folder below a file, and one in /proc: permissions would not stop a test run as root.
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match=f"cannot write {folder}: "):
            drive.execute(folder)


def test_a_resume_of_nothing_is_named(drive: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        drive.execute(tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
