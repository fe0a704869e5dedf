"""Retention in its forms beside attention, over lengths: the operation alone, forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from models.retention import log_decays, retention_chunkwise, retention_parallel

if TYPE_CHECKING:
    from tests.benchmarks.conftest import PairedRatio

HEADS, D_K, D_V, CHUNK = 4, 64, 128, 128
LENGTHS = (512, 2048, 8192)
LONGEST_PARALLEL = 2048  # the quadratic form holds a float32 mask of heads x time x time
LEAST_SPEEDUP_AT_8K = 5.0


def operands(length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (D_K, D_K, D_V)
    q, k, v = (torch.randn(1, HEADS, length, d, generator=generator) for d in shapes)
    return q * D_K**-0.5, k, v


def chunkwise(length: int) -> Callable[[], Tensor]:
    q, k, v = operands(length)
    decays = log_decays(HEADS, "eq8")
    return lambda: retention_chunkwise(q, k, v, decays, CHUNK)[0]


def parallel(length: int) -> Callable[[], Tensor]:
    q, k, v = operands(length)
    decays = log_decays(HEADS, "eq8")
    return lambda: retention_parallel(q, k, v, decays)[0]


def attention(length: int) -> Callable[[], Tensor]:
    """Causal attention of as many heads and the same key dimension, as in a matched Transformer."""
    q, k, _ = operands(length)
    v = k.clone()
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("operation", [chunkwise, parallel, attention])
def test_forward(
    benchmark: BenchmarkFixture, operation: Callable[[int], Callable[[], Tensor]], length: int
) -> None:
    if operation is parallel and length > LONGEST_PARALLEL:
        pytest.skip("the quadratic form would need gigabytes for its mask")
    benchmark.group = f"forward of {length} tokens"
    with torch.inference_mode():
        benchmark.pedantic(operation(length), rounds=10, warmup_rounds=3)


def test_chunkwise_is_five_times_faster_than_attention_at_8k(paired_ratio: PairedRatio) -> None:
    with torch.inference_mode():
        speedup = paired_ratio(attention(8192), chunkwise(8192), pairs=11)
    print(f"\nattention / chunkwise retention at 8k tokens: {speedup:.1f}")
    assert speedup >= LEAST_SPEEDUP_AT_8K


def test_chunkwise_takes_time_linear_in_the_length(paired_ratio: PairedRatio) -> None:
    with torch.inference_mode():
        growth = paired_ratio(chunkwise(16384), chunkwise(4096), pairs=11)
    print(f"\nchunkwise retention, 16k over 4k tokens: {growth:.2f} times the time")
    assert growth < 4 * 1.5
