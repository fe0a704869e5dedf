"""A small synthetic run: three models, a sweep over context and one over batch, three blocks.

The models of a block take turns: what the machine does in a round slows all of them alike.

The times follow simple laws, so that tests know what to expect: retnet's step takes 4 ms at any
context, transformer's 2 ms + 2 ms per 2,048 tokens (they cross at 2,048), and transformer-gqa's
2 ms + 2 ms per 8,192 tokens (they meet at 8,192).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.metrics import METRICS
from retbench.store import Run, open_run
from retbench.suites.base import swept

MODELS = ("retnet", "transformer", "transformer-gqa")
CONTEXTS = (512, 1024, 2048, 4096, 8192)
BATCHES = (1, 4, 16)
BATCH_CONTEXT = 1024
PARAMETERS = 10_000_000
MIB = 2**20
PRIMARY = [["tpot_s", "context=8192,batch=1"], ["ttft_s", "context=8192,batch=1"]]
AUDIT = {
    "floor": {"tpot_s": 0.004, "mean_tpot_s": 0.004, "ttft_s": 0.008}, "slowdown": 0.05,
    "planted": 20, "found": 20, "compared": 20, "false": 0, "machine_id": "m", "preset": "10m",
    "device": "cpu", "dtype": "float32", "mode": "eager", "threads": 2, "rows": [],
    "time": "2025-01-01T00:00:00+00:00",
}  # fmt: skip
OLD = {"schema_version": 1, "audit": None, "primary": [], "calibration": {"floor": 0.02}}
"""Keys of a run that was measured before contenders took turns."""


def step_s(model: str, seq_len: int, batch: int) -> float:
    """The law of TPOT, in seconds."""
    per_token = {"retnet": 0.0, "transformer": 2e-3 / 2048, "transformer-gqa": 2e-3 / 8192}[model]
    base = 4e-3 if model == "retnet" else 2e-3
    return (base + per_token * seq_len) * batch**0.5


def machine(block: int, point: tuple[int, int], metric: str, trial: int) -> float:
    """How the machine slows whoever it is in a round."""
    return random.Random(f"{block} {point} {metric} {trial}").uniform(0.96, 1.04)


def _meta(blocks: int, **changes: Any) -> dict[str, Any]:
    sizes = [(c, 1) for c in CONTEXTS] + [(BATCH_CONTEXT, b) for b in BATCHES[1:]]
    points = swept(sizes, lambda _, batch: batch == 1, BATCH_CONTEXT)
    configuration = {
        "suite": "inference", "models": list(MODELS), "preset": "10m", "context": list(CONTEXTS),
        "batch": list(BATCHES), "batch_context": BATCH_CONTEXT, "new_tokens": 8, "device": "cpu",
        "dtype": "float32", "mode": "eager", "profile": "quick", "seed": 0, "threads": 2,
        "ffn": "gelu", "overrides": {}, "timeout_s": 300.0, "memory_limit_gib": None, "out": None,
        "margin": 0.01, "precision": 0.02, "minutes": 5.0,
    }  # fmt: skip
    models = {
        model: {
            "family": model, "preset": "10m", "config": {"ffn": "gelu", "d_model": 256},
            "parameters": PARAMETERS, "parameters_embedding": 12_000_000,
            "weights_dtype": "float32", "state_dtype": "float32", "implementation": {},
        }
        for model in MODELS
    }  # fmt: skip
    configuration |= changes.pop("configuration", {})
    for model, described in changes.pop("models", {}).items():
        models[model] |= described
    return {
        "schema_version": 2, "suite": "inference", "state": "finished",
        "configuration": configuration,
        "plan": {
            "suite": "inference",
            "contenders": [{"label": m, "family": m, "options": {}} for m in MODELS],
            "points": [point.to_json() for point in points],
            "blocks": blocks, "seed": 0,
        },
        "models": models,
        "provenance": {"processor": {"name": "Example CPU"}, "gpu": None,
                       "commit": {"hash": "abc123", "dirty": False}},
        "ceilings": {
            "device": "cpu", "threads": 2,
            "bandwidth": [{"working_set_bytes": 2**22, "read_bytes_per_s": 4e10,
                           "copy_bytes_per_s": 3e10}],
            "matmul_flop_per_s": {"float32": 2e11}, "elapsed_s": 2.0,
        },
        "audit": AUDIT, "primary": PRIMARY, "stopped": None,
        "block_s": {str(block): 60.0 for block in range(blocks)}, "samples": None,
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:05:00+00:00", "elapsed_s": 300.0,
    } | changes  # fmt: skip


def _batch(
    model: str, point: tuple[int, int], block: int, trials: int, steps: int, status: str,
    flags: list[str], rng: random.Random, implementation: str, mode: str, memory: float,
    generation: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    seq_len, batch = point
    process = block * len(MODELS) + MODELS.index(model)
    common = {
        "suite": "inference", "point": f"context={seq_len},batch={batch}", "model": model,
        "preset": "10m", "mode": mode, "seq_len": seq_len, "batch_size": batch,
        "dtype": "float32", "device": "cpu", "block": block, "process": process,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []

    def add(phase: str, metric: str, value: float | None, trial: int | None = None, **more: Any):
        rows.append(common | {
            "implementation": implementation, "phase": phase,
            "metric": metric, "unit": METRICS[metric].unit, "trial": trial, "value": value,
            "status": "ok", "cause": None, "flags": [],
        } | more)  # fmt: skip

    state = batch * (2 * MIB if model == "retnet" else seq_len * 4096)
    if model == "transformer-gqa":
        state //= 4
    if point == (CONTEXTS[0], 1):
        for metric, value in (("import_s", 1.5), ("build_s", 0.2), ("gate_s", 0.4),
                              ("gate_error", 1e-6)):  # fmt: skip
            add("setup", metric, value * rng.uniform(0.98, 1.02))
    add("analytic", "prefill_flops", 2.0 * PARAMETERS * seq_len * batch)
    add("analytic", "decode_flops", 2.0 * PARAMETERS * batch)
    add("analytic", "decode_bytes", 4.0 * PARAMETERS + state)
    if status == "ok":
        drift = rng.uniform(0.995, 1.005)  # of this process
        quadratic = 0.0 if model == "retnet" else seq_len / 16384
        add("setup", "cold_start_s", 1e-3 * seq_len)
        for trial in range(trials):
            prefill = 1.5e-4 * seq_len * batch * (1 + quadratic)
            jitter = drift * rng.uniform(0.99, 1.02) * machine(block, point, "ttft_s", trial)
            add("prefill", "ttft_s", prefill * jitter, trial)
        for trial in range(steps):
            jitter = drift * rng.uniform(0.99, 1.03) * machine(block, point, "tpot_s", trial)
            add("decode", "tpot_s", step_s(model, seq_len, batch) * jitter, trial)
        for trial in range(trials if generation and batch == 1 else 0):
            jitter = drift * rng.uniform(0.99, 1.03) * machine(block, point, "mean_tpot_s", trial)
            add("generation", "mean_tpot_s", step_s(model, seq_len // 2, batch) * jitter, trial)
        weights, work = 4 * PARAMETERS, 3000 * seq_len * batch
        for metric, size in (
            ("weights_bytes", weights), ("state_bytes", state),
            ("prefill_peak_bytes", (weights + state + work) * rng.uniform(1 - memory, 1.0)),
            ("decode_peak_bytes", (weights + state + 2 * MIB) * rng.uniform(1 - memory, 1.0)),
            ("steady_bytes", weights + state + MIB),
        ):  # fmt: skip
            add(
                "memory",
                metric,
                float(size),
                implementation=(
                    "tensors" if metric in ("weights_bytes", "state_bytes") else "resident_set"
                ),
            )
    ok = status == "ok"
    add("cell", "cell_s", 2.0 if ok else None, status=status, flags=flags,
        cause=None if ok else f"{status} of the test")  # fmt: skip
    return rows


Failures = dict[tuple[str, int, int], "str | dict[int, str]"]


def write_run(
    path: Path, *, blocks: int = 3, trials: int = 10, steps: int = 12,
    failures: Failures | None = None, flags: dict[str, list[str]] | None = None,
    implementations: dict[str, str] | None = None, modes: dict[str, str] | None = None,
    memory: float = 0.002, generation: bool = False,
    alone: Callable[[str, int, int], bool] = lambda model, context, block: False,
    change: Callable[[dict[str, Any]], float] | None = None, **changes: Any,
) -> Path:  # fmt: skip
    """Write a run directory as the store lays it out.

    Args:
        path: the directory to make.
        blocks: processes of each model.
        trials: rounds of a cell's prefill in a block, and of its generation.
        steps: rounds of its decode steps.
        failures: status of (model, context, batch), for all blocks or by block.
        flags: flags of every cell of a model.
        implementations: what a model's samples say ran.
        modes: the execution mode that a model's samples name.
        memory: by how much memory peaks vary over processes.
        generation: whether the mean TPOT of a whole generation was measured too.
        alone: whether a model was measured by itself at a context in a block.
        change: a factor on the value of each row that has one.
        changes: keys of run.json to replace; ``configuration`` and ``models`` are merged.
    """
    meta = _meta(blocks, **changes)
    rng = random.Random(7)
    rows: list[dict[str, Any]] = []
    for block in range(blocks):
        for model in MODELS:
            for place in meta["plan"]["points"]:
                point = place["seq_len"], place["batch_size"]
                status = (failures or {}).get((model, *point), "ok")
                if isinstance(status, dict):
                    status = status.get(block, "ok")
                noted = [*(flags or {}).get(model, [])]
                noted += ["alone"] * alone(model, point[0], block)
                rows += _batch(
                    model, point, block, trials, steps, status, noted, rng,
                    (implementations or {}).get(model, "fused"),
                    (modes or {}).get(model, "eager"), memory, generation,
                )  # fmt: skip
    for row in rows:
        if change is not None and row["value"] is not None:
            row["value"] *= change(row)
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(meta, indent=2) + "\n")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "samples.jsonl").write_text(lines)
    return path


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``write_run`` into the test's folder, opened."""

    def make(name: str = "run", **options: Any) -> Run:
        return open_run(write_run(tmp_path / name, **options))

    return make


# A run in which a length, a batch and a single block have failed.
FAILURES: Failures = {
    ("transformer", 8192, 1): "oom",
    ("transformer", 1024, 16): "oom_implied",
    ("transformer-gqa", 8192, 1): {1: "timeout"},
}
