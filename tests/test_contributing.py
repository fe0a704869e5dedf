"""CONTRIBUTING.md is right: its instructions are followed, and its map is the contract."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path

import retbench
from retbench.cli.app import main
from retbench.store import Run

from .conftest import RANKS, SLOW
from .forked_workers import Forked, forked_workers

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def fences(heading: str, language: str) -> list[str]:
    """The code of a language below a heading."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def follow(heading: str, folder: Path) -> Run:
    """The run that comes of the instructions below a heading."""
    (code,), (command,) = fences(heading, "python"), fences(heading, "sh")
    (folder / code.split()[1]).write_text(code)
    program, *words = shlex.split(command)
    assert program == "retbench"
    words += ["--device", "cpu", "--threads", "1", "--quiet", "--out", "run"]

    def run() -> None:
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = str(folder)
        with forked_workers() as patch:
            # Both take seconds.
            patch.setattr("retbench.engine.runner._Session._measure_ceilings", lambda self: None)
            patch.setattr("retbench.report.write_plots", lambda run, content=None: [])
            main(words)

    assert Forked(run).wait() == 0  # what is registered there is unknown here
    found = retbench.open_run(str(folder / "run"))
    assert set(found.statuses()["status"]) == {"ok"}
    return found


def test_who_follows_the_instructions_measures_a_mixer_like_any_other(tmp_path: Path) -> None:
    run = follow("A mixer", tmp_path)
    frame = run.frame()
    own = frame[frame["model"] == "moving-average"]
    assert set(frame["model"]) == {"retnet", "moving-average"}
    assert {"ttft_s", "tpot_s", "state_bytes", "gate_error"} <= set(own["metric"])
    assert "cumsum" in set(own["implementation"])
    sizes = [model["parameters"] for model in run.meta["models"].values()]
    assert max(sizes) / min(sizes) <= 1.005


def test_who_follows_the_instructions_measures_an_operation(tmp_path: Path) -> None:
    run = follow("An operation", tmp_path)
    assert set(run.statuses()["model"]) == {"plain-attention", "sdpa-math"}


def test_the_map_is_the_contract_of_imports() -> None:
    (picture,) = fences("The map", "mermaid")
    arrows = re.findall(r"^ *(\w+)(?:\[.*?\])? --> (\w+)", picture, re.MULTILINE)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c for c in contract["contracts"] if c["type"] == "layers")["layers"]
    rows = [re.findall(r"(\w+)(?: \||$)", layer) for layer in layers]
    expected = {(a, b) for up, down in pairwise(rows) for a in up for b in down}
    assert set(arrows) == expected


def test_every_file_that_the_guide_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]+/[\w./]+\.py)`", GUIDE))
    assert len(named) > 5
    assert [name for name in named if "NAME" not in name and not (ROOT / name).is_file()] == []


def test_the_files_that_begin_first_are_there() -> None:
    stems = {file.stem for file in ROOT.glob("tests/**/test_*.py")}
    assert {*RANKS} <= {*SLOW} <= stems
