"""A synthetic run of the recall suite, whose accuracies follow simple laws.

``transformer`` is right 97 times in 100 up to twice the training length and fails beyond;
``retnet`` knows at most about 16 pairs, at any length.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retbench.metrics import METRICS
from retbench.store import Run, open_run

MODELS = ("retnet", "transformer")
TASKS: dict[str, tuple[int, ...]] = {"mqar": (4, 8, 16, 32), "copy": (8, 32), "needle": (1,)}
LENGTHS = (64, 128, 256, 512, 1024)
TRAINED = 128
ANSWERS = 256


def accuracy(model: str, task: str, seq_len: int, load: int) -> float:
    """The law of the accuracy, before noise."""
    if model.startswith("transformer"):
        return 0.97 if seq_len <= 2 * TRAINED else 0.97 * 2 * TRAINED / seq_len
    return 0.95 if load <= 16 else 0.6


def run_json(models: tuple[str, ...], tasks: Mapping[str, Any], seeds: int, **changes: Any) -> Any:
    """``run.json`` of such a run."""
    stages: list[dict[str, Any]] = [{"stage": "tune", "lr": 0.001}, {"stage": "final"}]
    points = []
    for task in tasks:
        for stage in stages:
            settings = {"task": task} | stage
            name = ",".join(f"{key}={value}" for key, value in settings.items())
            points.append({
                "seq_len": TRAINED, "batch_size": 8, "settings": settings,
                "once": stage["stage"] == "tune", "sweeps": [],
                "point": f"{name},context={TRAINED},batch=8",
            })  # fmt: skip
    configuration = {
        "suite": "recall", "models": list(models), "preset": "tiny", "context": [TRAINED],
        "batch": [8], "device": "cpu", "dtype": "float32", "mode": "eager", "profile": "quick",
        "seed": 0, "threads": 2, "tasks": list(tasks), "steps": 500,
    }  # fmt: skip
    configuration |= changes.pop("configuration", {})
    described = {
        model: {
            "family": model, "preset": "tiny", "config": {"ffn": "gelu", "d_model": 64},
            "parameters": 100_000, "parameters_embedding": 10_000, "weights_dtype": "float32",
            "state_dtype": "float32", "implementation": {},
        }
        for model in models
    }  # fmt: skip
    return {
        "schema_version": 1, "suite": "recall", "state": "finished",
        "configuration": configuration,
        "plan": {
            "suite": "recall", "points": points, "blocks": seeds, "seed": 0,
            "contenders": [{"label": m, "family": m, "options": {}} for m in models],
        },
        "models": described,
        "provenance": {"processor": {"name": "Example CPU"}, "gpu": None,
                       "commit": {"hash": "abc123", "dirty": False}},
        "ceilings": None, "calibration": None, "samples": None, "data": None,
        "started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T00:05:00+00:00",
        "elapsed_s": 300.0,
    } | changes  # fmt: skip


def write_recall(
    path: Path, *, models: tuple[str, ...] = MODELS, seeds: int = 3,
    tasks: Mapping[str, tuple[int, ...]] = TASKS,
    failures: Mapping[tuple[str, str, int], str] | None = None, law: Any = accuracy,
    spread: float = 0.01, **changes: Any,
) -> Run:  # fmt: skip
    """Write a run directory and open it.

    Args:
        path: the directory to make.
        models: their labels.
        seeds: final trainings of each model and task.
        tasks: the loads of each task.
        failures: status of (model, task, seed).
        law: the accuracy of (model, task, length, load).
        spread: of the seeds' accuracies about it.
        changes: keys of run.json to replace.
    """
    meta = run_json(models, tasks, seeds, **changes)
    rng = random.Random(7)
    rows: list[dict[str, Any]] = []
    for block in range(seeds):
        for place, model in enumerate(models):
            for point in meta["plan"]["points"]:
                if point["once"] and block:
                    continue
                task = point["settings"]["task"]
                final = point["settings"]["stage"] == "final"
                status = (failures or {}).get((model, task, block), "ok") if final else "ok"
                common = {
                    "suite": "recall", "point": point["point"], "model": model, "preset": "tiny",
                    "mode": "eager", "implementation": "", "seq_len": TRAINED, "batch_size": 8,
                    "dtype": "float32", "device": "cpu", "block": block,
                    "process": block * len(models) + place, "trial": None, "status": "ok",
                    "cause": None, "flags": [],
                }  # fmt: skip

                def add(phase: str, metric: str, value: Any, common: Any = common, **more: Any):
                    unit = METRICS[metric].unit
                    row = {"phase": phase, "metric": metric, "unit": unit, "value": value}
                    rows.append(common | row | more)

                add("train", "final_dev_loss", 0.1)
                add("train", "learning_rate", 0.001)
                add("analytic", "parameters", 100_000.0)
                for seq_len in LENGTHS if final and status == "ok" else ():
                    state = 16384.0 if model == "retnet" else 512.0 * seq_len
                    add("analytic", "state_bytes", state, seq_len=seq_len)
                    for load in tasks[task]:
                        if task != "needle" and load * 4 > seq_len:
                            continue
                        share = law(model, task, seq_len, load) + rng.uniform(-spread, spread)
                        right = round(min(max(share, 0), 1) * ANSWERS) / ANSWERS
                        add("recall", "accuracy", right, seq_len=seq_len, trial=load)
                        add("recall", "answers", float(ANSWERS), seq_len=seq_len, trial=load)
                ok = status == "ok"
                add("cell", "cell_s", 2.0 if ok else None, status=status,
                    cause=None if ok else f"{status} of the test")  # fmt: skip
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(meta, indent=2) + "\n")
    (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(path)
