from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The module ``small.py``: models and data that train in milliseconds."""
    spec = importlib.util.spec_from_file_location("retbench_small", HERE / "small.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``full_disk(limit_bytes)``: no file of this process grows beyond the limit meanwhile."""

    @contextlib.contextmanager
    def limit(limit_bytes: int) -> Iterator[None]:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    return limit


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command line in this process, in an empty folder, with an empty cache."""
    from retbench.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))

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
        ended = subprocess.run(
            line, capture_output=True, text=True, env=environment, cwd=folder, timeout=150
        )
        assert ended.returncode == 0, ended.stderr
        return [[Outcome(*each) for each in ranks] for ranks in json.loads(ended.stdout)]

    return run
