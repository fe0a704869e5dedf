"""A synthetic run of the scaling suite whose losses follow known power laws.

``retnet``'s exponent is 0.12, ``transformer``'s 0.08; they meet at ``MEET`` parameters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retbench.config.plan import Contender, Point
from retbench.store import Run

from .samples import Add, Ending, configuration, described, write

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


def write_scaling(
    path: Path, *, models: tuple[str, ...] = MODELS, seeds: int = 3,
    presets: Mapping[str, float] = PRESETS,
    failures: Mapping[tuple[str, str, int], str] | None = None,
    loss: Callable[[str, float], float] = law, spread: float = 0.002,
    not_finite: tuple[str, str, int] | None = None, **changes: Any,
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
        not_finite: the (model, preset, seed) whose loss of document 0 is not finite.
        changes: keys of run.json to replace.
    """
    config = configuration(
        "scaling", models=models, preset="1m", context=(CONTEXT,), batch=(BATCH,),
        presets=tuple(presets), steps=STEPS, learning_rates=RATES, tokenizer="char",
    )  # fmt: skip
    rng = random.Random(11)
    hard = [rng.gauss(0, 0.1) for _ in range(DOCUMENTS)]
    tokens = [1000 + 100 * document for document in range(DOCUMENTS)]
    middle = sum(h * t for h, t in zip(hard, tokens, strict=True)) / sum(tokens)

    def cell(add: Add, block: int, contender: Contender, point: Point) -> Ending:
        model, preset = contender.label, str(point.setting("preset"))
        final = point.setting("stage") == "final"
        status = (failures or {}).get((model, preset, block), "ok") if final else "ok"
        size = presets[preset] * (1 if model == models[0] else 1.001)
        base = loss(model, size) + rng.gauss(0, spread)
        rate = float(point.setting("lr") or RATES[1])
        add("train", "final_dev_loss", base + (0.1 if rate == RATES[0] else 0.0))
        add("train", "learning_rate", rate)
        trained = float(CONTEXT * BATCH * STEPS)
        add("analytic", "parameters", float(round(size)))
        add("analytic", "train_tokens", trained)
        add("analytic", "train_flops", 6 * size * trained)
        add("analytic", "data_order", float(1000 + block))
        for document in range(DOCUMENTS if final and status == "ok" else 0):
            own = base + hard[document] - middle + rng.gauss(0, spread)
            more = {"index": document, "implementation": "window=256,stride=128"}
            if document == 0 and (model, preset, block) == not_finite:
                add("test", "test_nats", None, status="error", cause="test_nats is nan", **more)
            else:
                add("test", "test_nats", own * tokens[document], **more)
            add("test", "test_tokens", float(tokens[document]), **more)
            add("test", "test_bytes", float(tokens[document] + 1), **more)
        return status, None if status == "ok" else f"{status} of the test", []

    config = replace(config, **changes.pop("configuration", {}))
    data = {"name": "shakespeare", "tokenizer": "char", "vocab_size": 67, "sha256": "0" * 64}
    about = {"models": described(models, "1m", 800_000), "ceilings": None, "data": data}
    return write(path, config, seeds, cell, None, about | changes)
