from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from retbench.training import job, loop, model_folder

from ..conftest import Command

__all__ = ["FILES", "SMALL", "Command", "curve", "record_of"]

HERE = Path(__file__).parent
SMALL = (
    "--preset", "tiny", "--set", "d_model=32", "--set", "n_heads=4", "--context", "16", "--batch",
    "4", "--threads", "1", "--device", "cpu", "--lr", "0.01", "--data",
)  # fmt: skip
"""Of the command ``train``, before the text: a step takes milliseconds."""
FILES = {"config.json", "model.safetensors", "tokenizer.json", "training.json"}
"""What a finished training leaves."""


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has been trained in this process writes little: it took as long as training."""
    monkeypatch.setattr(job, "SAMPLE_TOKENS", 20)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be compiled runs as it is, and counts as compiled."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(loop, "making_graphs", lambda expected: nullcontext())


def record_of(folder: Path) -> dict[str, Any]:
    return model_folder.read_record(folder)


def curve(folder: Path) -> list[Any]:
    """All of a training's records that must not depend on interruptions."""
    return [
        {name: figure for name, figure in record.items() if name != "seconds"}
        for record in record_of(folder)["records"]
    ]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 30 kB whose words are easily learnt."""
    file = tmp_path_factory.mktemp("text") / "input.txt"
    lines = (f"the {'quick' if n % 3 else 'slow'} fox jumps {n % 7} times\n" for n in range(1000))
    file.write_text("".join(lines))
    return file


@pytest.fixture
def trained(command: Command, text: Path, tmp_path: Path) -> Path:
    """The folder ``run`` here: a training of 12 steps."""
    ended = command("train", *SMALL, text, "--steps", "12", "--out", "run", "--quiet")
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The module ``small.py``: models and data that train in milliseconds."""
    spec = importlib.util.spec_from_file_location("retbench_small", HERE / "small.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
