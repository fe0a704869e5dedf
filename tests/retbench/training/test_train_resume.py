"""``retbench train --resume``: a training that was killed or stopped continues as the same one."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from retbench.cli.app import main
from retbench.cli.training_display import TrainingDisplay
from retbench.config import requirements
from retbench.errors import UserError
from retbench.machine import host
from retbench.training import job, model_folder
from retbench.training.step import Step

from ...forked_workers import Forked
from .conftest import FILES, SMALL, Command, curve, record_of


def killed(*words: str | Path) -> None:
    """Run a command in another process, killed at its 7th step, with a checkpoint behind it."""

    def record(self: TrainingDisplay, record: Any) -> None:
        if record.step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        TrainingDisplay.record = record  # type: ignore[method-assign]
        main([str(word) for word in words])

    ended = Forked(work, stdout=subprocess.DEVNULL)
    assert ended.wait(timeout=120) == -signal.SIGKILL


def test_a_killed_training_resumes_to_the_same_model(
    command: Command, text: Path, tmp_path: Path
) -> None:
    more = ("--steps", "12", "--eval-every", "5")
    killed("train", *SMALL, text, "--out", tmp_path / "run", *more)
    assert record_of(tmp_path / "run")["state"] == "running"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    ended = command("generate", "run", "--prompt", "the ", "--tokens", "5")
    assert ended.status == 0 and ended.out.startswith("the ")  # from the checkpoint
    ended = command("train", "--resume", "--out", "run", "--quiet")
    assert (ended.status, ended.err) == (0, "")
    command("train", *SMALL, text, *more, "--out", "undisturbed", "--quiet")
    assert curve(tmp_path / "run") == curve(tmp_path / "undisturbed")
    weights = [Path(name, "model.safetensors").read_bytes() for name in ("run", "undisturbed")]
    assert weights[0] == weights[1]
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES


def test_every_session_is_on_record_though_it_is_killed(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    killed("train", *SMALL, text, "--out", run, "--steps", "12", "--eval-every", "5")
    monkeypatch.setenv("MKL_VERBOSE", "0")  # which the second session alone has
    killed("train", "--resume", "--out", run)
    assert record_of(run)["state"] == "running"
    (second,) = record_of(run)["resumed"]
    assert second["environment"]["MKL_VERBOSE"] == "0"
    monkeypatch.delenv("MKL_VERBOSE")
    assert command("train", "--resume", "--out", "run", "--quiet").status == 0
    first, third = record_of(run)["resumed"]
    assert first == second and "MKL_VERBOSE" not in third["environment"]


@pytest.fixture(scope="module")
def interrupted(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A training that Ctrl-C has ended in its middle, made once, and what was said of that."""
    folder, said, show = tmp_path_factory.mktemp("stopped"), io.StringIO(), TrainingDisplay.record

    def record(self: TrainingDisplay, record: Any) -> None:
        if record.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        show(self, record)

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(TrainingDisplay, "record", record)
        with pytest.raises(SystemExit, match="130"):
            main(["train", *SMALL, str(text), "--steps", "12", "--out", "run", "--quiet"])
    return folder / "run", said.getvalue()


def test_ctrl_c_between_records_stops_after_the_step_and_changes_no_curve(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*SMALL, text, "--steps", "12", "--record-every", "6", "--eval-every", "12", "--quiet")
    make, made = Step.__call__, []

    def interrupted_step(self: Step, *batch: Any) -> Any:
        made.append(None)
        if len(made) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return make(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", interrupted_step)
        ended = command("train", *more, "--out", "run")
    assert (ended.status, len(made), ended.err.count("\n")) == (130, 3, 1)
    assert command("train", "--resume", "--out", "run", "--quiet").status == 0
    command("train", *more, "--out", "undisturbed")
    found, expected = curve(tmp_path / "run"), curve(tmp_path / "undisturbed")
    assert [record["step"] for record in found] == [6, 12]
    assert found == expected  # to the bit
    weights = [Path(name, "model.safetensors").read_bytes() for name in ("run", "undisturbed")]
    assert weights[0] == weights[1]


@pytest.fixture
def stopped(command: Command, tmp_path: Path, interrupted: tuple[Path, str]) -> Path:
    """The folder ``run`` here: the interrupted training."""
    return Path(shutil.copytree(interrupted[0], tmp_path / "run"))


def test_ctrl_c_says_how_to_continue(interrupted: tuple[Path, str]) -> None:
    assert "continue it with `retbench train --resume --out run`" in interrupted[1]


def test_ctrl_c_keeps_what_was_trained(command: Command, text: Path, stopped: Path) -> None:
    assert record_of(stopped)["state"] == "running"
    # The data may have moved, and flags that say the same be given again.
    moved = shutil.copy(text, "moved.txt")
    assert (
        command("train", "--resume", "--out", "run", "--data", moved, "--steps", "12").status == 0
    )
    command("train", *SMALL, text, "--steps", "12", "--out", "undisturbed", "--quiet")
    assert curve(stopped) == curve(Path("undisturbed"))


def test_a_resume_finds_the_only_unfinished_training(
    command: Command, stopped: Path, trained_elsewhere: Path
) -> None:
    nothing = command("train", "--resume")
    assert (nothing.status, nothing.err.count("\n")) == (2, 1)
    assert "results/ holds no unfinished training; name one with --out" in nothing.err
    shutil.copytree(stopped, "results/one")
    assert command("train", "--resume", "--quiet").status == 0
    for name in ("two", "three"):
        shutil.copytree(stopped, f"results/{name}")
    several = command("train", "--resume")
    assert "holds 2 unfinished trainings: results/three, results/two" in several.err


@pytest.fixture
def trained_elsewhere(tmp_path: Path) -> Path:
    """Something in results/ that is no training."""
    folder = tmp_path / "results" / "other"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--model", "transformer"), "model was 'retnet', not 'transformer'"),
        (("--tokenizer", "byte"), "tokenizer was 'char', not 'byte'"),
        (("--lr", "0.1"), "lr was 0.01, not 0.1"),
        (("--set", "d_model=64"), "set was"),
        (("--compile",), "compile was False, not True"),
    ],
)
def test_a_training_is_not_continued_as_another(
    command: Command, stopped: Path, flags: tuple[str, ...], says: str
) -> None:
    ended = command("train", "--resume", "--out", stopped, *flags)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert says in ended.err


def test_a_training_goes_on_with_the_threads_that_there_are_now(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = model_folder.read_record(stopped)
    record["settings"]["threads"] = 64
    model_folder.write_record(stopped, record)
    monkeypatch.setattr(host, "granted_cores", lambda: 1)
    assert job.prepare(out=stopped, resume=True).settings.threads == 1
    with pytest.raises(UserError, match="2 are more than the 1 processors"):
        job.prepare(out=stopped, resume=True, threads=2)


def test_processes_that_go_on_share_the_processors(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = model_folder.read_record(stopped)
    record["settings"]["threads"] = 2
    model_folder.write_record(stopped, record)
    monkeypatch.setattr(host, "granted_cores", lambda: 2)
    monkeypatch.setattr(requirements, "processes_here", lambda: 2)
    assert job.prepare(out=stopped, resume=True).settings.threads == 1


def test_other_data_are_refused(command: Command, text: Path, stopped: Path) -> None:
    Path("other.txt").write_text(text.read_text().replace("fox", "ox"))
    ended = command("train", "--resume", "--out", stopped, "--data", "other.txt")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "the data or their tokens are not those that" in ended.err


def test_the_checkpoint_of_another_training_is_refused(
    command: Command, text: Path, stopped: Path
) -> None:
    record = model_folder.read_record(stopped)
    record["settings"]["learning_rate"] = 0.02
    model_folder.write_record(stopped, record)
    ended = command("train", "--resume", "--out", stopped)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "is a checkpoint of another model, tokenizer, data or configuration" in ended.err


def test_a_damaged_checkpoint_is_named(command: Command, stopped: Path) -> None:
    (file,) = stopped.glob("checkpoints/*/training.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    ended = command("train", "--resume", "--out", stopped)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "damaged checkpoint" in ended.err


def test_what_is_over_is_not_continued(command: Command, trained: Path) -> None:
    ended = command("train", "--resume", "--out", trained)
    assert ended.status == 2
    assert "has finished: there is nothing to continue" in ended.err


def test_two_processes_do_not_train_in_one_folder(command: Command, stopped: Path) -> None:
    from retbench.store.files import CommitLog

    lock = CommitLog(stopped / "lock", create=True)
    ended = command("train", "--resume", "--out", stopped)
    lock.close()
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "another process is writing to" in ended.err


def test_of_two_fresh_trainings_in_one_folder_the_first_is_left_alone(
    command: Command, text: Path, tmp_path: Path
) -> None:
    """The second has found the folder empty, and reads its text while the first begins."""
    given = {"preset": "tiny", "data": text, "context": 16, "threads": 1, "device": "cpu"}
    late = job.prepare(out=tmp_path / "run", steps=5, **given)
    with model_folder.locked(tmp_path / "run"):
        (tmp_path / "run" / "training.json").write_text("the first's")
        with pytest.raises(UserError, match="another process is writing to"):
            job.carry_out(late)
    with pytest.raises(UserError, match="run is there already and not an empty folder"):
        job.carry_out(late)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["training.json"]
    assert (tmp_path / "run" / "training.json").read_text() == "the first's"


def test_what_ended_meanwhile_is_not_continued(command: Command, text: Path, stopped: Path) -> None:
    late = job.prepare(out=stopped, resume=True)
    assert command("train", "--resume", "--out", stopped, "--quiet").status == 0
    with pytest.raises(UserError, match="has finished: there is nothing to continue"):
        job.carry_out(late)
