"""A synthetic run of the kernels suite, whose times follow simple laws.

Forward, ``retention-chunkwise`` takes 1 µs a token and ``sdpa-flash`` 1 ns a pair of tokens, so
that they cross at 1,000 tokens; backward adds twice that. ``fla-chunk`` is not installed, and
``sdpa-math`` runs out of memory at 4,096 tokens.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retbench.metrics import METRICS
from retbench.store import Run, open_run

MODELS = ("retention-chunkwise", "sdpa-flash", "sdpa-math", "fla-chunk")
CONTEXTS = (256, 512, 2048, 4096)
DIRECTIONS = ("forward", "train")
MATMUL_RATE = 2e11
BANDWIDTH = 4e10
FLOPS_PER_TOKEN = 1e5
BYTES_PER_TOKEN = 1e3
ERROR = 3e-7
MISSING = "the package fla is not installed"


def seconds(model: str, direction: str, context: int) -> float:
    """The law of a call's time."""
    forward = 1e-6 * context if model == "retention-chunkwise" else 1e-9 * context**2
    return forward * {"sdpa-math": 2.0}.get(model, 1.0) * (3 if direction == "train" else 1)


def ending(model: str, context: int, direction: str = "forward") -> tuple[str, str | None]:
    """Status and cause of a cell, the same in both directions."""
    if model == "fla-chunk":
        return "unsupported", MISSING
    if model == "sdpa-math" and context >= 4096:
        return "oom", "out of memory of the test"
    return "ok", None


def run_json(
    models: tuple[str, ...], head_dims: tuple[int, ...], blocks: int, **changes: Any
) -> dict[str, Any]:
    """``run.json`` of such a run."""
    points = [
        {
            "seq_len": context, "batch_size": 1, "once": False, "sweeps": [],
            "settings": {"direction": direction, "head_dim": head_dim, "dtype": "float32"},
            "point": f"direction={direction},head_dim={head_dim},dtype=float32,"
                     f"context={context},batch=1",
        }
        for direction, head_dim, context in itertools.product(DIRECTIONS, head_dims, CONTEXTS)
    ]  # fmt: skip
    configuration = {
        "suite": "kernels", "operations": list(models), "directions": list(DIRECTIONS),
        "head_dims": list(head_dims), "dtypes": ["float32"], "dtype": "float32",
        "context": list(CONTEXTS), "batch": [1], "device": "cpu", "profile": "quick", "seed": 0,
        "threads": 2, "timeout_s": 300.0,
    }  # fmt: skip
    configuration |= changes.pop("configuration", {})
    return {
        "schema_version": 2, "suite": "kernels", "state": "finished",
        "configuration": configuration,
        "plan": {
            "suite": "kernels", "points": points, "blocks": blocks, "seed": 0,
            "contenders": [{"label": m, "family": m, "options": {}} for m in models],
        },
        "models": {},
        "provenance": {"processor": {"name": "Example CPU"}, "gpu": None,
                       "commit": {"hash": "abc123", "dirty": False}},
        "ceilings": {
            "device": "cpu", "threads": 2,
            "bandwidth": [{"working_set_bytes": 2**22, "read_bytes_per_s": BANDWIDTH,
                           "copy_bytes_per_s": 3e10}],
            "matmul_flop_per_s": {"float32": MATMUL_RATE}, "elapsed_s": 2.0,
        },
        "audit": {"floor": {"kernel_s": 0.004}, "slowdown": 0.05, "planted": 20, "found": 20,
                  "false": 0, "time": "2025-01-01T00:00:00+00:00"},
        "primary": [["kernel_s", points[len(CONTEXTS) - 1]["point"]]], "stopped": None,
        "block_s": {str(block): 60.0 for block in range(blocks)}, "samples": None,
        "data": None, "warnings": [],
        "started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T00:05:00+00:00",
        "elapsed_s": 300.0,
    } | changes  # fmt: skip


def write_kernels(
    path: Path, *, models: tuple[str, ...] = MODELS, head_dims: tuple[int, ...] = (64,),
    blocks: int = 3, endings: Any = ending, **changes: Any,
) -> Run:  # fmt: skip
    """Write a run directory and open it.

    Args:
        path: the directory to make.
        models: the operations; the first is the subject.
        head_dims: head dimensions of the points.
        blocks: rounds.
        endings: status and cause of (operation, context, direction).
        changes: keys of run.json to replace.
    """
    meta = run_json(models, head_dims, blocks, **changes)
    rng = random.Random(5)
    rows: list[dict[str, Any]] = []
    for block, model, point in itertools.product(range(blocks), models, meta["plan"]["points"]):
        rows += _batch(model, point, block, block * len(models) + models.index(model), endings, rng)
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.json").write_text(json.dumps(meta))
    (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(path)


def _batch(
    model: str, point: Mapping[str, Any], block: int, process: int, endings: Any,
    rng: random.Random,
) -> list[dict[str, Any]]:  # fmt: skip
    context, direction = point["seq_len"], point["settings"]["direction"]
    status, cause = endings(model, context, direction)
    common = {
        "suite": "kernels", "point": point["point"], "model": model, "preset": "",
        "mode": "eager", "seq_len": context, "batch_size": 1, "dtype": "float32",
        "device": "cpu", "block": block, "process": process,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []

    def add(phase: str, metric: str, value: float | None, trial: int | None = None, **more: Any):
        rows.append(common | {
            "implementation": model, "phase": phase, "metric": metric,
            "unit": METRICS[metric].unit, "trial": trial, "value": value, "status": "ok",
            "cause": None, "flags": [],
        } | more)  # fmt: skip

    if status != "unsupported":
        passes = 3 if direction == "train" else 1
        add("analytic", "kernel_flops", FLOPS_PER_TOKEN * context * passes)
        add("analytic", "kernel_bytes", BYTES_PER_TOKEN * context * passes)
    if status == "ok":
        add("gate", "kernel_first_s", 0.5)
        add("gate", "kernel_error", ERROR)
        add("memory", "kernel_peak_bytes", 1e4 * context)
        drift = rng.uniform(0.995, 1.005)
        for trial in range(3):
            jitter = drift * rng.uniform(0.99, 1.01)
            add("kernel", "kernel_s", seconds(model, direction, context) * jitter, trial)
    ok = status == "ok"
    add("cell", "cell_s", 1.0 if ok else None, status=status, cause=cause)
    return rows
