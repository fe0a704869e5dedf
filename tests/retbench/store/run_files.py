"""The files of a run, as tests read, change and compare them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retbench.store import read_meta, write_meta

Batch = Callable[..., list[dict[str, Any]]]


def lines_of(run: Path) -> list[bytes]:
    return (run / "samples.jsonl").read_bytes().splitlines(keepends=True)


def set_lines(run: Path, lines: list[bytes], *, state: str = "finished") -> None:
    """Write the samples as a file that was never recorded as complete."""
    (run / "samples.jsonl").write_bytes(b"".join(lines))
    write_meta(run, {**read_meta(run), "state": state, "samples": None})  # type: ignore[typeddict-item]


def snapshot(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.iterdir()}
