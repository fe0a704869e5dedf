"""The training loop beside the bare forward, backward and optimizer step that it consists of.

Both do the same updates on the same batches; what the loop adds is its schedule, its records, the
thread that makes batches, and the clipping of gradients, which the bare steps leave out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional as F

from models import build
from retbench.data import corpus_tokens
from retbench.data.batches import RandomWindows
from retbench.distributed.process_group import ALONE
from retbench.training.loop import TrainingConfig, train
from retbench.training.step import make_optimizer

if TYPE_CHECKING:
    from tests.benchmarks.conftest import PairedRatio

FAMILIES = ("retnet", "transformer")
MOST_OVERHEAD = 0.03
MOST_RANKS_S = 1e-5
STEPS = 16
CONFIG = TrainingConfig(
    steps=STEPS, batch_size=4, seq_len=256, learning_rate=1e-4, warmup_steps=0, record_every=STEPS
)


def model_and_source(family: str) -> tuple[Any, RandomWindows]:
    source = RandomWindows(
        corpus_tokens() % 64, batch_size=CONFIG.batch_size, seq_len=CONFIG.seq_len, seed=0
    )
    return build(family, preset="1m", vocab_size=64), source


def bare_steps(family: str) -> Callable[[], None]:
    """As many steps on batches that lie ready, with nothing around them."""
    model, source = model_and_source(family)
    model.train()
    optimizer = make_optimizer(model, CONFIG)
    batches = [
        tuple(torch.from_numpy(array).contiguous() for array in source.batch(step))
        for step in range(STEPS)
    ]

    def run() -> None:
        for inputs, targets in batches:
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_adds_little_to_its_steps(family: str, paired_ratio: PairedRatio) -> None:
    model, source = model_and_source(family)
    ratio = paired_ratio(lambda: train(model, source, CONFIG), bare_steps(family), pairs=15)
    print(f"\n{family}: training loop / bare steps = {ratio:.3f}")
    assert ratio <= 1 + MOST_OVERHEAD


def test_ranks_cost_a_lone_process_microseconds() -> None:
    """What a step asks of its ranks beside a step of a millisecond and more."""
    model, scored = torch.nn.Linear(1, 1), torch.ones(())
    times = []
    for _ in range(2000):
        started = time.perf_counter()
        ALONE.all_reduce_mean(scored)
        with ALONE.part(model, last=True):
            pass
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < MOST_RANKS_S


@pytest.mark.parametrize("family", FAMILIES)
def test_steps(benchmark: BenchmarkFixture, family: str) -> None:
    benchmark.group = f"{STEPS} training steps of {CONFIG.tokens_per_step} tokens at 1m"
    model, source = model_and_source(family)
    benchmark.pedantic(lambda: train(model, source, CONFIG), rounds=3, warmup_rounds=1)
