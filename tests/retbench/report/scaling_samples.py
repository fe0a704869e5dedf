"""A synthetic run of the scaling suite whose losses follow known power laws.

``retnet``'s exponent is 0.12, ``transformer``'s 0.08; they meet at ``MEET`` parameters.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retbench.metrics import METRICS
from retbench.store import Run, open_run

MODELS = ("retnet", "transformer")
PRESETS = {"tiny": 1.0e5, "1m": 8.0e5, "3m": 3.2e6}  # non-embedding parameters
CONTEXT, BATCH, STEPS = 256, 4, 500
EXPONENTS = {"retnet": 0.12, "transformer": 0.08}
MEET, AT_MEET = 1.0e6, 1.8  # parameters, nats per token
DOCUMENTS = 8
RATES = (0.001, 0.003)


def law(model: str, parameters: float) -> float:
    """The expected test loss, nats per token."""
    return float(AT_MEET * (parameters / MEET) ** -EXPONENTS[model])


def run_json(models: tuple[str, ...], presets: Mapping[str, float], seeds: int, **changes: Any):
    """``run.json`` of such a run."""
    points = []
    for preset in presets:
        stages = [*({"stage": "tune", "lr": rate} for rate in RATES), {"stage": "final"}]
        for stage in stages:
            settings = {"preset": preset} | stage
            name = ",".join(f"{key}={value}" for key, value in settings.items())
            points.append({
                "seq_len": CONTEXT, "batch_size": BATCH, "settings": settings,
                "once": stage["stage"] == "tune", "sweeps": [],
                "point": f"{name},context={CONTEXT},batch={BATCH}",
            })  # fmt: skip
    configuration = {
        "suite": "scaling", "models": list(models), "preset": "1m", "context": [CONTEXT],
        "batch": [BATCH], "device": "cpu", "dtype": "float32", "mode": "eager",
        "profile": "quick", "seed": 0, "threads": 2, "presets": list(presets), "steps": STEPS,
        "learning_rates": list(RATES), "tokenizer": "char", "data": None,
    }  # fmt: skip
    configuration |= changes.pop("configuration", {})
    described = {
        model: {
            "family": model, "preset": "1m", "config": {"ffn": "gelu", "d_model": 128},
            "parameters": 800_000, "parameters_embedding": 10_000, "weights_dtype": "float32",
            "state_dtype": "float32", "implementation": {},
        }
        for model in models
    }  # fmt: skip
    return {
        "schema_version": 1, "suite": "scaling", "state": "finished",
        "configuration": configuration,
        "plan": {
            "suite": "scaling", "points": points, "blocks": seeds, "seed": 0,
            "contenders": [{"label": m, "family": m, "options": {}} for m in models],
        },
        "models": described,
        "provenance": {"processor": {"name": "Example CPU"}, "gpu": None,
                       "commit": {"hash": "abc123", "dirty": False}},
        "ceilings": None, "calibration": None, "samples": None,
        "data": {"name": "shakespeare", "tokenizer": "char", "vocab_size": 67, "sha256": "0" * 64},
        "started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T00:05:00+00:00",
        "elapsed_s": 300.0,
    } | changes  # fmt: skip


def write_scaling(
    path: Path, *, models: tuple[str, ...] = MODELS, seeds: int = 3,
    presets: Mapping[str, float] = PRESETS,
    failures: Mapping[tuple[str, str, int], str] | None = None,
    loss: Callable[[str, float], float] = law, spread: float = 0.002, **changes: Any,
) -> Run:  # fmt: skip
    """Write a run directory and open it.

    Args:
        path: the directory to make.
        models: their labels.
        seeds: final trainings of each model and preset.
        presets: their non-embedding parameters.
        failures: status of (model, preset, seed).
        loss: expected nats per token of (model, parameters).
        spread: standard deviation of a seed's loss, and of a document's of a seed.
        changes: keys of run.json to replace.
    """
    meta = run_json(models, presets, seeds, **changes)
    rng = random.Random(11)
    hard = [rng.gauss(0, 0.1) for _ in range(DOCUMENTS)]
    tokens = [1000 + 100 * document for document in range(DOCUMENTS)]
    middle = sum(h * t for h, t in zip(hard, tokens, strict=True)) / sum(tokens)
    rows: list[dict[str, Any]] = []
    for block in range(seeds):
        for place, model in enumerate(models):
            for point in meta["plan"]["points"]:
                if point["once"] and block:
                    continue
                settings = point["settings"]
                preset, final = settings["preset"], settings["stage"] == "final"
                status = (failures or {}).get((model, preset, block), "ok") if final else "ok"
                common = {
                    "suite": "scaling", "point": point["point"], "model": model, "preset": preset,
                    "mode": "eager", "implementation": "", "seq_len": CONTEXT,
                    "batch_size": BATCH, "dtype": "float32", "device": "cpu", "block": block,
                    "process": block * len(models) + place, "trial": None, "status": "ok",
                    "cause": None, "flags": [],
                }  # fmt: skip

                def add(phase: str, metric: str, value: Any, common: Any = common, **more: Any):
                    row = {"phase": phase, "metric": metric, "unit": METRICS[metric].unit}
                    rows.append(common | row | {"value": value} | more)

                size = presets[preset] * (1 if model == models[0] else 1.001)
                base = loss(model, size) + rng.gauss(0, spread)
                rate = settings.get("lr", RATES[1])
                add("train", "final_dev_loss", base + (0.1 if rate == RATES[0] else 0.0))
                add("train", "learning_rate", rate)
                trained = float(CONTEXT * BATCH * STEPS)
                add("analytic", "parameters", float(round(size)))
                add("analytic", "train_tokens", trained)
                add("analytic", "train_flops", 6 * size * trained)
                add("analytic", "data_order", float(1000 + block))
                for document in range(DOCUMENTS if final and status == "ok" else 0):
                    own = base + hard[document] - middle + rng.gauss(0, spread)
                    more = {"trial": document, "implementation": "window=256,stride=128"}
                    add("test", "test_nats", own * tokens[document], **more)
                    add("test", "test_tokens", float(tokens[document]), **more)
                    add("test", "test_bytes", float(tokens[document] + 1), **more)
                ok = status == "ok"
                add("cell", "cell_s", 2.0 if ok else None, status=status,
                    cause=None if ok else f"{status} of the test")  # fmt: skip
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(meta, indent=2) + "\n")
    (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(path)
