"""A small synthetic run: three models, a sweep over context and one over batch, three blocks.

The models of a block take turns: what the machine does in a round slows all of them alike.

The times follow simple laws, so that tests know what to expect: retnet's step takes 4 ms at any
context, transformer's 2 ms + 2 ms per 2,048 tokens (they cross at 2,048), and transformer-gqa's
2 ms + 2 ms per 8,192 tokens (they meet at 8,192).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from retbench.config.plan import Contender, Point
from retbench.config.run import MEMORY_BLOCKS
from retbench.report.summary import Summary
from retbench.store import Run
from retbench.store.meta import read_meta, write_meta

from .samples import Add, Ending, configuration, described, write

MODELS = ("retnet", "transformer", "transformer-gqa")
CONTEXTS = (512, 1024, 2048, 4096, 8192)
BATCHES = (1, 4, 16)
BATCH_CONTEXT = 1024
PARAMETERS = 10_000_000
MIB = 2**20
AUDIT = {
    "floor": {"tpot_s": 0.004, "mean_tpot_s": 0.004, "ttft_s": 0.008}, "slowdown": 0.05,
    "planted": 20, "found": 20, "compared": 20, "false": 0, "machine_id": "m", "preset": "10m",
    "device": "cpu", "dtype": "float32", "mode": "eager", "threads": 2, "rows": [],
    "time": "2025-01-01T00:00:00+00:00",
}  # fmt: skip

UNSAMPLED = {
    "models", "provenance", "ceilings", "audit", "plan", "primary", "stopped", "warnings", "block_s"
}  # fmt: skip
"""Keys of run.json of which no sample depends."""


def step_s(model: str, seq_len: int, batch: int) -> float:
    """The law of TPOT, in seconds."""
    per_token = {"retnet": 0.0, "transformer": 2e-3 / 2048, "transformer-gqa": 2e-3 / 8192}[model]
    base = 4e-3 if model == "retnet" else 2e-3
    return (base + per_token * seq_len) * batch**0.5


@cache
def machine(block: int, point: tuple[int, int], metric: str, trial: int) -> float:
    """How the machine slows whoever it is in a round."""
    return random.Random(f"{block} {point} {metric} {trial}").uniform(0.96, 1.04)


def _cell(
    add: Add, model: str, point: Point, block: int, trials: int, steps: int, rng: random.Random,
    implementation: str, mode: str, memory: float, generation: bool, ok: bool, energy: bool,
) -> None:  # fmt: skip
    seq_len, batch = point.seq_len, point.batch_size
    place = seq_len, batch
    add = partial(add, implementation=implementation, mode=mode)
    state = batch * (2 * MIB if model == "retnet" else seq_len * 4096)
    if model == "transformer-gqa":
        state //= 4
    if place == (CONTEXTS[0], 1):
        for metric, value in (("import_s", 1.5), ("build_s", 0.2), ("gate_s", 0.4),
                              ("gate_error", 1e-6)):  # fmt: skip
            add("setup", metric, value * rng.uniform(0.98, 1.02))
    add("analytic", "prefill_flops", 2.0 * PARAMETERS * seq_len * batch)
    add("analytic", "prefill_hardware_flops", 2.5 * PARAMETERS * seq_len * batch)
    add("analytic", "prefill_bytes", 4.0 * PARAMETERS + state)
    add("analytic", "decode_flops", 2.0 * PARAMETERS * batch)
    add("analytic", "decode_bytes", 4.0 * PARAMETERS + state)
    if not ok:
        return
    drift = rng.uniform(0.995, 1.005)  # of this process
    quadratic = 0.0 if model == "retnet" else seq_len / 16384
    add("setup", "cold_start_s", 1e-3 * seq_len)
    for phase, metric, rounds, wide, law in (
        ("prefill", "ttft_s", trials, 1.02, 1.5e-4 * seq_len * batch * (1 + quadratic)),
        ("decode", "tpot_s", steps, 1.03, step_s(model, seq_len, batch)),
        ("generation", "mean_tpot_s", trials if generation and batch == 1 else 0, 1.03,
         step_s(model, seq_len // 2, batch)),
    ):  # fmt: skip
        for trial in range(rounds):
            jitter = drift * rng.uniform(0.99, wide) * machine(block, place, metric, trial)
            add(phase, metric, law * jitter, trial=trial)
    weights, work = 4 * PARAMETERS, 3000 * seq_len * batch
    for metric, size, source in (
        ("weights_bytes", weights, "tensors"), ("state_bytes", state, "tensors"),
        ("prefill_peak_bytes", (weights + state + work) * rng.uniform(1 - memory, 1.0),
         "resident_set"),
        ("decode_peak_bytes", (weights + state + 2 * MIB) * rng.uniform(1 - memory, 1.0),
         "resident_set"),
        ("steady_bytes", weights + state + MIB, "resident_set"),
    ):  # fmt: skip
        if block < MEMORY_BLOCKS or source == "tensors":
            add("memory", metric, float(size), implementation=source)
    if energy:
        watts = 50 * rng.uniform(0.99, 1.01)
        add("energy", "token_j", watts * step_s(model, seq_len, batch) / batch)
        add("energy", "prefill_j", watts * 1.5e-4 * seq_len * batch * (1 + quadratic))
        add("energy", "idle_w", 20.0)


Failures = dict[tuple[str, int, int], "str | dict[int, str]"]


def write_run(
    path: Path, *, blocks: int = 3, trials: int = 10, steps: int = 12,
    failures: Failures | None = None, flags: dict[str, list[str]] | None = None,
    implementations: dict[str, str] | None = None, modes: dict[str, str] | None = None,
    memory: float = 0.002, generation: bool = False, energy: bool = False,
    alone: Callable[[str, int, int], bool] = lambda model, context, block: False,
    change: Callable[[dict[str, Any]], float] | None = None, **changes: Any,
) -> Run:  # fmt: skip
    """Write a run directory and open it.

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
        energy: whether the machine counted its energy: 50 W while it works, 20 W else.
        alone: whether a model was measured by itself at a context in a block.
        change: a factor on the value of each row that has one.
        changes: keys of run.json to replace; ``configuration`` and ``models`` are merged.
    """
    config = configuration(
        "inference", models=MODELS, preset="10m", context=CONTEXTS, batch=BATCHES,
        batch_context=BATCH_CONTEXT, new_tokens=8, minutes=5.0,
    )  # fmt: skip
    models = described(MODELS, "10m", PARAMETERS)
    for model, own in changes.pop("models", {}).items():
        models[model] |= own
    rng = random.Random(7)

    def law(add: Add, block: int, contender: Contender, point: Point) -> Ending:
        model, place = contender.label, (point.seq_len, point.batch_size)
        status = (failures or {}).get((model, *place), "ok")
        if isinstance(status, dict):
            status = status.get(block, "ok")
        _cell(
            add, model, point, block, trials, steps, rng,
            (implementations or {}).get(model, "fused"), (modes or {}).get(model, "eager"),
            memory, generation, status == "ok", energy,
        )  # fmt: skip
        noted = [*(flags or {}).get(model, []), *["alone"] * alone(model, place[0], block)]
        return status, None if status == "ok" else f"{status} of the test", noted

    config = replace(config, **changes.pop("configuration", {}))
    return write(path, config, blocks, law, change, {"models": models, "audit": AUDIT, **changes})


MakeRun = Callable[..., Run]
_WRITTEN: dict[str, Run] = {}


@pytest.fixture
def make_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """``write_run`` into the test's folder, opened.

    What differs in ``run.json`` alone, or in nothing, is a copy of the samples written first.
    """

    def make(name: str = "run", **options: Any) -> Run:
        path = tmp_path / name
        if "change" in options or "alone" in options:  # functions: equal ones are not known
            return write_run(path, **options)
        about = {key: options.pop(key) for key in UNSAMPLED & options.keys()}
        known = repr(sorted(options.items()))
        if known not in _WRITTEN:
            _WRITTEN[known] = write_run(tmp_path_factory.mktemp("written") / "run", **options)
        written = _WRITTEN[known]
        own = about.pop("models", {})
        models = {model: is_ | own.get(model, {}) for model, is_ in written.meta["models"].items()}
        shutil.copytree(written.path, path)
        if about or own:
            write_meta(path, written.meta | {"models": models} | about)
        return replace(written, path=path, meta=read_meta(path))

    return make


@pytest.fixture(scope="session")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """That of the run that ``make_run()`` makes, for tests that only read it."""
    return Summary(write_run(tmp_path_factory.mktemp("summary") / "run"))


# A run in which a length, a batch and a single block have failed.
FAILURES: Failures = {
    ("transformer", 8192, 1): "oom",
    ("transformer", 1024, 16): "oom_implied",
    ("transformer-gqa", 8192, 1): {1: "timeout"},
}


def cell(summary: Summary, model: str, metric: str, context: int = 1024, batch: int = 1):
    """The one row of ``cells`` that this is."""
    found = summary.cells[
        (summary.cells["model"] == model)
        & (summary.cells["metric"] == metric)
        & (summary.cells["seq_len"] == context)
        & (summary.cells["batch_size"] == batch)
    ]
    assert len(found) == 1
    return found.iloc[0]


def ratio(summary: Summary, metric: str, baseline: str, context: int, batch: int = 1):
    """The one row of ``ratios`` that this is."""
    rows = summary.ratios
    found = rows[
        (rows["metric"] == metric)
        & (rows["baseline"] == baseline)
        & (rows["seq_len"] == context)
        & (rows["batch_size"] == batch)
    ]
    assert len(found) == 1
    return found.iloc[0]
