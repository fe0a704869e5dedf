"""CONTRIBUTING.md is right: its instructions are followed, and its map is the contract."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import retbench

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def fences(heading: str, language: str) -> list[str]:
    """The code of a language below a heading."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("heading", "contenders"),
    [("A mixer", {"retnet", "moving-average"}), ("An operation", {"plain-attention", "sdpa-math"})],
)
def test_who_follows_the_instructions_gets_numbers(
    heading: str, contenders: set[str], tmp_path: Path
) -> None:
    (code,), (command,) = fences(heading, "python"), fences(heading, "sh")
    (tmp_path / code.split()[1]).write_text(code)
    program, *words = shlex.split(command)
    assert program == "retbench"
    run = [sys.executable, "-m", "retbench", *words]
    run += ["--device", "cpu", "--threads", "1", "--quiet", "--out", "run"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run(run, cwd=tmp_path, check=True, env=variables)
    statuses = retbench.open_run(str(tmp_path / "run")).statuses()
    assert set(statuses["model"]) == contenders
    assert set(statuses["status"]) == {"ok"}


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
