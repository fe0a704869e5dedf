"""One decode step of each model beside its bare matrix-vector products, at ``30m`` on a CPU.

The products alone, on the model's own weights and with nothing between them, are what a step cannot
do without; the rest is overhead that would hide a difference between the mixers.
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

PRESET, CONTEXT = "30m", 512
MOST_OVER_PRODUCTS = 1.35


def decode_step(model: Decoder) -> Callable[[], object]:
    """The step as the harness runs it, at a context of 512 tokens, from the same position."""
    state = model.init_state(1, CONTEXT + 16)
    model.prefill(torch.randint(0, 50257, (1, CONTEXT)), state)
    token = torch.zeros(1, dtype=torch.int64)

    def step() -> None:
        state.seek(CONTEXT)
        token.copy_(model.step(token, state).argmax(-1))

    return step


def bare_products(model: Decoder) -> Callable[[], object]:
    """Every weight matrix of the model times a vector, in the order of a step."""
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    matrices.append(model.embedding.weight)
    vectors = {matrix.shape[1]: torch.randn(1, 1, matrix.shape[1]) for matrix in matrices}

    def products() -> None:
        for matrix in matrices:
            F.linear(vectors[matrix.shape[1]], matrix)

    return products


@pytest.mark.parametrize("family", families())
def test_step(benchmark: BenchmarkFixture, family: str) -> None:
    benchmark.group = f"decode step at {PRESET}, {CONTEXT} tokens"
    with torch.inference_mode():
        benchmark.pedantic(decode_step(build(family, preset=PRESET)), rounds=50, warmup_rounds=5)


@pytest.mark.parametrize("family", families())
def test_a_step_takes_little_more_than_its_products(
    family: str, paired_ratio: PairedRatio
) -> None:
    with torch.inference_mode():
        model = build(family, preset=PRESET)
        ratio = paired_ratio(decode_step(model), bare_products(model), pairs=101)
    print(f"\n{family}: decode step / bare products = {ratio:.2f}")
    assert ratio <= MOST_OVER_PRODUCTS
