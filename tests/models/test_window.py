"""Attention over a window: the banded form against a mask over all pairs, and the ring."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import ConfigError, config_for
from models.family.transformer import TransformerConfig, WindowConfig
from models.mixers.window import window_attention


@pytest.mark.parametrize("window", [1, 4, 8, 64])
@pytest.mark.parametrize("time", [1, 3, 8, 9, 29])
@pytest.mark.parametrize("past", [0, 1, 4])
def test_runs_give_what_a_mask_over_all_pairs_gives(window: int, time: int, past: int) -> None:
    past = min(past, window)
    generator = torch.Generator().manual_seed(time)
    q = torch.randn(2, 4, time, 6, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, past + time, 6, generator=generator, dtype=torch.float64)
    ahead = torch.arange(past + time)[None] - past - torch.arange(time)[:, None]
    scores = q @ k.repeat_interleave(2, 1).mT / 6**0.5
    scores = scores.masked_fill((ahead > 0) | (ahead <= -window), float("-inf"))
    expected = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    assert torch.allclose(window_attention(q, k, v, window), expected)


def test_a_window_as_long_as_the_text_is_attention(small: Any) -> None:
    tokens = small.tokens(2, 16)
    window, whole = small.model("transformer-window", window=16), small.model("transformer")
    assert small.distance(window(tokens), whole(tokens)) < 1e-12


def test_a_token_outside_all_windows_is_forgotten(small: Any) -> None:
    """Two layers of 5 tokens reach 8 tokens back."""
    model = small.model("transformer-window", window=5)
    tokens = small.tokens(1, 12)
    changed = tokens.clone()
    changed[0, :3] += 1
    before, after = model(tokens)[0], model(changed % small.vocab)[0]
    assert small.distance(after[11:], before[11:]) == 0
    assert small.distance(after[10:11], before[10:11]) > 0


@pytest.mark.parametrize("pieces", [[3, 9], [11, 1], [1, 2, 3, 4, 2]])
def test_a_prompt_in_pieces_leaves_the_ring_as_in_one(small: Any, pieces: list[int]) -> None:
    model = small.model("transformer-window", window=5)
    tokens, states = small.tokens(2, 12), [model.init_state(2, 20) for _ in range(2)]
    expected = model.prefill(tokens, states[0])
    for piece in tokens.split(pieces, dim=1):
        found = model.prefill(piece, states[1])
    assert small.distance(found, expected) < 1e-12
    for token in small.tokens(9, 2, seed=1):  # around the ring, and on
        assert small.distance(*(model.step(token, state) for state in states)) < 1e-12


def test_a_16_bit_ring_is_as_large_as_retnets_float32_state_at_every_preset() -> None:
    for preset in ("1m", "10m", "125m", "1.3b", "6.7b"):
        ring = config_for("transformer-window", preset).state_bytes(1, 8192, 2)
        state = config_for("retnet", preset).state_bytes(1, 8192, 2)
        assert ring == pytest.approx(state, rel=0.01)


def test_pairs_within_the_window_are_counted() -> None:
    config = config_for("transformer-window", "tiny", window=4)
    assert isinstance(config, WindowConfig)
    pair = 4 * config.d_model
    assert config.mixer_flops(6) == (1 + 2 + 3 + 4 + 4 + 4) * pair
    assert config.mixer_flops(3, context=2) == (3 + 4 + 4) * pair
    assert config.mixer_flops(1, context=100) == 4 * pair


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="window must be at least 1, not -1"):
        config_for("transformer-window", "tiny", window=-1)


def test_the_modern_one_is_swiglu_whatever_the_run_asks_for() -> None:
    config = config_for("transformer-modern", "10m", ffn="gelu")
    assert isinstance(config, TransformerConfig)
    assert (config.ffn, config.group) == ("swiglu", 4)
