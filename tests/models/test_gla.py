"""Gated linear attention: the chunkwise form against the recurrence that defines it."""

from __future__ import annotations

from itertools import starmap
from typing import Any

import pytest
import torch
from torch import Tensor

from models import ConfigError, config_for
from models.family.gla import GatedLinearAttentionConfig
from models.mixers.gla import gated_chunkwise, gated_recurrent, gated_step


def inputs(time: int, *, closed: float = 0.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k (2, 3, time, 4), v (2, 3, time, 5), log_decay <= 0, a share of gates all but closed."""
    generator = torch.Generator().manual_seed(time)

    def draw(width: int) -> Tensor:
        return torch.randn(2, 3, time, width, generator=generator, dtype=torch.float64)

    q, k, v, gate = draw(4), draw(4), draw(5), draw(4)
    log_decay = torch.nn.functional.logsigmoid(gate) / 4
    shut = torch.rand(gate.shape, generator=generator, dtype=torch.float64) < closed
    return [x.to(dtype) for x in (q, k, v, log_decay.masked_fill(shut, -200.0))]


@pytest.mark.parametrize("time", [1, 2, 7, 8, 9, 31])
@pytest.mark.parametrize("chunk_size", [1, 4, 8, 64])
@pytest.mark.parametrize("started", [False, True])
def test_chunks_give_what_the_recurrence_gives(time: int, chunk_size: int, started: bool) -> None:
    q, k, v, log_decay = inputs(time)
    state = torch.randn(2, 3, 4, 5, dtype=torch.float64) if started else None
    expected = gated_recurrent(q, k, v, log_decay, state)
    found = gated_chunkwise(q, k, v, log_decay, chunk_size, state)
    assert all(starmap(torch.allclose, zip(found, expected, strict=True)))


def test_gates_that_close_lose_no_digits_behind_them(small: Any) -> None:
    """A quotient of cumulative products would divide 0 by 0 behind a gate of e^-200."""
    q, k, v, log_decay = inputs(64, closed=0.3, dtype=torch.float32)
    exact, _ = gated_recurrent(*(x.double() for x in (q, k, v, log_decay)))
    found, _ = gated_chunkwise(q, k, v, log_decay, 64)
    assert small.distance(found, exact) < 1e-6


def test_gradients_of_chunks_are_those_of_the_recurrence() -> None:
    found = []
    for form in (gated_recurrent, lambda *x: gated_chunkwise(*x, 4)):
        operands = [x.requires_grad_() for x in inputs(11, closed=0.1)]
        out, state = form(*operands)
        loss = out.square().sum() + state.square().sum()
        found.append(torch.autograd.grad(loss, operands))
    for recurrent, chunkwise in zip(*found, strict=True):
        assert torch.allclose(recurrent, chunkwise)


def test_a_step_is_one_token_of_the_recurrence() -> None:
    q, k, v, log_decay = inputs(1)
    state = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected, after = gated_recurrent(q, k, v, log_decay, state)
    assert torch.allclose(gated_step(q, k, v, log_decay, state), expected)
    assert torch.allclose(state, after)


def test_gates_begin_close_to_one(small: Any) -> None:
    """sigmoid(0)^(1/16) = 0.958 with a bias of zero."""
    model = small.model("gla")
    *_, log_decay, _ = model.layers[0].mixer._project(torch.zeros(1, 1, 32, dtype=torch.float64))
    assert torch.allclose(log_decay.exp(), torch.tensor(0.5**0.0625, dtype=torch.float64))


def test_the_papers_heads_at_its_size() -> None:
    """Section 5.1: four heads at 1.3b, keys half as wide as the model, values as wide."""
    config = config_for("gla", "1.3b")
    assert isinstance(config, GatedLinearAttentionConfig)
    assert (config.n_heads, config.d_k, config.d_v) == (4, 256, 512)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"d_model": 10, "n_heads": 2}, "even d_model / n_heads, not 5"),
        ({"chunk_size": 12}, "must be a power of two, not 12"),
        ({"gate_rank": 0}, "gate_rank must be at least 1"),
        ({"gate_temperature": 0.0}, "gate_temperature must be above 0"),
    ],
)
def test_an_impossible_gla_says_why(overrides: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config_for("gla", "tiny", **overrides)
