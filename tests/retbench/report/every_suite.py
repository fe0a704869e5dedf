"""A small run of every suite: of those without a maker, what was published, cut short."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from retbench.store import Run, RunWriter, open_run
from retbench.store.journal import is_status_row

from .kernels_run import write_kernels
from .recall_run import write_recall
from .scaling_run import write_scaling

RESULTS = Path(__file__).parents[3] / "results"
Row = dict[str, Any]


def published(name: str, models: int = 3) -> Callable[..., Run]:
    """Two blocks of a published run, of its first models, and of each series a few values."""

    def write(path: Path, state: str = "finished") -> Run:
        run, cells = _cut(name, models)
        return rewritten(run, path, cells, state)

    return write


@cache
def _cut(name: str, models: int) -> tuple[Run, list[list[Row]]]:
    """A published run, and what :func:`published` keeps of its samples."""

    def kept(row: Row) -> bool:
        return (
            row["block"] < 2 and (row["trial"] or 0) < 3
            and (row["index"] is None or row["phase"] != "train" or row["index"] % 600 == 0)
        )  # fmt: skip

    run = open_run(RESULTS / name)
    named = [each["label"] for each in run.meta["plan"]["contenders"][:models]]
    cells = [list(filter(kept, batch)) for batch in batches(run) if batch[0]["model"] in named]
    return run, cells


def batches(run: Run) -> list[list[Row]]:
    """The samples of each cell in each block."""
    found: list[list[Row]] = [[]]
    for line in (run.path / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        row.pop("sha256", None)
        found[-1].append(row)
        if is_status_row(row):
            found.append([])
    return found[:-1]


def rewritten(run: Run, path: Path, cells: list[list[Row]], state: str = "finished") -> Run:
    """A run with other samples, in as many blocks as they have."""
    blocks = 1 + max(row["block"] for cell in cells for row in cell)
    own = {"samples", "sha256", "state", "schema_version"}
    meta = {key: value for key, value in run.meta.items() if key not in own}
    models = {row["model"] for cell in cells for row in cell}
    contenders = [each for each in meta["plan"]["contenders"] if each["label"] in models]
    meta["plan"] = meta["plan"] | {"blocks": blocks, "contenders": contenders}
    with RunWriter.create(path, meta) as writer:
        writer.append(*(cell for cell in cells if cell))  # type: ignore[arg-type]
        if state != "running":
            writer.finish(state)
    return open_run(path)


SUITES: dict[str, Callable[..., Run]] = {
    "inference": published("cpu-10m-inference"),
    "training": published("cpu-1m-training"),
    "kernels": lambda path, **given: write_kernels(path, blocks=2, **given),
    "perplexity": published("cpu-tiny-perplexity"),
    "ablation": published("cpu-tiny-ablation"),
    "scaling": lambda path, **given: write_scaling(path, seeds=2, **given),
    "recall": lambda path, **given: write_recall(path, seeds=2, **given),
}
