"""A synthetic run of the recall suite, whose accuracies follow simple laws.

``transformer`` is right 97 times in 100 up to twice the training length and fails beyond;
``retnet`` knows at most about 16 pairs, at any length.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retbench.config.plan import Contender, Point
from retbench.store import Run

from .samples import Add, Ending, configuration, described, write

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
    config = configuration(
        "recall", models=models, preset="tiny", context=(TRAINED,), batch=(8,),
        tasks=tuple(tasks), steps=500, learning_rates=(0.001,),
    )  # fmt: skip
    rng = random.Random(7)

    def cell(add: Add, block: int, contender: Contender, point: Point) -> Ending:
        model, task = contender.label, str(point.setting("task"))
        final = point.setting("stage") == "final"
        status = (failures or {}).get((model, task, block), "ok") if final else "ok"
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
                add("recall", "accuracy", right, seq_len=seq_len, index=load)
                add("recall", "answers", float(ANSWERS), seq_len=seq_len, index=load)
        return status, None if status == "ok" else f"{status} of the test", []

    config = replace(config, **changes.pop("configuration", {}))
    about = {"models": described(models, "tiny", 100_000), "ceilings": None}
    return write(path, config, seeds, cell, None, about | changes)
