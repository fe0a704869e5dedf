"""Linear attention against its definition, pair by pair."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from models.mixers.base import Span
from models.mixers.linear_attention import LinearAttentionState, feature_map


def test_the_feature_map_is_elu_plus_one_in_value_and_gradient() -> None:
    x = torch.linspace(-30, 30, 121, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        ours, published = feature_map(x), F.elu(x) + 1
        gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, published)]
    assert torch.allclose(ours, published, rtol=0, atol=1e-14)
    assert torch.allclose(*gradients, rtol=0, atol=1e-14)


def test_the_feature_map_stays_positive_far_below_zero() -> None:
    """elu(x) + 1 in float32 is 0 from about -17 on, and a normaliser of zeros divides by it."""
    assert bool((feature_map(torch.tensor([-17.0, -60.0])) > 0).all())


def test_outputs_are_weighted_means_as_published(small: Any) -> None:
    """Katharopoulos et al., eq. 7, with rotary positions in the numerator (Su et al., eq. 19)."""
    model = small.model("linear-attention")
    mixer, config = model.layers[0].mixer, model.config
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    q, k, v = mixer.qkv(x).view(2, 9, 3, 4, 8).permute(2, 0, 3, 1, 4)
    q, k = F.elu(q) + 1, F.elu(k) + 1

    def turned(features: torch.Tensor) -> torch.Tensor:
        pairs = torch.complex(features[..., :4], features[..., 4:])
        frequencies = config.rope_base ** -(torch.arange(4, dtype=torch.float64) / 4)
        angles = torch.arange(9, dtype=torch.float64)[:, None] * frequencies
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    causal = torch.ones(9, 9, dtype=torch.float64).tril()
    numerators = (turned(q) @ turned(k).transpose(-1, -2)) * causal
    weights = (q @ k.transpose(-1, -2)) * causal
    heads = numerators @ v / (weights.sum(-1, keepdim=True) + config.norm_eps)
    expected = mixer.out(heads.transpose(1, 2).flatten(-2))

    found = mixer(x, mixer.prepare(Span(torch.arange(9), 0), None))
    assert small.distance(found, expected) < 1e-12


def test_the_state_is_what_the_equations_sum(small: Any) -> None:
    model = small.model("linear-attention")
    state = model.init_state(2, 7)
    model.prefill(small.tokens(2, 7), state)
    layer = state.layers[0]
    assert isinstance(layer, LinearAttentionState)
    assert layer.matrices.shape == (2, 4, 8, 8)
    assert layer.normalisers.shape == (2, 4, 8)
    assert bool((layer.normalisers > 0).all())  # sums of positive features
