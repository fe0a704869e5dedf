from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retbench import suites
from retbench.config.plan import Contender, Plan, Point
from retbench.suites.inference import InferenceConfig
from retbench.suites.session import Rows

from ..forked_workers import forked_workers

HERE = Path(__file__).parent

CONFIG = InferenceConfig(
    device="cpu", threads=1, timeout_s=60.0, models=("retnet",), preset="tiny", context=(16, 32),
    batch=(1,), batch_context=16, new_tokens=4, minutes=1.0,
)  # fmt: skip
META: dict[str, Any] = {
    "suite": "inference",
    "configuration": CONFIG.to_json(),
    "plan": Plan("inference", (Contender("retnet", "retnet"),), (Point(16, 1),), 3, 0).to_json(),
    "models": {},
    "provenance": {},
    "data": None,
    "resumed": [],
    "ceilings": None,
    "audit": None,
    "primary": [],
    "block_s": {},
    "stopped": None,
    "warnings": [],
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def _sample(**own: Any) -> dict[str, Any]:
    return {
        "suite": "inference", "point": "context=16,batch=1", "model": "retnet", "preset": "tiny",
        "implementation": "chunkwise", "mode": "eager", "phase": "decode", "metric": "tpot_s",
        "unit": "s", "seq_len": 16, "batch_size": 1, "dtype": "float32", "device": "cpu",
        "block": 0, "process": 0, "trial": 0, "index": None, "value": 0.25, "status": "ok",
        "cause": None, "flags": [],
    } | own  # fmt: skip


def _batch(trials: int = 2, **own: Any) -> list[dict[str, Any]]:
    ending = {"phase": "cell", "metric": "cell_s", "trial": None} | own
    return [_sample(**own | {"trial": trial}) for trial in range(trials)] + [_sample(**ending)]


def measure(rows: Rows, rounds: int = 3) -> list[str]:
    """Measure a cell to its end, as a worker does that takes turns with nobody; its flags.

    Its slices are of a millisecond.
    """
    with rows.closing, pytest.MonkeyPatch.context() as patch:
        patch.setattr("retbench.suites.cell.SLICE_S", 1e-3)
        cell = suites.measurer_of(rows.session.config.suite).prepare(rows, lambda phase: None)
        cell.warm_up()
        for phase in cell.phases:
            for number in range(rounds):
                cell.slice(phase, number)
        return cell.finish()


@pytest.fixture(scope="session")
def meta() -> dict[str, Any]:
    """What a run's ``run.json`` needs at least."""
    return META


@pytest.fixture(scope="session")
def batch() -> Callable[..., list[dict[str, Any]]]:
    """``batch(trials, **columns)``: the samples of one cell, the status row last."""
    return _batch


@pytest.fixture(scope="session")
def drive() -> ModuleType:
    """The module ``drive.py``: runs with a fake worker."""
    spec = importlib.util.spec_from_file_location("retbench_drive", HERE / "drive.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def misbehave(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, dict[str, str]]], None]:
    """``misbehave({"LABEL": {"POINT": action}})``: what the fake worker does in which cell."""

    def tell(actions: dict[str, Any]) -> None:
        monkeypatch.setenv("FAKE_WORKER", json.dumps(actions))

    return tell


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """``requests()``: all that the fake workers have been asked so far, in order."""
    log = tmp_path / "requests.jsonl"
    monkeypatch.setenv("FAKE_WORKER_LOG", str(log))

    def read() -> list[dict[str, Any]]:
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        # The last one may be read while it is written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    return read


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the machine's ceilings measured at small sizes and once, where it takes three seconds."""
    monkeypatch.setattr("retbench.machine.ceilings.CPU_WORKING_SETS", (2**22,))
    monkeypatch.setattr("retbench.machine.ceilings.CPU_MATMUL_SIZES", (256,))
    monkeypatch.setattr("retbench.machine.ceilings._BANDWIDTH_BUDGET_S", 0.0)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command line in this process, in an empty folder, with an empty cache."""
    from retbench.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def invoke(*words: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            app.main([str(word) for word in words])
        printed = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, printed.out, printed.err)

    return invoke


@pytest.fixture(scope="session")
def forked() -> Callable[..., list[list[Outcome]]]:
    """``forked([[2, limit_s, ["program.py", ...]], ...])``: by program and rank; see forked.py.

    ``folder`` is where they run; this process's where None.
    """

    def run(programs: Iterable[list[Any]], folder: Path | None = None) -> list[list[Outcome]]:
        line = [sys.executable, str(HERE / "forked.py"), json.dumps(list(programs), default=str)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with forked_workers():
            ended = subprocess.run(
                line, capture_output=True, text=True, env=environment, cwd=folder, timeout=300
            )
        assert ended.returncode == 0, ended.stderr
        return [[Outcome(*each) for each in ranks] for ranks in json.loads(ended.stdout)]

    return run
