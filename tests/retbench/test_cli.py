"""The command line: what it prints, where, and with which status it exits.

Commands that measure run in real processes, once for the module; everything else in this one.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import retbench
from retbench import api, calibration, report, runner, sizes
from retbench.cli import main
from retbench.console import PIPED_COLUMNS
from retbench.errors import Interrupted

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--models", "retnet,transformer", "--preset", "tiny", "--context", "32,64", "--batch", "1,2",
    "--batch-context", "32", "--new-tokens", "4", "--device", "cpu", "--threads", "1",
    "--profile", "smoke",
)  # fmt: skip
DERIVED = ("tables", "plots", "report.html", "numbers.tex", "numbers.json")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command line in this process, in an empty folder, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def invoke(*words: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, printed.out, printed.err)

    return invoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished run of the real suite at the smallest size, and what ``--json`` printed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    done = process("run", *SMALL, "--json", "--out", folder, cwd=folder.parent)
    assert done.status == 0, done.err
    return folder, done


def process(*words: str | Path, cwd: Path) -> Outcome:
    line = [sys.executable, "-m", "retbench", *map(str, words)]
    ended = subprocess.run(
        line, cwd=cwd, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd / "c")},
    )  # fmt: skip
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Mistakes: one line on stderr, exit status 2, nothing written.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--suite", "inferense"], "unknown suite 'inferense'; did you mean 'inference'?"),
        (["run", "--models", "retnt"], "unknown model 'retnt'; did you mean 'retnet'?"),
        (["run", "--preset", "12m"], "unknown preset '12m'; did you mean"),
        (["run", "--profile", "raport"], "did you mean 'report'?"),
        (["run", "--mode", "eagr"], "did you mean 'eager'?"),
        (["run", "--dtype", "float3"], "did you mean 'float32'?"),
        (["run", "--contxt", "512"], "unknown flag --contxt; did you mean --context?"),
        (["runn"], "unknown command 'runn'; did you mean run?"),
        (["run", "--seed", "one"], "--seed"),
        (["run", "--seed", str(2**63)], "seed: must be at least 0 and less than 2**63"),
        (["run", "--threads", "9999"], "threads: 9999 are more than the"),
        (["doctor", "--threads", "9999"], "threads: 9999 are more than the"),
        (["run", "--out", ""], "out: must not be empty"),
        (["run", "--set", "vocab_size=10"], "vocab_size = 10 of retnet is less than the 50257"),
        (["run", "--set", "family=x"], "use --models"),
        (["run", "--context"], "--context"),
        (["run", "--context", "0"], "context: must be at least 1, not 0"),
        (["run", "--set", "n_heads=7"], "n_heads = 7 does not divide d_model"),
        (["run", "--set", "n_heads"], "set: must be KEY=VALUE"),
        (["run", "--context", "512:1048576"], "exceed the 131072 tokens"),
        (["run", "--mode", "cudagraph"], "CUDA graphs need a GPU"),
        (["run", "--config", "missing.toml"], "cannot read the configuration missing.toml"),
        (["run", "--resume"], "results/ holds no unfinished run"),
        (["run", "--resume", "--out", "nowhere"], "nowhere does not exist"),
        (["run", "--plugin", "nowhere.py"], "no file to load models from: nowhere.py"),
        (["plot", "nowhere"], "nowhere does not exist"),
        (["table", "nowhere"], "nowhere does not exist"),
        (["table"], "Missing argument 'DIR'"),
        (["models", "--preset", "12m"], "unknown preset '12m'"),
        (["models", "--ffn", "relu"], "unknown feed-forward 'relu'"),
        (["doctor", "--device", "gpu"], "unknown device 'gpu'"),
        (["calibrate", "--model", "retnt"], "did you mean 'retnet'?"),
        (["calibrate", "--model", "retnet,transformer"], "name a single one"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_writes_nothing(
    command: Command, tmp_path: Path, words: list[str], says: str
) -> None:
    device = ["--device", "cpu"] if words[0] == "run" and "--resume" not in words else []
    ended = command(*words[:1], *device, *words[1:])
    assert ended.status == 2
    assert says in ended.err
    assert ended.err.startswith("retbench: error: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


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
    meta = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(meta | {"schema_version": 99}))
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
    meta = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(meta | damage))
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
        meta = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps(meta | {"state": "interrupted"}))
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
    copy = Path(shutil.copytree(finished[0], tmp_path / "results" / "open"))
    meta = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(meta | {"state": "interrupted"}))
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
        "from retbench.cli import main\n"
        "def prepare(*_, **__): raise KeyboardInterrupt\n"
        "api.prepare = prepare\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "main(['run'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "retbench: error: interrupted\n")


def test_an_interrupted_calibration_offers_nothing_to_continue(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("interrupted, 3 of 10 cells are kept", "continue with: --resume")

    monkeypatch.setattr(runner, "execute", stopped)
    ended = command("calibrate", "--device", "cpu")
    assert (ended.status, ended.err.count("\n")) == (130, 1)
    assert "no noise floor was stored" in ended.err
    assert "--resume" not in ended.err


def test_a_calibration_that_could_not_be_stored_is_not_begun(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("was begun"))
    ended = command("calibrate", "--device", "cpu")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "XDG_CACHE_HOME" in ended.err


def test_without_a_home_there_is_no_noise_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert calibration.matching("abc") is None


def test_a_bug_is_one_line_unless_debug_is_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("who wrote this")

    monkeypatch.setattr(api, "prepare", broken)
    plain, debugged = command("run"), command("--debug", "run")
    assert (plain.status, plain.err.count("\n")) == (1, 1)
    assert "RuntimeError: who wrote this; add --debug" in plain.err
    assert debugged.status == 1
    assert "Traceback" in debugged.err


# What the commands do.


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version").out == f"retbench {retbench.__version__}\n"


def test_without_a_command_the_commands_are_listed(command: Command) -> None:
    ended = command()
    assert ended.status == 0
    for name in ("run", "plot", "table", "models", "doctor", "calibrate"):
        assert f"  {name} " in ended.out


def test_a_dry_run_shows_cells_minutes_and_memory_and_writes_nothing(
    command: Command, tmp_path: Path
) -> None:
    ended = command("run", *SMALL, "--dry-run", "--json")
    forecast = json.loads(ended.out)
    assert len(forecast["cells"]) == 6  # two models at contexts 32 and 64 and at batch 2
    assert forecast["expected_minutes"] > 0
    assert all(cell["memory_bytes"] > 0 and cell["fits"] for cell in forecast["cells"])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_which_cells_would_not_fit(command: Command) -> None:
    ended = command("run", *SMALL, "--dry-run", "--memory-limit", "0.001")
    assert ended.status == 0
    assert "6 cells would not fit" in ended.out
    assert " no" in ended.out


def test_a_run_prints_one_json_document_and_progress_elsewhere(
    finished: tuple[Path, Outcome],
) -> None:
    folder, ended = finished
    document = json.loads(ended.out)
    assert document["state"] == "finished"
    assert {cell["model"] for cell in document["cells"]} == {"retnet", "transformer"}
    assert {row["status"] for row in document["statuses"]} == {"ok"}
    assert ended.err.count(": ok, ") == 6
    for name in DERIVED:
        assert (folder / name).exists()


def test_table_and_plot_make_every_derived_file_again_byte_for_byte(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    before = files(finished[0])
    copy = Path(shutil.copytree(finished[0], tmp_path / finished[0].name))
    for name in DERIVED:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert command("plot", copy).status == command("table", copy).status == 0
    assert files(copy) == before


def test_the_summary_is_legible_when_piped(
    command: Command, finished: tuple[Path, Outcome]
) -> None:
    out = command("table", finished[0]).out
    assert max(len(line) for line in out.splitlines()) <= PIPED_COLUMNS
    for part in ("Cells", "retnet / transformer", "Crossovers", "Warnings", "Files", "SMOKE"):
        assert part in out


@pytest.mark.parametrize(
    ("redirection", "status", "says"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("> /dev/full", 2, "retbench: error: cannot print: the disk that stdout goes to is full\n"),
    ],
)
def test_output_that_goes_nowhere_is_no_bug(redirection: str, status: int, says: str) -> None:
    line = f"{sys.executable} -m retbench models --preset tiny {redirection}"
    ended = subprocess.run(line, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (status, says)


def test_a_run_of_which_nothing_came_fails_and_keeps_its_causes(
    command: Command, tmp_path: Path
) -> None:
    ended = command("run", *SMALL, "--timeout", "0.01", "--quiet", "--out", tmp_path / "late")
    assert ended.status == 1
    assert re.fullmatch(
        r"retbench: error: no cell of \S+/late succeeded; the first, of \S+: not done within .*\n",
        ended.err,
    )
    assert set(api.open_run(tmp_path / "late").statuses()["status"]) == {"timeout"}


def test_quiet_prints_nothing(command: Command, finished: tuple[Path, Outcome]) -> None:
    assert command("table", finished[0], "--quiet").out == ""


def test_models_prints_the_sizes_and_they_match(command: Command) -> None:
    ended = command("models", "--preset", "6.7b")
    assert ended.status == 0
    assert "6,442,717,184" in ended.out
    assert "transformer-gqa" in ended.out


def test_models_fails_where_sizes_differ(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MATCH_TOLERANCE", -1.0)
    ended = command("models", "--preset", "tiny")
    assert ended.status == 1
    assert "more than 0.5% off" in ended.err


def test_doctor_prints_provenance_and_ceilings(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retbench.measure import ceilings

    measured = {
        "bandwidth": [
            {"working_set_bytes": 2**22, "read_bytes_per_s": 2e10, "copy_bytes_per_s": 1e10}
        ],
        "matmul_flop_per_s": {"float32": 3e11},
    }
    monkeypatch.setattr(ceilings, "measure", lambda *_: measured)
    out = command("doctor", "--device", "cpu").out
    for part in ("processor.name", "machine_id", "Memory bandwidth", "20.0", "float32", "300"):
        assert part in out


def test_calibrate_stores_the_floor_of_this_machine_for_later_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = {"machine_id": "abc", "floor": 0.02, "pairs": 10}
    monkeypatch.setattr(calibration, "calibrate", lambda *_: record)
    ended = command("calibrate", "--device", "cpu")
    assert "noise floor 2.02%" in ended.out
    assert calibration.matching("abc") == record
    assert calibration.matching("another") is None


def test_a_calibration_compares_one_cell_of_one_model_with_itself() -> None:
    config = api.prepare(device="cpu", models="retnet", profile="report").config
    plan = calibration.against_itself(config)
    assert [(c.label, c.family) for c in plan.contenders] == [("A", "retnet"), ("B", "retnet")]
    assert (len(plan.points), plan.blocks) == (1, 5)


def test_the_floor_is_the_95th_percentile_of_the_differences_of_equal_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = ["metric", "status", "block", "model", "value"]
    rows = [("tpot_s", "ok", b, m, 1.0 + 0.1 * (m == "B")) for b in range(5) for m in "AB"]
    rows += [("tpot_s", "ok", 5, "A", 9.0)]  # a block that only one side finished is no pair
    run = SimpleNamespace(
        frame=lambda: pd.DataFrame(rows, columns=columns),
        meta={"provenance": {"machine_id": "abc"}},
    )
    monkeypatch.setattr(runner, "execute", lambda *_, **__: run)
    config = api.prepare(device="cpu", models="retnet", profile="report").config
    record = calibration.calibrate(config)
    assert (record["machine_id"], record["pairs"]) == ("abc", 5)
    assert record["floor"] == pytest.approx(math.log(1.1))


def test_a_run_records_the_calibration_of_its_machine(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    machine_id = retbench.open_run(str(copy)).meta["provenance"]["machine_id"]
    calibration.remember({"machine_id": machine_id, "floor": 0.02, "pairs": 10})
    assert command("run", "--resume", "--out", copy, "--quiet").status == 0
    assert retbench.open_run(str(copy)).meta["calibration"]["floor"] == 0.02


def test_the_command_line_starts_without_torch_pandas_or_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys, retbench.cli;"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'rich') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("name", ["plot", "table"])
def test_derived_files_are_made_without_torch(
    tmp_path: Path, finished: tuple[Path, Outcome], name: str
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from retbench.cli import main; main([{name!r}, {str(copy)!r}])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_python_api_returns_a_run_with_a_frame(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    run = retbench.run("inference", out=copy, resume=True, models=["retnet", "transformer"])
    assert set(run.frame()["model"]) == {"retnet", "transformer"}


def test_derived_files_that_cannot_be_written_are_one_line(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    shutil.rmtree(copy / "plots")
    (copy / "plots").write_text("a file where the folder should be")
    before = (copy / "samples.jsonl").read_bytes()
    ended = command("plot", copy)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "cannot write" in ended.err
    assert (copy / "samples.jsonl").read_bytes() == before
