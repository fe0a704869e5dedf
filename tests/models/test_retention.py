"""The retention op: its forms are one function, from any state, and none sees the future."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.family.retnet import DecayKind
from models.retention import (
    SCAN_RADIX,
    decay_powers,
    log_decays,
    retention_chunkwise,
    retention_parallel,
    retention_recurrent,
    retention_step,
)

KINDS: tuple[DecayKind, ...] = ("eq8", "language-model")
EXACT = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest difference allowed, relative to the largest value, by type."""

Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def inputs(
    time: int, dtype: torch.dtype, *, seed: int = 0, batch: int = 2, heads: int = 3, d_k: int = 4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random queries, keys, values (twice as wide) and a starting state in the wide type."""
    torch.manual_seed(seed)
    q, k = torch.randn(2, batch, heads, time, d_k, dtype=dtype)
    v = torch.randn(batch, heads, time, 2 * d_k, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return q, k, v, torch.randn(batch, heads, d_k, 2 * d_k, dtype=wide)


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    difference = (found.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp_min(1e-30))


def chunkwise(chunk_size: int) -> Form:
    return lambda q, k, v, g, s: retention_chunkwise(q, k, v, g, chunk_size, s)


def by_steps(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One :func:`retention_step` a token, as decoding does it."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    zeros = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=wide)
    state = zeros if state is None else state.clone()
    gamma = log_gamma.exp().to(wide)[:, None, None]
    outs = []
    for n in range(q.shape[2]):
        one = slice(n, n + 1)
        outs.append(retention_step(q[:, :, one], k[:, :, one], v[:, :, one], gamma, state))
    return torch.cat(outs, dim=2), state


# --- one function in several forms -------------------------------------------------------------


@settings(max_examples=30)
@given(
    time=st.integers(1, 70),
    chunk_size=st.integers(1, 40),
    dtype=st.sampled_from(sorted(EXACT, key=str)),
    kind=st.sampled_from(KINDS),
    with_state=st.booleans(),
    seed=st.integers(0, 999),
)
@example(1, 1, torch.float64, "eq8", True, 0)
@example(64, 64, torch.float64, "eq8", True, 0)
@example(40, 1, torch.float64, "eq8", True, 0)
def test_all_forms_are_one_function(
    time: int,
    chunk_size: int,
    dtype: torch.dtype,
    kind: DecayKind,
    with_state: bool,
    seed: int,
) -> None:
    q, k, v, state = inputs(time, dtype, seed=seed)
    start = state if with_state else None
    log_gamma = log_decays(3, kind)
    out, final = retention_recurrent(q, k, v, log_gamma, start)
    for form in (retention_parallel, chunkwise(chunk_size), by_steps):
        found_out, found_final = form(q, k, v, log_gamma, start)
        assert found_out.dtype == found_final.dtype == dtype
        assert distance(found_out, out) < EXACT[dtype]
        assert distance(found_final, final) < EXACT[dtype]


@settings(max_examples=15)
@given(
    time=st.integers(2, 60),
    data=st.data(),
    dtype=st.sampled_from(sorted(EXACT, key=str)),
    kind=st.sampled_from(KINDS),
)
def test_a_sequence_may_be_cut_anywhere_and_each_part_mixed_by_another_form(
    time: int, data: st.DataObject, dtype: torch.dtype, kind: DecayKind
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, time - 1), max_size=4)))
    forms = st.sampled_from([retention_parallel, chunkwise(7), by_steps])
    q, k, v, state = inputs(time, dtype)
    log_gamma = log_decays(3, kind)
    expected, final = retention_recurrent(q, k, v, log_gamma, state)
    outs = []
    for first, last in zip([0, *cuts], [*cuts, time], strict=True):
        form, part = data.draw(forms), slice(first, last)
        out, state = form(q[:, :, part], k[:, :, part], v[:, :, part], log_gamma, state)
        outs.append(out)
    assert distance(torch.cat(outs, dim=2), expected) < EXACT[dtype]
    assert distance(state, final) < EXACT[dtype]


@pytest.mark.parametrize("chunks", [15, 16, 17, 32, 255, 256, 257, 275])
@pytest.mark.parametrize("tail", [0, 1])
def test_the_scan_is_exact_around_every_power_of_its_radix(chunks: int, tail: int) -> None:
    assert SCAN_RADIX == 16
    q, k, v, state = inputs(2 * chunks + tail, torch.float64, batch=1, d_k=2)
    log_gamma = log_decays(3, "eq8")
    expected, final = retention_parallel(q, k, v, log_gamma, state)
    found, found_final = retention_chunkwise(q, k, v, log_gamma, 2, state)
    assert distance(found, expected) < 1e-10
    assert distance(found_final, final) < 1e-10


def test_the_parallel_form_is_the_papers_formula() -> None:
    q, k, v, _ = inputs(9, torch.float64)
    gamma = log_decays(3, "eq8").exp()
    n = torch.arange(9)
    distances = (n[:, None] - n).clamp_min(0)
    decay = torch.where(n[:, None] >= n, gamma[:, None, None] ** distances, 0.0)
    expected = ((q @ k.mT) * decay) @ v
    assert distance(retention_parallel(q, k, v, gamma.log())[0], expected) < 1e-12


def test_the_state_after_a_sequence_is_the_decayed_sum_of_its_outer_products() -> None:
    q, k, v, _ = inputs(11, torch.float64)
    log_gamma = log_decays(3, "eq8")
    ages = torch.arange(10, -1, -1)
    weights = log_gamma.exp()[:, None] ** ages
    expected = torch.einsum("ht,bhtk,bhtv->bhkv", weights, k, v)
    assert distance(retention_chunkwise(q, k, v, log_gamma, 4)[1], expected) < 1e-12


def test_a_starting_state_is_not_written_to() -> None:
    q, k, v, state = inputs(9, torch.float64)
    before = state.clone()
    for form in (retention_parallel, retention_recurrent, chunkwise(4)):
        form(q, k, v, log_decays(3, "eq8"), state)
        assert torch.equal(state, before)


def test_a_step_updates_its_state_in_place() -> None:
    q, k, v, state = inputs(1, torch.float32)
    address, before = state.data_ptr(), state.clone()
    retention_step(q, k, v, log_decays(3, "eq8").exp().float()[:, None, None], state)
    assert state.data_ptr() == address
    assert not torch.equal(state, before)


# --- causality -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [retention_parallel, retention_recurrent, chunkwise(5)])
@pytest.mark.parametrize("changed", [3, 4, 5, 11])
def test_no_output_before_a_changed_token_moves(form: Form, changed: int) -> None:
    q, k, v, state = inputs(12, torch.float64)
    log_gamma = log_decays(3, "eq8")
    before, _ = form(q, k, v, log_gamma, state)
    for x in (q, k, v):
        x[:, :, changed] += 1.0
    after, _ = form(q, k, v, log_gamma, state)
    assert torch.equal(after[:, :, :changed], before[:, :, :changed])
    assert not torch.equal(after[:, :, changed], before[:, :, changed])


def test_sequences_of_a_batch_do_not_mix() -> None:
    q, k, v, state = inputs(12, torch.float64)
    log_gamma = log_decays(3, "eq8")
    together, final = retention_chunkwise(q, k, v, log_gamma, 5, state)
    alone, final_alone = retention_chunkwise(q[1:], k[1:], v[1:], log_gamma, 5, state[1:])
    assert distance(together[1:], alone) < 1e-12
    assert distance(final[1:], final_alone) < 1e-12


# --- gradients -----------------------------------------------------------------------------------


@settings(max_examples=10)
@given(time=st.integers(1, 45), chunk_size=st.integers(1, 12), kind=st.sampled_from(KINDS))
def test_gradients_of_the_chunkwise_form_are_those_of_the_parallel(
    time: int, chunk_size: int, kind: DecayKind
) -> None:
    leaves = [x.requires_grad_() for x in inputs(time, torch.float64)]
    q, k, v, state = leaves
    log_gamma = log_decays(3, kind)
    gradients = []
    for form in (retention_parallel, chunkwise(chunk_size)):
        out, final = form(q, k, v, log_gamma, state)
        loss = (out * out.detach().cos()).sum() + final.square().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for found, expected in zip(*gradients, strict=True):
        assert distance(found, expected) < 1e-10


def test_gradients_of_the_chunkwise_form_are_numerically_right() -> None:
    leaves = [
        x.requires_grad_() for x in inputs(7, torch.float64, batch=1, heads=2, d_k=2)
    ]  # two whole chunks and a tail
    log_gamma = log_decays(2, "eq8")
    torch.autograd.gradcheck(lambda q, k, v, s: chunkwise(3)(q, k, v, log_gamma, s), leaves)


# --- decays --------------------------------------------------------------------------------------


def test_the_papers_decays_are_exact_for_any_number_of_heads() -> None:
    with mpmath.workprec(200):
        exact = [mpmath.log1p(-(mpmath.mpf(2) ** (-5 - i))) for i in range(48)]
    found = log_decays(48, "eq8")
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([float(x) for x in exact], rel=4e-16)


def test_the_language_models_decays_span_one_range_for_any_number_of_heads() -> None:
    for heads in (1, 2, 8, 32):
        with mpmath.workprec(200):
            steps = max(1, heads - 1)
            exact = [
                mpmath.log1p(-mpmath.mpf(1) / 32 * mpmath.mpf(16) ** (-mpmath.mpf(i) / steps))
                for i in range(heads)
            ]
        found = log_decays(heads, "language-model").tolist()
        assert found == pytest.approx([float(x) for x in exact], rel=1e-14)


@pytest.mark.parametrize(("kind", "tokens"), [("eq8", 2839), ("language-model", 355)])
def test_half_life_of_the_slowest_of_eight_heads(kind: DecayKind, tokens: int) -> None:
    slowest = float(log_decays(8, kind)[-1])
    assert math.log(0.5) / slowest == pytest.approx(tokens, abs=0.6)


def test_heads_from_twenty_on_still_decay() -> None:
    log_gamma = log_decays(24, "eq8")
    assert bool((log_gamma < 0).all())
    # 2^24 tokens on, head 20 keeps e^-0.5; with gamma rounded to float32 it would keep all.
    assert float((log_gamma[20] * 2**24).exp()) == pytest.approx(math.exp(-0.5), rel=1e-6)
    powers = decay_powers(log_gamma, 4097, torch.float32)
    assert float(powers[20, 4096]) < 1.0


def test_powers_of_a_decay_are_those_of_float64() -> None:
    log_gamma = log_decays(8, "eq8")
    powers = decay_powers(log_gamma, 3000, torch.float32)
    with mpmath.workprec(200):
        exact = [float((1 - mpmath.mpf(2) ** (-5 - h)) ** 2500) for h in range(8)]
    assert powers[:, 2500].tolist() == pytest.approx(exact, rel=1e-6)
    assert powers[:, 0].tolist() == [1.0] * 8


def test_powers_too_small_for_float32_are_zero_and_not_denormal() -> None:
    powers = decay_powers(log_decays(1, "eq8"), 4000, torch.float32)[0]
    positive = powers[powers > 0]
    assert float(powers[-1]) == 0.0
    assert float(positive.min()) >= torch.finfo(torch.float32).tiny


# --- half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [retention_parallel, retention_recurrent, chunkwise(16)])
@pytest.mark.parametrize(
    # bfloat16 keeps 8 bits: products and partial sums are each off by up to 2^-9.
    ("dtype", "tolerance"),
    [(torch.bfloat16, 2e-2), (torch.float16, 1e-5)],
)
def test_half_precision_inputs_give_float32_outputs_and_states(
    form: Form, dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v, state = inputs(50, dtype)
    log_gamma = log_decays(3, "eq8")
    out, final = form(q, k, v, log_gamma, state)
    assert out.dtype == final.dtype == torch.float32
    exact = retention_recurrent(q.double(), k.double(), v.double(), log_gamma, state.double())
    assert distance(out, exact[0]) < tolerance
    assert distance(final, exact[1]) < tolerance


def test_float16_rows_beyond_its_range_stay_finite() -> None:
    q, k, v, _ = (100 * x for x in inputs(64, torch.float16))
    for form in (retention_parallel, chunkwise(16)):
        out, _ = form(q, k, v, log_decays(3, "eq8"), None)
        assert float(out.abs().max()) > torch.finfo(torch.float16).max
        assert bool(out.isfinite().all())
