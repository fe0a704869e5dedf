"""Whole runs with real workers, as a user makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import retbench
from retbench.machine.provenance import PROJECT_ROOT

LIMIT_S = 600.0  # that a busy machine is waited for


def coordinates(frame: pd.DataFrame) -> list[tuple[int, str, str]]:
    cells = frame[frame["phase"] == "cell"]
    return sorted(zip(cells["block"], cells["model"], cells["point"], strict=True))


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path: Path) -> None:
    flags = [
        "--models", "retnet", "--preset", "tiny", "--context", "64,128,256",
        "--batch", "1", "--batch-context", "64", "--profile", "smoke", "--new-tokens", "2",
        "--threads", "1", "--quiet",
    ]  # fmt: skip
    program = Path(__file__).parents[1] / "brief.py"
    command = [sys.executable, str(program), "run", "--out", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    samples = tmp_path / "run" / "samples.jsonl"
    with subprocess.Popen([*command, "--suite", "inference", *flags], env=environment) as process:
        deadline = time.monotonic() + LIMIT_S
        while not (samples.exists() and samples.stat().st_size):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = samples.read_bytes()
    subprocess.run([*command, "--resume", "--quiet"], env=environment, check=True, timeout=LIMIT_S)
    assert samples.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    run = retbench.open_run(str(tmp_path / "run"))
    found = coordinates(run.frame())
    assert len(found) == len(set(found)) == 3
    assert run.meta["state"] == "finished"


def test_a_faulty_flag_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(retbench.errors.UserError, match="retnett"):
        retbench.run("inference", models=["retnett"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
