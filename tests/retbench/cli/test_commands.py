"""The command line: what it prints, where, and with which status it exits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import retbench
from retbench import api, report
from retbench.cli import console, model_sizes
from retbench.cli.console import PIPED_COLUMNS
from retbench.engine import audit
from retbench.errors import Interrupted
from retbench.machine import ceilings, doctor
from retbench.metrics import COLUMNS

from .conftest import DERIVED, ROOT, SMALL, Command, Outcome, files


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version").out == f"retbench {retbench.__version__}\n"


def test_without_a_command_the_commands_are_listed(command: Command) -> None:
    ended = command()
    assert ended.status == 0
    for name in ("run", "plot", "table", "models", "doctor", "audit"):
        assert f"  {name} " in ended.out


def test_a_dry_run_shows_cells_minutes_and_memory_and_writes_nothing(
    command: Command, tmp_path: Path, quick_ceilings: None
) -> None:
    ended = command("run", *SMALL, "--dry-run", "--json")
    forecast = json.loads(ended.out)
    assert len(forecast["cells"]) == 6  # two models at contexts 32 and 64 and at batch 2
    assert forecast["expected_minutes"] > 0
    assert all(cell["memory_bytes"] > 0 and cell["fits"] for cell in forecast["cells"])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_which_cells_would_not_fit(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "measure", lambda *_: CEILINGS)
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
    assert {cell["model"] for cell in document["tables"]["cells"]} == {"retnet", "transformer"}
    assert {row["status"] for row in document["tables"]["cells"]} == {"ok"}
    assert ended.err.count(": ok, ") == 6
    for name in DERIVED:
        assert (folder / name).exists()


def test_a_run_gives_every_cell_once_with_its_tables_and_plots(
    finished: tuple[Path, Outcome],
) -> None:
    run = retbench.open_run(str(finished[0]))
    frame = run.frame()
    assert list(frame.columns) == list(COLUMNS)
    cells = frame[frame["phase"] == "cell"]
    assert sorted(zip(cells["model"], cells["point"], strict=True)) == [
        (model, f"context={point}")
        for model in ("retnet", "transformer")
        for point in ("32,batch=1", "32,batch=2", "64,batch=1")
    ]
    assert set(cells["status"]) == {"ok"} and run.meta["state"] == "finished"
    for name in ("tables/cells.csv", "tables/ratios.md", "plots/tpot_context.png", "report.html"):
        assert (run.path / name).stat().st_size, name


def test_table_and_plot_make_every_derived_file_again_byte_for_byte_without_torch(
    tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    before = files(finished[0])
    copy = Path(shutil.copytree(finished[0], tmp_path / finished[0].name))
    for name in DERIVED:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code = (
        "import gc, sys; sys.modules['torch'] = None\n"
        "from retbench.cli.app import main\n"
        "for name in ('plot', 'table'):\n"
        "    try: main([name, sys.argv[1]])\n"
        "    except SystemExit as ended: assert ended.code == 0\n"
        # Off while they read, and given back: who imports us has a use for it.
        "    assert gc.isenabled()\n"
    )
    line = [sys.executable, "-c", code, str(copy)]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert files(copy) == before


def test_a_run_says_how_far_its_text_has_been_read(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 99)
    monkeypatch.setattr(console, "_READING_S", 0.0)

    def stopped(*_: Any) -> None:
        raise Interrupted("interrupted")

    monkeypatch.setattr(api, "carry_out", stopped)
    ended = command("run", "perplexity", "--data", "text.txt", "--tokenizer", "byte")
    assert ended.status == 130 and "encoding the text: 100%" in ended.out


def test_the_summary_is_legible_when_piped(
    command: Command, finished: tuple[Path, Outcome]
) -> None:
    out = command("table", finished[0]).out
    assert max(len(line) for line in out.splitlines()) <= PIPED_COLUMNS
    for part in ("Measurements", "Ratios: retnet / baseline", "warning: ", "files: ", "SMOKE"):
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
    line = f"{sys.executable} -m retbench --version {redirection}"
    ended = subprocess.run(line, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (status, says)


def test_a_run_of_which_nothing_came_fails_and_keeps_its_causes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write_plots", lambda run, content=None: [])
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
    monkeypatch.setattr(model_sizes, "MATCH_TOLERANCE", -1.0)
    ended = command("models", "--preset", "tiny")
    assert ended.status == 1
    assert "more than 0.5% off" in ended.err


CEILINGS = {
    "bandwidth": [{"working_set_bytes": 2**22, "read_bytes_per_s": 2e10, "copy_bytes_per_s": 1e10}],
    "matmul_flop_per_s": {"float32": 3e11},
}


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_prints_checks_and_ceilings_and_fails_with_a_check(
    command: Command, monkeypatch: pytest.MonkeyPatch, state: Any, status: int
) -> None:
    check = doctor.Check("disk", state, "nothing free", "make room")
    monkeypatch.setattr(doctor, "CHECKS", (lambda here: check,))
    monkeypatch.setattr(ceilings, "measure", lambda *_: CEILINGS)
    ended = command("doctor", "--device", "cpu")
    assert ended.status == status
    for part in (state, "disk", "nothing free; make room", "20.0 GB/s", "float32", "300 GFLOP/s"):
        assert part in ended.out
    document = json.loads(command("doctor", "--device", "cpu", "--json").out)
    assert [entry["name"] for entry in document["checks"]] == ["disk", "ceilings"]
    assert document["provenance"]["processor"]["name"]


def test_doctor_prints_no_ceilings_that_cannot_be(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_cache = {"working_set_bytes": 2**20, "read_bytes_per_s": 1e9, "copy_bytes_per_s": 1e9}
    impossible = CEILINGS | {"bandwidth": [slow_cache, *CEILINGS["bandwidth"]], "elapsed_s": 0.0}
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(ceilings, "measure", lambda *_: impossible)
    ended = command("doctor", "--device", "cpu")
    assert ended.status == 1
    assert "1 GB/s at 1 MiB, 20 GB/s at more" in ended.out and "GFLOP/s" not in ended.out


AUDIT = {
    "machine_id": "abc", "contender": "retnet", "slowdown": 0.05, "blocks": 5, "false": 0,
    "compared": 4, "found": 3, "planted": 4, "floor": {"tpot_s": 0.02}, "rows": [],
    "time": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def test_an_audit_is_printed_and_stored_for_later_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def audited(config: Any, **about: Any) -> dict[str, Any]:
        asked.update(about, config=config)
        return AUDIT | {"key": "k"}

    monkeypatch.setattr(audit, "audit", audited)
    words = ("--device", "cpu", "--threads", "1", "--slowdown", "10%")
    ended = command("audit", *words)
    assert ended.status == 0
    assert (asked["slowdown"], asked["config"].context) == (0.1, (2048,))
    assert asked["config"].minutes == 3
    command("audit", "--device", "cpu", "--threads", "1", "--profile", "report")
    assert asked["config"].minutes == 30
    assert "tpot_s 2.02%" in ended.out and "found in 3 of 4 comparisons" in ended.out
    assert json.loads(audit.cache_file().read_text())["k"]["floor"] == {"tpot_s": 0.02}


def test_from_python_a_run_is_returned_that_records_the_audit_of_its_machine(
    command: Command,
    tmp_path: Path,
    finished: tuple[Path, Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "write_plots", lambda run, content=None: [])
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    run = retbench.open_run(str(copy))
    key = audit._key(run.config, run.meta["provenance"]["machine_id"])
    audit.remember(AUDIT | {"key": key})
    run = retbench.run("inference", out=copy, resume=True, models=["retnet", "transformer"])
    assert set(run.frame()["model"]) == {"retnet", "transformer"}
    assert run.meta["audit"]["floor"] == {"tpot_s": 0.02}


def test_the_command_line_starts_without_torch_pandas_or_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys, retbench.cli.app;"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'rich') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


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
