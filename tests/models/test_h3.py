"""H3 and the state space models in it, against sums and recurrences written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models import ConfigError, build, config_for
from models.costs import fft_length
from models.mixers.base import Span
from models.statespace import discretise, fft_convolve, final_states, response


def system(pairs: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Log poles, gains and weights of two stable series, complex128 (2, pairs)."""
    generator = torch.Generator().manual_seed(1)
    damping, frequency, step, real, imaginary = (
        torch.rand(2, pairs, generator=generator, dtype=torch.float64) for _ in range(5)
    )
    log_pole, gain = discretise(0.1 + damping, 3 * frequency, 0.2 * step)
    return log_pole, gain, torch.complex(real, imaginary)


def run(
    log_pole: Tensor, gain: Tensor, weights: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence of models.statespace, one position after another."""
    outs = []
    for u_t in u.unbind(-1):
        state = log_pole.exp() * state + gain * u_t[..., None]
        outs.append(2 * (weights * state).sum(-1).real)
    return torch.stack(outs, -1), state


@pytest.mark.parametrize("time", [1, 2, 16, 37])
def test_kernel_and_final_states_are_those_of_the_recurrence(time: int) -> None:
    log_pole, gain, weights = system()
    u = torch.randn(2, time, dtype=torch.float64)
    before = torch.randn(2, 3, dtype=torch.complex128)
    expected, after = run(log_pole, gain, weights, u, before)
    driven = fft_convolve(u, response(log_pole, weights * gain, time))
    remembered = response(log_pole, weights * log_pole.exp() * before, time)
    assert torch.allclose(driven + remembered, expected)
    assert torch.allclose(final_states(log_pole, gain, u, before), after)


def test_zero_order_hold_is_the_exact_solution_over_a_step() -> None:
    """s' = A s + u with u = 1 from s = 0: (exp(A t) - 1) / A, by many small Euler steps."""
    damping, frequency, step = (torch.tensor(x, dtype=torch.float64) for x in (0.5, 2.0, 0.3))
    _, gain = discretise(damping, frequency, step)
    state, small_steps = 0j, 200_000
    for _ in range(small_steps):
        state += (complex(-0.5, 2.0) * state + 1) * 0.3 / small_steps
    assert complex(gain) == pytest.approx(state, rel=1e-5)


def test_a_tiny_step_keeps_its_digits() -> None:
    """The gain of a step of 1e-7 is that step; exp(z) - 1 in float32 would be 0 or 1.2e-7."""
    damping, frequency, step = torch.tensor(0.5), torch.tensor(3.0), torch.tensor(1e-7)
    _, gain = discretise(damping, frequency, step)
    assert float(gain.real) == pytest.approx(1e-7, rel=1e-5)


@pytest.mark.parametrize(("time", "taps"), [(1, 1), (5, 9), (9, 3), (40, 40)])
def test_a_convolution_is_the_causal_sum(time: int, taps: int) -> None:
    u, kernel = torch.randn(3, time, dtype=torch.float64), torch.randn(taps, dtype=torch.float64)
    expected = torch.zeros_like(u)
    for t in range(time):
        for j in range(min(t + 1, taps)):
            expected[:, t] += kernel[j] * u[:, t - j]
    assert torch.allclose(fft_convolve(u, kernel), expected)


@pytest.mark.parametrize("least", [1, 2, 3, 7, 9, 100, 1023, 4097])
def test_lengths_of_transforms_are_little_longer_and_of_small_factors(least: int) -> None:
    length = fft_length(least)
    assert least <= length <= 1.25 * least
    for prime in (2, 3, 5, 7):
        while length % prime == 0:
            length //= prime
    assert length == 1


def test_the_output_is_the_products_as_published(small: Any) -> None:
    """q * diagonal(shift(k) * v), all sums written out (algorithm 1 of H3, one head of two)."""
    model = small.model("h3", n_heads=16, d_state=4)
    mixer, time = model.layers[0].mixer, 7
    x = torch.randn(1, time, 32, dtype=torch.float64)
    shared = mixer.prepare(Span(torch.arange(time), 0), None)
    parts = mixer._system(shared)
    q, k, v = mixer.qkv(x)[0].T.chunk(3)
    shifted = fft_convolve(k, mixer.taps) + mixer.shift_skip[:, None] * k
    mixed = torch.zeros(32, time, dtype=torch.float64)
    for head in range(16):
        poles, gains, weights = (
            part[head, 0, 0] for part in (parts.log_pole, parts.gain, parts.weights)
        )
        for value in (2 * head, 2 * head + 1):
            for key in (2 * head, 2 * head + 1):
                u = shifted[key] * v[value]
                y, _ = run(poles, gains, weights, u, torch.zeros(2, dtype=torch.complex128))
                mixed[value] += q[key] * (y + mixer.skip[head] * u)
    assert small.distance(mixer(x, shared), mixer.out(mixed.T[None])) < 1e-12


def test_a_new_model_has_the_published_taps_and_weights() -> None:
    mixer: Any = build("h3", preset="1m", vocab_size=61).layers[0].mixer  # type: ignore[attr-defined]
    bound = 64**-0.5
    assert float(mixer.taps.abs().max()) <= bound
    assert float(mixer.taps.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert float(mixer.weights.square().sum(-1).mean()) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("preset", ["tiny", "10m", "125m"])
def test_the_presets_state_is_that_of_a_retnet(preset: str) -> None:
    """Beside its shift systems, which hold d_state numbers a channel more."""
    h3, retnet = config_for("h3", preset), config_for("retnet", preset)
    shift = h3.n_layers * h3.d_model * 64 * 4
    ratio = (h3.state_bytes(1, 0, 4) - shift) / retnet.state_bytes(1, 0, 4)
    assert 0.9 < ratio <= 2


@pytest.mark.parametrize("d_state", [0, 3])
def test_a_state_without_pairs_is_an_error(d_state: int) -> None:
    with pytest.raises(ConfigError, match="d_state must be even"):
        config_for("h3", "tiny", d_state=d_state)
