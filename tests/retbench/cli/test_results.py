"""The commands that read what was measured."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from retbench import suites
from retbench.cli.run import asked
from retbench.engine.resolve import resolve

from ..report.conftest import write_run
from .conftest import ROOT, Command, Outcome, files


def test_show_prints_the_tables_and_writes_nothing(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "small"))
    shutil.rmtree(copy / "tables")
    before = files(copy)
    shown = command("show", copy)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == command("table", copy).out.partition(" (tables/")[0] + "\n"
    shutil.rmtree(copy / "tables")
    assert files(copy) == before


def test_list_names_what_there_is_and_the_runs_that_were_made(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    shutil.copytree(finished[0], tmp_path / "results" / "small")
    (tmp_path / "results" / "broken").mkdir()
    (tmp_path / "results" / "broken" / "run.json").write_text("{")
    listed = json.loads(command("list", "--json").out)
    assert list(listed) == ["suites", "models", "presets", "metrics", "runs"]
    assert set(listed["suites"]) == set(suites.names())
    assert listed["metrics"]["tpot_s"] == "TPOT (s)"
    said = listed["runs"]["results/small"]
    assert said.startswith("inference, finished: retnet, transformer; ")
    assert "damaged" in listed["runs"]["results/broken"]
    assert command("list", "presets").out.startswith("presets\n  50k   2 layers of width 48")
    assert "nothing is listed as 'preset'; did you mean 'presets'?" in command("list", "preset").err


@pytest.mark.parametrize(
    ("words", "said"),
    [(("explain", "MFU"), "MFU (step_mfu): "), (("explain",), "\n\nTPOT (tpot_s): time per")],
)
def test_explain_says_what_a_metric_is(command: Command, words: tuple[str, ...], said: str) -> None:
    ended = command(*words)
    assert ended.status == 0 and said in ended.out
    assert "unknown format 'html'" in command(*words, "--format", "html").err


def test_compare_says_that_a_run_is_itself_and_fails_on_what_it_is_asked_to(
    command: Command, tmp_path: Path
) -> None:
    short = {"blocks": 4, "trials": 3, "steps": 3}
    before = write_run(tmp_path / "a", **short).path
    after = write_run(tmp_path / "b", **short, change=lambda row: 1.1 * (row["unit"] == "s") or 1)
    same = command("compare", before, before, "--fail-on", "slower,larger,failed")
    assert (same.status, same.err) == (0, "")
    assert "nothing differs" in same.out
    worse = command("compare", before, after.path, "--fail-on", "slower")
    assert (worse.status, worse.err.count("\n")) == (3, 1)
    assert re.search(r"b against \S+a: \d+ slower", worse.err)
    assert command("compare", before, after.path).status == 0
    assert (
        "fail-on: unknown verdict 'slow'"
        in command("compare", before, before, "--fail-on", "slow").err
    )


def test_cite_prints_a_sentence_that_says_what_a_smoke_run_is_worth(
    command: Command, finished: tuple[Path, Outcome]
) -> None:
    ended = command("cite", finished[0], "--metric", "ttft_s", "--context", "64")
    assert ended.status == 0 and ended.out.count("a SMOKE run") == 3
    assert command("cite", finished[0], "--bibtex").out.startswith("@software{retbench,")


def test_a_bundled_run_is_verified_and_opened_elsewhere(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    packed = command("bundle", finished[0], "--out", tmp_path / "small.zip")
    assert (packed.status, packed.out) == (0, f"{tmp_path / 'small.zip'}\n")
    checked = command("verify", tmp_path / "small.zip", "--out", tmp_path / "small")
    assert checked.out.startswith(f"{tmp_path / 'small.zip'} is sound: inference, finished; ")
    assert command("compare", finished[0], tmp_path / "small").status == 0


def test_history_and_claims_are_printed(
    command: Command, tmp_path: Path, finished: tuple[Path, Outcome]
) -> None:
    again = shutil.copytree(finished[0], tmp_path / "again")
    said = command("history", finished[0], again, "--metric", "state_bytes")
    assert said.status == 0 and "State over 2 runs" in said.out and "equivalent" in said.out
    assert json.loads(command("history", finished[0], again, "--json").out)["history"]
    assert command("history", finished[0], again, "--format", "markdown").out.startswith("## TPOT")
    assert "a history needs two runs" in command("history", finished[0]).err
    judged = command("claims", finished[0], "--out", tmp_path / "ledger")
    assert judged.status == 0 and "no evidence: small, a SMOKE run" in judged.out
    assert (tmp_path / "ledger" / "CLAIMS.md").exists()
    plan = command("claims", "--plan").out
    assert "bash results/gpu.sh results decode-6.7b\n    settles" in plan
    assert re.search(
        r"retbench run .*--profile report\n    settles .* about \d+ minutes here\n", plan
    )
    assert "does not exist" in command("claims", tmp_path / "nothing").err
    assert "no place in results/" in command("claims", finished[0]).err


@pytest.mark.parametrize("rehearsed", ["", "1"], ids=("real", "rehearsed"))
def test_every_run_of_the_gpus_script_is_one_that_can_be_asked_for(
    tmp_path: Path, rehearsed: str
) -> None:
    environment = os.environ | {"PYTHON": "echo", "REHEARSE": rehearsed}
    subprocess.run(["bash", ROOT / "results" / "gpu.sh", tmp_path], env=environment, check=True)
    logs = [log.read_text().split() for log in sorted(tmp_path.glob("*.log"))]
    runs = [line[3:] for line in logs if line[:3] == ["-m", "retbench", "run"]]
    assert len(runs) == 8
    for words in runs:
        config = resolve(here=False, **asked(["cpu" if word == "cuda" else word for word in words]))
        assert suites.get(config.suite).plan(config).points


def test_plot_opens_the_page_that_it_makes(
    command: Command,
    tmp_path: Path,
    finished: tuple[Path, Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("retbench.report.figures.write", lambda *_: [])  # seconds of drawing
    assert command("plot", copy, "--open").status == 0
    assert opened == [(copy / "report.html").resolve().as_uri()]
