"""The one maker of synthetic runs: a suite's own plan, samples by a law, the store's own writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retbench import suites
from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import RunConfig
from retbench.metrics import Sample
from retbench.store import Run, RunWriter, open_run
from retbench.store.samples import new_sample

PROVENANCE = {
    "processor": {"name": "Example CPU"}, "gpu": None,
    "commit": {"hash": "abc123", "dirty": False},
}  # fmt: skip
CEILINGS = {
    "device": "cpu", "threads": 2, "matmul_flop_per_s": {"float32": 2e11}, "elapsed_s": 2.0,
    "bandwidth": [
        {"working_set_bytes": 2**22, "read_bytes_per_s": 4e10, "copy_bytes_per_s": 3e10}
    ],
}  # fmt: skip
TIMES = {"started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T00:05:00+00:00"}

Add = Callable[..., None]
"""Takes phase, metric and value, and the columns of the sample that differ from its defaults."""

Ending = tuple[str, str | None, list[str]]
"""Status, cause and flags of a cell."""

Law = Callable[[Add, int, Contender, Point], Ending]
"""Adds the samples of a cell in a block, and says how it ended."""


def configuration(suite: str, **given: Any) -> RunConfig:
    """A configuration with no look at any model or machine."""
    common = {"device": "cpu", "dtype": "float32", "profile": "quick", "seed": 0, "threads": 2}
    return suites.get(suite).config(**{"timeout_s": 300.0, **common, **given})


def described(models: tuple[str, ...], preset: str, parameters: int) -> dict[str, dict[str, Any]]:
    """What ``run.json`` keeps of models, all of one size."""
    return {
        model: {
            "family": model, "preset": preset, "config": {"ffn": "gelu", "d_model": 128},
            "parameters": parameters, "parameters_embedding": 10_000, "weights_dtype": "float32",
            "state_dtype": "float32", "implementation": {},
        }
        for model in models
    }  # fmt: skip


def write(
    path: Path, config: RunConfig, blocks: int, law: Law, change: Callable[[Any], float] | None,
    meta: Mapping[str, Any],
) -> Run:  # fmt: skip
    """Write a run directory and open it.

    Args:
        path: the directory to make.
        config: its ``models`` or ``operations`` are the contenders.
        blocks: that were measured.
        law: what a cell's samples are.
        change: a factor on the value of each sample that has one; None for 1.
        meta: keys of run.json that differ from those of a finished run.
    """
    plan = replace(suites.get(config.suite).plan(config), blocks=blocks, least=None)
    about = {
        "suite": config.suite, "configuration": config.to_json(), "plan": plan.to_json(),
        "models": {}, "provenance": PROVENANCE, "ceilings": CEILINGS, "audit": None, "data": None,
        "primary": [list(row) for row in plan.primary], "stopped": None, "warnings": [],
        "resumed": [], "block_s": {str(block): 60.0 for block in range(blocks)}, **TIMES, **meta,
    }  # fmt: skip
    with RunWriter.create(path, about) as writer:
        writer.append(*_cells(config, plan, law, change))
        state = meta.get("state", "finished")
        if state != "running":
            writer.finish(state)
        writer.update(**TIMES, state=state, elapsed_s=300.0)
    return open_run(path)


def _cells(
    config: RunConfig, plan: Plan, law: Law, change: Callable[[Any], float] | None
) -> list[list[Sample]]:
    return [
        _cell(config, plan, law, change, block, contender, point)
        for block in range(plan.blocks)
        for contender in plan.contenders
        for point in plan.points
        if not (point.once and block)
    ]


def _cell(
    config: RunConfig, plan: Plan, law: Law, change: Callable[[Any], float] | None, block: int,
    contender: Contender, point: Point,
) -> list[Sample]:  # fmt: skip
    process = block * len(plan.contenders) + plan.contenders.index(contender)
    rows: list[Any] = []

    def add(phase: str, metric: str, value: float | None, **columns: Any) -> None:
        row: Any = new_sample(config, contender, point, phase, metric, value)
        row |= {"block": block, "process": process} | columns
        if change is not None and value is not None:
            row["value"] = value * change(row)
        rows.append(row)

    status, cause, flags = law(add, block, contender, point)
    ended = {"status": status, "cause": cause, "flags": flags}
    add("cell", "cell_s", 2.0 if status == "ok" else None, **ended)
    return rows
