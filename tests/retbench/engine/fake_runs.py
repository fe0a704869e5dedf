"""Runs with fake workers, as tests of faults start, await and read them."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...forked_workers import Forked

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FIRST, SECOND, THIRD = (f"context={n},batch=1" for n in (16, 32, 64))
LIMIT_S = 120.0  # that a busy machine is waited for

Misbehave = Callable[[dict[str, dict[str, str]]], None]
Requests = Callable[[], list[dict[str, Any]]]


def endings(run: Any, model: str = "retnet") -> dict[tuple[int, str], tuple[str, str | None]]:
    """Status and cause of one model's cells, by block and point."""
    return {
        (block, point): (row["status"], row["cause"])
        for (block, label, point), row in run.endings.items()
        if label == model
    }


def statuses(run: Any, model: str = "retnet") -> list[str]:
    return [status for status, _ in endings(run, model).values()]


def start(out: Path, *words: str, cell_s: float = 0.02, **environment: str) -> Any:
    """Start a run in a process of its own."""
    return Forked(
        [sys.executable, str(HERE.parent / "drive.py"), str(out), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE_WORKER_S": str(cell_s), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def committed(out: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (out / "samples.jsonl").read_text().count('"phase":"cell"')
    return 0


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def coordinates(run: Any) -> list[tuple[Any, ...]]:
    frame = run.frame()
    measured = frame[frame["phase"] != "setup"]  # how often a worker starts is no result
    columns = ["block", "model", "point", "phase", "metric", "status"]  # nor how many rounds
    return sorted(set(measured[columns].itertuples(index=False, name=None)))


def flags(run: Any, point: str, block: int = 0) -> dict[str, list[str]]:
    """The flags of the cells of a point, by model; what every fake cell has left out."""
    found = {m: row["flags"] for (b, m, p), row in run.endings.items() if (b, p) == (block, point)}
    return {model: [flag for flag in own if flag != "noisy"] for model, own in found.items()}
