"""Mistakes and interruptions at the command line: one line, an exit status, nothing lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retbench import api, report
from retbench.config import values
from retbench.engine import audit, runner
from retbench.errors import Interrupted
from retbench.store import read_meta, write_meta

from .conftest import ROOT, SMALL, Command, Outcome, files

TOO_LONG = "A" * 300
"""For the name of a file."""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--suite", "inferense"], "unknown suite 'inferense'; did you mean 'inference'?"),
        (["run", "--models", "retnt"], "unknown model 'retnt'; did you mean 'retnet'?"),
        (["run", "inferense"], "unknown suite 'inferense'; did you mean 'inference'?"),
        (["run", "training", "--suite", "kernels"], "two suites are named, training and kernels"),
        (["run", "--preset", "12m"], "unknown preset '12m'; did you mean"),
        (["run", "--preset", "11m"], "there are 50k, tiny, 300k, 1m"),
        (["run", "--profile", "raport"], "did you mean 'report'?"),
        (["run", "--mode", "eagr"], "did you mean 'eager'?"),
        (["run", "--dtype", "float3"], "did you mean 'float32'?"),
        (["run", "--contxt", "512"], "unknown flag --contxt; did you mean --context?"),
        (["runn"], "unknown command 'runn'; did you mean run?"),
        (["run", "--seed", "one"], "--seed"),
        (["run", "--seed", str(2**63)], "seed: must be less than 2**63"),
        (["run", "--seed", "-1"], "seed: must not be negative, not -1"),
        (["run", "--batch", str(2**63)], "batch: must be less than 2**63"),
        (["train", "--eval-every", str(2**63)], "eval-every: must be less than 2**63"),
        (["run", "--dry-run", "--memory-limit", "1e300"], "must be above 0 and at most 2**33"),
        (["generate", "nowhere", "--seed", str(2**64)], "--seed"),
        (["run", "--out", "r\udcff"], r"'r\udcff' is not UTF-8"),
        (["table", "r\udcff"], r"'r\udcff' is not UTF-8"),
        (["run", "--threads", "9999"], "threads: 9999 are more than the"),
        (["doctor", "--threads", "9999"], "threads: 9999 are more than the"),
        (["run", "--out", ""], "out: must not be empty"),
        (["run", "--set", "vocab_size=10"], "vocab_size = 10 of retnet is less than the 50257"),
        (["run", "--set", "family=x"], "use --models"),
        (["run", "--context"], "--context"),
        (["run", "--context", "0"], "context: must be at least 1, not 0"),
        (["run", "--context", "512:1000"], "holds one power of two, 512; list what is meant"),
        (["run", "--set", "n_heads=7"], "n_heads = 7 does not divide d_model"),
        (["run", "--set", "n_heads"], "set: must be KEY=VALUE"),
        (["run", "--context", "512:1048576"], "exceed the 131072 tokens"),
        (["run", "--mode", "cudagraph"], "CUDA graphs need a GPU"),
        (["run", "--config", "missing.toml"], "cannot read the configuration missing.toml"),
        (["run", "--resume"], "results/ holds no unfinished run"),
        (["run", "--resume", "--out", "nowhere"], "nowhere does not exist"),
        (["run", "--plugin", "nowhere.py"], "no file to load models from: nowhere.py"),
        (["plot", "nowhere"], "nowhere does not exist"),
        (["plot", "nowhere", "--width", "8cm"], "add --paper"),
        (["table", "nowhere"], "nowhere does not exist"),
        *(([name, TOO_LONG], f"{TOO_LONG} does not exist") for name in ("plot", "table", "show")),
        (["generate", TOO_LONG], f"there is no folder {TOO_LONG}"),
        (["verify", f"{TOO_LONG}.zip", "--out", TOO_LONG], f"{TOO_LONG}.zip cannot be unpacked"),
        (["train", "--data", TOO_LONG], f"there is no file or folder {TOO_LONG}"),
        (["train", "--out", TOO_LONG], f"cannot write {TOO_LONG}: File name too long"),
        (["run", "--plugin", f"{TOO_LONG}.py"], "no file to load models from: AAA"),
        (["table"], "Missing argument 'DIR'"),
        (["models", "--preset", "12m"], "unknown preset '12m'"),
        (["models", "--ffn", "relu"], "unknown feed-forward 'relu'"),
        (["doctor", "--device", "gpu"], "unknown device 'gpu'"),
        (["run", "--minutes", "-1"], "minutes: must not be negative, not -1"),
        (["run", "--precision", "2"], "precision: must be below 1 (100%), not 2"),
        (["run", "--margin", "some"], "margin: 'some' is no relative difference"),
        (["run", "--suite", "perplexity", "--minutes", "5"], "perplexity has no use for it"),
        (["audit", "--model", "retnt"], "did you mean 'retnet'?"),
        (["audit", "--model", "retnet,transformer"], "name a single one"),
        (["audit", "--slowdown", "0"], "slowdown: must be above 0"),
        (["audit", "--slowdown", "100%"], "slowdown: must be below 1 (100%)"),
        (["audit", "--slowdown", "much"], "slowdown: 'much' is no relative difference"),
        (["audit", "--minutes", "-1"], "minutes: must not be negative, not -1"),
        (["audit", "--suite", "perplexity"], "perplexity has nothing that is timed in turns"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_writes_nothing(
    command: Command, tmp_path: Path, words: list[str], says: str
) -> None:
    device = ["--device", "cpu"] if words[0] in ("run", "audit") and "--resume" not in words else []
    ended = command(*words[:1], *device, *words[1:])
    assert ended.status == 2
    assert says in ended.err
    assert ended.err.startswith("retbench: error: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "--out=~/x", "--preset", "12m"),
        ("claims", "--out=~/x", "nowhere"),
        ("train", "--tensorboard=~/x", "--preset", "12m"),
        ("verify", "nowhere.zip", "--out=~/x"),
        ("run", "--config=~/run.toml"),
    ],
)
def test_the_home_folder_is_meant_where_a_shell_leaves_the_tilde(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    asked: list[str] = []
    known = values.path
    monkeypatch.setattr(values, "path", lambda word: asked.append(known(word)) or asked[-1])
    assert command(*words).status == 2
    assert asked[0].startswith(str(tmp_path / "home"))
    assert not (tmp_path / "~").exists()


def test_what_a_terminal_cannot_show_is_shown_as_an_escape(finished: tuple[Path, Outcome]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "retbench", "table", finished[0]],
        env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\\xb7" in ended.stdout  # the dot between the conditions of a run


def test_a_mistake_in_the_configuration_file_names_its_line(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text('preset = "tiny"\ncontxt = "512"\n')
    ended = command("run", "--config", "run.toml")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "run.toml:2: unknown key 'contxt'; did you mean 'context'?" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_a_folder_that_holds_another_run_is_left_as_it_is(
    command: Command, finished: tuple[Path, Outcome]
) -> None:
    folder, _ = finished
    before = files(folder)
    ended = command("run", *SMALL, "--out", folder)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "holds a run already" in ended.err
    assert files(folder) == before


def test_a_mistake_found_by_the_models_names_its_line_too(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('preset = "tiny"\n\n[set]\nmax_len = 64\nn_heads = 7\n')
    ended = command("run", "--config", "run.toml", "--device", "cpu", "--context", "32")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "run.toml:5: retnet at preset tiny: n_heads = 7 does not divide" in ended.err


def test_an_out_folder_that_is_a_file_is_left_as_it_is(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    ended = command("run", *SMALL, "--out", "file")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "file is a file; name another --out" in ended.err
    assert (tmp_path / "file").read_text() == "kept"
    assert "file is a file" in command("plot", "file").err


def test_a_folder_that_cannot_be_made_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    ended = command("run", *SMALL, "--out", "file/run")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "file/run" in ended.err
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["plot", "table"])
def test_truncated_samples_are_refused_and_left_as_they_are(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome], name: str
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    samples = copy / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-100])
    before = files(copy)
    ended = command(name, copy)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert f"{samples}:" in ended.err
    assert files(copy) == before


def test_a_run_of_a_newer_schema_is_refused(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    changes: Any = {"schema_version": 99}
    write_meta(copy, {**read_meta(copy), **changes})
    ended = command("table", copy)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "schema version 99 is newer" in ended.err


@pytest.mark.parametrize(
    "damage",
    [
        {"configuration": {}},
        {"configuration": []},
        {"plan": 3},
        {"provenance": None},
        {"samples": {}},
        {"state": "done"},
        {"ceilings": 4},
        {"warnings": "none"},
    ],
)
def test_a_damaged_run_json_is_refused_by_every_command(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome], damage: dict[str, Any]
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    write_meta(copy, {**read_meta(copy), **damage})  # type: ignore[typeddict-item]
    before = files(copy)
    for words in (["plot"], ["table"], ["run", "--resume", "--out"]):
        ended = command(*words, copy)
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert f"{copy / 'run.json'}" in ended.err
        assert "damaged" in ended.err
    assert files(copy) == before


def test_resuming_with_other_flags_is_refused_by_name(
    command: Command, finished: tuple[Path, Outcome]
) -> None:
    ended = command("run", "--resume", "--out", finished[0], "--seed", "7")
    assert ended.status == 2
    assert "seed was 0, not 7" in ended.err


def test_resuming_without_a_folder_lists_the_candidates_if_there_are_several(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    for name in ("one", "two"):
        copy = Path(shutil.copytree(finished[0], tmp_path / "results" / name))
        changes: Any = {"state": "interrupted"}
        write_meta(copy, {**read_meta(copy), **changes})
    ended = command("run", "--resume")
    assert ended.status == 2
    assert "2 unfinished runs" in ended.err
    assert "results/one" in ended.err
    assert "results/two" in ended.err


def test_resuming_without_a_folder_takes_the_only_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, Outcome]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], tmp_path / "results" / "done")
    (tmp_path / "results" / "damaged").mkdir()
    (tmp_path / "results" / "damaged" / "run.json").write_text("[" * 100_000)
    copy = Path(shutil.copytree(finished[0], tmp_path / "results" / "open"))
    changes: Any = {"state": "interrupted"}
    write_meta(copy, {**read_meta(copy), **changes})
    job = api.prepare(resume=True)
    assert (job.out, job.config.preset) == (Path("results/open"), "tiny")


def test_ctrl_c_ends_in_status_130_and_the_line_that_continues(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("interrupted, 3 of 6 cells are kept", "continue with: retbench …")

    monkeypatch.setattr(runner, "execute", stopped)
    ended = command("run", *SMALL, "--out", "here")
    assert ended.status == 130
    assert ended.err == (
        "retbench: error: interrupted, 3 of 6 cells are kept; continue with: retbench …\n"
    )


def test_ctrl_c_before_the_run_begins_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "prepare", stopped)
    ended = command("run", *SMALL)
    assert (ended.status, ended.err) == (130, "retbench: error: interrupted\n")


def test_ctrl_c_while_files_are_derived_says_how_to_make_them(
    command: Command, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, Outcome]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_plots", stopped)
    ended = command("plot", finished[0])
    assert (ended.status, ended.err.count("\n")) == (130, 1)
    assert f"the samples are kept; `retbench plot {finished[0]}`" in ended.err


def test_a_further_ctrl_c_at_the_very_end_is_ignored(tmp_path: Path) -> None:
    code = (
        "import atexit, os, signal\n"
        "from retbench import api\n"
        "from retbench.cli.app import main\n"
        "def prepare(*_, **__): raise KeyboardInterrupt\n"
        "api.prepare = prepare\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "main(['run'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "retbench: error: interrupted\n")


def test_an_interrupted_audit_is_not_stored_and_offers_nothing_to_continue(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("interrupted, 3 of 10 cells are kept", "continue with: --resume")

    monkeypatch.setattr(runner, "execute", stopped)
    ended = command("audit", "--device", "cpu", "--threads", "1")
    assert (ended.status, ended.err.count("\n")) == (130, 1)
    assert "no audit was stored" in ended.err
    assert "--resume" not in ended.err
    assert not audit.cache_file().exists()


def test_an_audit_that_could_not_be_stored_is_not_begun(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(audit, "audit", lambda *_, **__: pytest.fail("was begun"))
    ended = command("audit", "--device", "cpu", "--threads", "1")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "XDG_CACHE_HOME" in ended.err


class PanicException(BaseException):
    """What a library written in Rust raises."""


@pytest.mark.parametrize("kind", [RuntimeError, PanicException])
def test_a_bug_is_one_line_unless_debug_is_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise kind("who wrote this")

    monkeypatch.setattr(api, "prepare", broken)
    plain, debugged = command("run"), command("--debug", "run")
    assert (plain.status, plain.err.count("\n")) == (1, 1)
    assert f"{kind.__name__}: who wrote this; add --debug" in plain.err
    assert debugged.status == 1
    assert "Traceback" in debugged.err


@pytest.mark.parametrize("words", [("list",), ("run", "--preset", "tiny", "--dry-run")])
def test_a_current_folder_that_is_gone_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ended = command(*words, *(["--out", tmp_path / "out"] if "run" in words else []))
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "the current folder is gone: No such file or directory; cd to another" in ended.err


@pytest.mark.skipif(sys.platform == "darwin", reason="there all names are UTF-8")
def test_a_word_that_the_locale_cannot_write_names_the_locales_encoding() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "retbench", "table", "H\u00e9l\u00e8ne".encode()],
        env={"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "is not ASCII; set LC_ALL=C.UTF-8, or PYTHONUTF8=1" in ended.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_want_of_memory_in_the_command_itself_is_the_users(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api, "prepare", broken)
    ended = command("run")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "there is not enough memory; raise" in ended.err


def test_a_ctrl_c_while_libraries_are_being_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    ended = subprocess.run(
        [sys.executable, "-m", "retbench", "run"], capture_output=True, text=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, "retbench: error: interrupted\n")
