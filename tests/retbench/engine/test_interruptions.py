"""Runs that are killed or stopped, and disks that fill up: nothing is lost."""

import json
import random
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retbench.errors import UserError
from retbench.store import RunWriter, open_run, read_meta
from retbench.suites.inference import InferenceSuite

from ..full_disk import full_disk
from .fake_runs import (
    FIRST,
    LIMIT_S,
    SECOND,
    Requests,
    alive,
    committed,
    coordinates,
    start,
    wait_for,
)

# A run that is killed or stopped loses nothing.


def test_a_run_killed_at_any_moment_and_resumed_has_each_cell_once(
    drive: ModuleType, tmp_path: Path
) -> None:
    moments = random.Random(2)  # fixed, so that a failure can be repeated
    out, killed = tmp_path / "run", 0
    for new_cells in (0, 0, 1, 2, 2):
        words = ["resume"] if (out / "run.json").exists() else []
        wanted = committed(out) + new_cells
        process = start(out, *words, cell_s=0.2)
        while committed(out) < wanted and process.poll() is None:  # which may end in a stall
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 2 and committed(out) >= 2
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
    drive.execute(out)
    with RunWriter.resume(out, read_meta(out)["configuration"]):  # as the first holds it
        with pytest.raises(UserError, match="another process is writing"):
            drive.execute(out, resume=True)
        with pytest.raises(UserError, match="holds a run already"):
            drive.execute(out)
    assert len(open_run(out).endings) == 12


# Disks.


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
