"""Commands as a user types them: in this process, or in one of their own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ..conftest import Command, Outcome

__all__ = ["Command", "Outcome"]

ROOT = Path(__file__).resolve().parents[3]
SMALL = (
    "--models", "retnet,transformer", "--preset", "tiny", "--context", "32,64", "--batch", "1,2",
    "--batch-context", "32", "--new-tokens", "4", "--device", "cpu", "--threads", "1",
    "--profile", "smoke",
)  # fmt: skip
DERIVED = ("tables", "plots", "report.html", "numbers.tex", "numbers.json")


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished run of the real suite at the smallest size, and what ``--json`` printed.

    It is made once for all processes that test beside each other; each has a copy.
    """
    own = tmp_path_factory.mktemp("runs") / "small"
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, printed = shared / "finished" / "small", shared / "finished" / "printed.json"
    printed.parent.mkdir(exist_ok=True)
    with open(printed.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            done = process("run", *SMALL, "--json", "--out", folder, cwd=folder.parent)
            assert done.status == 0, done.err
            printed.write_text(json.dumps(asdict(done)))
    shutil.copytree(folder, own)
    return own, Outcome(**json.loads(printed.read_text().replace(str(folder), str(own))))


def process(*words: str | Path, cwd: Path) -> Outcome:
    line = [sys.executable, "-m", "retbench", *map(str, words)]
    ended = subprocess.run(
        line, cwd=cwd, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd / "c")},
    )  # fmt: skip
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
