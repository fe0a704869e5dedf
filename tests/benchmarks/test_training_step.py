"""A training step at preset 10m: RetNet beside the Transformer of its size, at two lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from models import build
from retbench.training.config import TrainingConfig
from retbench.training.step import make_optimizer, next_token_loss

if TYPE_CHECKING:
    from tests.benchmarks.conftest import PairedRatio

VOCAB_SIZE = 64
MOST_AT_1K = 1.15  # RetNet's time over the Transformer's
LEAST_SPEEDUP_AT_8K = 1.3


def step(family: str, length: int) -> Callable[[], None]:
    """Forward, cross-entropy, backward and AdamW on one sequence; chunkwise retention."""
    model = build(family, preset="10m", vocab_size=VOCAB_SIZE)
    config = TrainingConfig(steps=1, batch_size=1, seq_len=length, learning_rate=1e-5)
    optimizer = make_optimizer(model, config)  # type: ignore[arg-type]
    text = torch.randint(VOCAB_SIZE, (1, length + 1), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        next_token_loss(model(text[:, :-1]), text[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def test_at_1k_tokens_retnet_is_hardly_slower(paired_ratio: PairedRatio) -> None:
    ratio = paired_ratio(step("retnet", 1024), step("transformer", 1024), pairs=15)
    print(f"\ntraining step at 1k tokens, RetNet / Transformer: {ratio:.3f}")
    assert ratio <= MOST_AT_1K


def test_at_8k_tokens_retnet_is_faster(paired_ratio: PairedRatio) -> None:
    speedup = paired_ratio(step("transformer", 8192), step("retnet", 8192), pairs=3)
    print(f"\ntraining step at 8k tokens, Transformer / RetNet: {speedup:.2f}")
    assert speedup >= LEAST_SPEEDUP_AT_8K


@pytest.mark.parametrize("length", [256, 1024])
@pytest.mark.parametrize("family", ["retnet", "transformer", "linear-attention", "gla", "h3"])
def test_step(benchmark: BenchmarkFixture, family: str, length: int) -> None:
    benchmark.group = f"training step of one sequence of {length} tokens at 10m"
    benchmark.pedantic(step(family, length), rounds=3, warmup_rounds=1)
