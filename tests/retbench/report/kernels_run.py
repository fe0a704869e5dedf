"""A synthetic run of the kernels suite, whose times follow simple laws.

Forward, ``retention-chunkwise`` takes 1 µs a token and ``sdpa-flash`` 1 ns a pair of tokens, so
that they cross at 1,000 tokens; backward adds twice that. ``fla-chunk`` is not installed, and
``sdpa-math`` runs out of memory at 4,096 tokens.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from retbench.config.plan import Contender, Point
from retbench.store import Run

from .samples import Add, Ending, configuration, write

MODELS = ("retention-chunkwise", "sdpa-flash", "sdpa-math", "fla-chunk")
CONTEXTS = (256, 512, 2048, 4096)
DIRECTIONS = ("forward", "train")
MATMUL_RATE = 2e11
AUDIT = {
    "floor": {"kernel_s": 0.004}, "slowdown": 0.05, "planted": 20, "found": 20, "false": 0,
    "time": "2025-01-01T00:00:00+00:00",
}  # fmt: skip
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
    config = configuration(
        "kernels", operations=models, directions=DIRECTIONS, head_dims=head_dims,
        dtypes=("float32",), context=CONTEXTS, batch=(1,),
    )  # fmt: skip
    rng = random.Random(5)

    def cell(add: Add, block: int, contender: Contender, point: Point) -> Ending:
        model, context, direction = contender.label, point.seq_len, str(point.setting("direction"))
        status, cause = endings(model, context, direction)
        add = partial(add, implementation=model)
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
                add("kernel", "kernel_s", seconds(model, direction, context) * jitter, trial=trial)
        return status, cause, []

    config = replace(config, **changes.pop("configuration", {}))
    return write(path, config, blocks, cell, None, {"audit": AUDIT, **changes})
