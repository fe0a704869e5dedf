"""A finished run in a folder of its own."""

from pathlib import Path
from typing import Any

import pytest

from retbench.store import RunWriter

from .run_files import Batch


@pytest.fixture
def run(tmp_path: Path, meta: dict[str, Any], batch: Batch) -> Path:
    """A finished run of three blocks of one cell, three lines each."""
    path = tmp_path / "run"
    with RunWriter.create(path, meta) as writer:
        for block in range(3):
            writer.append(batch(block=block, process=block))
        writer.finish("finished")
    return path
