"""Every token is scored once, from what the protocol allows; a carried state forgets nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.registry import config_for
from retbench.training.evaluation import (
    by_position,
    carried_nats,
    last_nats,
    mean_loss,
    repeated_bigrams,
    token_nats,
)

TOKENS = np.random.default_rng(0).integers(40, size=101)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        family: config_for(family, "tiny", vocab_size=40).build(dtype=torch.float64, seed=1)
        for family in ("retnet", "transformer")
    }


def whole(model: Any, tokens: Any) -> Any:
    text = torch.from_numpy(tokens)
    with torch.no_grad():
        return F.cross_entropy(model(text[None, :-1])[0], text[1:], reduction="none").numpy()


@pytest.mark.parametrize("family", ["retnet", "transformer"])
def test_a_window_over_the_whole_document_is_one_forward(models: Any, family: str) -> None:
    found = token_nats(models[family], TOKENS, window=200)
    assert np.allclose(found, whole(models[family], TOKENS), atol=1e-10)


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 8), (16, 5), (16, 1), (7, 3)])
def test_each_token_is_scored_once_from_its_window(models: Any, window: int, stride: int) -> None:
    model, count = models["transformer"], len(TOKENS) - 1
    found = token_nats(model, TOKENS, window=window, stride=stride)
    assert found.shape == (count,)
    for i in range(count):
        # The first window that reaches token i + 1 scores it.
        start = 0 if i < window else -(-(i - window + 1) // stride) * stride
        stop = min(start + window, count)
        expected = whole(model, TOKENS[start : stop + 1])[i - start]
        assert found[i] == pytest.approx(expected, abs=1e-9)


def test_the_last_tokens_of_a_window_are_the_same_at_any_context(models: Any) -> None:
    model = models["transformer"]
    for context in (4, 8, 16):
        found = last_nats(model, TOKENS, window=16, context=context, last=4)
        assert found.shape == (6, 4)  # of 100 targets, in windows of 16
        for window, end in enumerate(range(16, 97, 16)):
            expected = whole(model, TOKENS[end - context : end + 1])[-4:]
            assert np.allclose(found[window], expected, atol=1e-10)


def test_more_context_is_never_less_than_asked_for(models: Any) -> None:
    """With half a window as the stride each token but the first ones sees half a window or more."""
    seen: list[int] = []

    class Spy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, tokens: Any) -> Any:
            seen.append(tokens.shape[1])
            return torch.zeros(*tokens.shape, 40)

    token_nats(Spy(), TOKENS, window=16, stride=8)
    assert max(seen) == 16


@pytest.mark.parametrize("window", [1, 7, 16, 64, 200])
def test_a_carried_state_is_one_forward_at_any_window(models: Any, window: int) -> None:
    model = models["retnet"]
    found = carried_nats(model, TOKENS, window=window)
    assert np.allclose(found, whole(model, TOKENS), atol=1e-10)


@pytest.mark.parametrize(
    ("max_len", "edges"),
    [(100, [0, 100]), (99, [0, 50, 100]), (50, [0, 50, 100]), (40, [0, 33, 66, 100])],
)
def test_a_text_longer_than_a_model_holds_is_shared_by_several_states(
    max_len: int, edges: list[int]
) -> None:
    config = config_for("retnet", "tiny", vocab_size=40, max_len=max_len)
    model: Any = config.build(dtype=torch.float64, seed=1)
    found = carried_nats(model, TOKENS, window=7)
    for start, stop in itertools.pairwise(edges):
        assert np.allclose(found[start:stop], whole(model, TOKENS[start : stop + 1]), atol=1e-10)


def test_the_mean_loss_is_that_of_the_tokens(models: Any) -> None:
    model = models["retnet"]
    expected = token_nats(model, TOKENS[:51], window=16).mean()
    assert mean_loss(model, TOKENS, window=16, at_most=50) == pytest.approx(expected)


def test_a_repeated_bigram_is_one_that_its_window_has_seen_before() -> None:
    tokens = np.array([1, 2, 1, 2, 1, 2, 3, 1, 2])  # bigrams 12 21 12 21 12 23 31 12
    assert repeated_bigrams(tokens, 8).tolist() == [0, 0, 1, 1, 1, 0, 0, 1]
    assert repeated_bigrams(tokens, 4).tolist() == [0, 0, 1, 1, 0, 0, 0, 1]


def test_positions_fall_into_buckets_that_double() -> None:
    nats = [np.arange(20.0) % 8, np.arange(10.0) % 8]
    assert by_position(nats, 8) == {1: 0.0, 2: 1.0, 4: 2.5, 8: pytest.approx(5.5, abs=0.3)}
    assert list(by_position([np.zeros(24)], 12)) == [1, 2, 4, 8, 12]
