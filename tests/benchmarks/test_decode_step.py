"""One decode step of each model beside its bare matrix-vector products, at ``30m`` on a CPU.

The products alone, on the model's own weights and state and with nothing between them, are what a
step cannot do without; the rest is overhead that would hide a difference between the mixers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.nn import functional as F

from models import build, families
from models.decoder import Decoder

if TYPE_CHECKING:
    from tests.benchmarks.conftest import PairedRatio

PRESET, CONTEXT = "30m", 128
MOST_OVER_PRODUCTS = 1.35


def decode_step(model: Decoder) -> Callable[[], object]:
    """One step, always from the same position."""
    state = model.init_state(1, CONTEXT + 16)
    model.prefill(torch.randint(0, 50257, (1, CONTEXT)), state)
    token = torch.zeros(1, dtype=torch.int64)

    def step() -> None:
        state.seek(CONTEXT)
        model.step(token, state)

    return step


def bare_products(model: Decoder) -> Callable[[], object]:
    """Every matrix of weights and of state times a vector, as often as a step needs it."""
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    weights.append(model.embedding.weight)
    vectors = {matrix.shape[1]: torch.randn(1, 1, matrix.shape[1]) for matrix in weights}
    pairs = [
        (torch.randn(*matrices.shape[:2], 1, matrices.shape[-2]), matrices)
        for layer in model.init_state(1, CONTEXT + 16).layers
        for matrices in layer.tensors()
    ]

    def products() -> None:
        for matrix in weights:
            F.linear(vectors[matrix.shape[1]], matrix)
        for vector, matrices in pairs:
            torch.matmul(vector, matrices)

    return products


@pytest.mark.parametrize("family", families())
def test_step(benchmark: BenchmarkFixture, family: str) -> None:
    benchmark.group = f"decode step at {PRESET}, {CONTEXT} tokens"
    with torch.inference_mode():
        benchmark.pedantic(decode_step(build(family, preset=PRESET)), rounds=50, warmup_rounds=5)


@pytest.mark.parametrize("family", families())
def test_a_step_takes_little_more_than_its_products(family: str, paired_ratio: PairedRatio) -> None:
    with torch.inference_mode():
        model = build(family, preset=PRESET)
        ratio = paired_ratio(decode_step(model), bare_products(model), pairs=101)
    print(f"\n{family}: decode step / bare products = {ratio:.2f}")
    assert ratio <= MOST_OVER_PRODUCTS
