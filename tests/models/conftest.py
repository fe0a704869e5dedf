"""Small models whose weights are large enough that every part of them shows in the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models import build
from models.decoder import Decoder

FAMILIES = (
    "retnet", "transformer", "transformer-gqa", "transformer-modern", "transformer-window",
    "transformer-paper", "retnet-gq", "retnet-hybrid", "linear-attention", "gla", "h3",
)  # fmt: skip
CHUNK_SIZES = {"retnet": 5, "retnet-gq": 5, "retnet-hybrid": 5, "linear-attention": 5, "gla": 4}
"""Small ones, so that short sequences have several chunks; gla's is a power of two."""

VOCAB = 61


class Small:
    """Makes small models and measures differences between their outputs."""

    vocab = VOCAB

    def model(
        self,
        family: str,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        **overrides: Any,
    ) -> Decoder:
        """A model of the tiny preset with weights of standard deviation 0.15."""
        sizes = {"d_model": 32, "n_heads": 4, "vocab_size": VOCAB, **overrides}
        if family in CHUNK_SIZES:
            sizes = {"chunk_size": CHUNK_SIZES[family], **sizes}
        if family == "transformer-window":
            sizes = {"window": 8, **sizes}
        model = build(family, preset="tiny", device=device, dtype=dtype, seed=1, **sizes)
        assert isinstance(model, Decoder)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_(0.15 * noise)
        return model

    def tokens(self, batch: int, time: int, seed: int = 0) -> Tensor:
        """Random tokens, int64 of shape (batch, time)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(VOCAB, (batch, time), generator=generator)

    def distance(self, found: Tensor, expected: Tensor) -> float:
        """Largest difference over the largest expected magnitude."""
        difference = (found.double() - expected.double()).abs().max()
        return float(difference / expected.double().abs().max())


@pytest.fixture
def small() -> Small:
    return Small()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_gradients_by_default(request: pytest.FixtureRequest) -> Any:
    """Run as a user of a model does; a test that needs gradients turns them on."""
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield
