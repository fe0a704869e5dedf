"""What makes a RetNet of the skeleton: decays and angles in any precision, norm, gate, state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.family.retnet import RetNetConfig
from models.layers import Rotary, rotate
from models.mixers.base import Span
from models.mixers.multiscale import MultiScaleRetention
from models.registry import config_for
from models.retention import log_decays, retention_recurrent, retention_step


def mixer_of(model: Any) -> MultiScaleRetention:
    mixer = model.layers[0].mixer
    assert isinstance(mixer, MultiScaleRetention)
    return mixer


@pytest.mark.parametrize(
    "convert",
    [
        nn.Module.bfloat16,
        nn.Module.half,
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to(torch.bfloat16).to(torch.float32),
    ],
)
@pytest.mark.parametrize("decay", ["eq8", "language-model"])
def test_no_conversion_of_a_model_rounds_its_decays_or_angles(
    small: Any, convert: Any, decay: Any
) -> None:
    model = small.model("retnet", torch.float32, decay=decay)
    span = Span(torch.tensor([255, 65535]), 0)
    before = mixer_of(model).prepare(span, None)
    mixer = mixer_of(convert(model))
    after = mixer.prepare(span, None)
    assert torch.equal(mixer.log_gamma, log_decays(4, decay))
    for name in ("cos", "sin", "gamma"):
        assert getattr(after, name).dtype == torch.float32
        assert torch.equal(getattr(after, name), getattr(before, name))


def test_half_precision_angles_at_a_far_position_are_those_of_float64(small: Any) -> None:
    mixer = mixer_of(small.model("retnet", torch.bfloat16))
    shared = mixer.prepare(Span(torch.tensor([100_003]), 0), None)
    exact = 100_003 * torch.tensor([10000.0], dtype=torch.float64) ** (-torch.arange(4) / 4)
    # The second half of the dimensions: the sine of the first is negative.
    assert torch.allclose(shared.sin[0, 0, 0, 4:].double(), exact.sin(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_state_is_float32_whatever_the_weights(small: Any, dtype: torch.dtype) -> None:
    model = small.model("retnet", dtype)
    state = model.init_state(2, 50)
    tokens = small.tokens(2, 12)
    model.prefill(tokens, state)
    model.step(tokens[:, 0], state)
    for layer in state.layers:
        assert [t.dtype for t in layer.tensors()] == [torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_state_in_the_models_type_is_as_large_as_counted(small: Any, dtype: torch.dtype) -> None:
    model = small.model("retnet-16bit-state", dtype)
    state, config = model.init_state(2, 50), model.config
    assert {t.dtype for layer in state.layers for t in layer.tensors()} == {dtype}
    assert state.nbytes == model.state_bytes(2, 50)
    moved = config.n_layers * config.mixer_step_bytes(2, 50, dtype.itemsize)
    assert moved == 2 * state.nbytes  # read and written


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 6e-2), (torch.float16, 8e-3)])
def test_steps_with_a_16_bit_state_follow_the_forward(
    small: Any, dtype: torch.dtype, tolerance: float
) -> None:
    model, tokens = small.model("retnet-16bit-state", dtype), small.tokens(2, 40)
    expected, state = model(tokens), model.init_state(2, 40)
    found = [model.prefill(tokens[:, :20], state)]
    found += [model.step(token, state) for token in tokens.T[20:]]
    assert small.distance(torch.stack(found, 1), expected[:, 19:]) < tolerance


def test_a_16_bit_state_is_rounded_once_a_step() -> None:
    q, k, v = torch.randn(3, 1, 2, 1, 4).bfloat16()
    gamma, narrow = torch.tensor([0.9, 0.99])[:, None, None], torch.randn(1, 2, 4, 4).bfloat16()
    wide = narrow.float()
    expected = retention_step(q, k, v, gamma, wide)
    assert torch.equal(retention_step(q, k, v, gamma, narrow), expected)
    assert torch.equal(narrow, wide.bfloat16())


def test_the_mixer_is_the_papers_gated_multi_scale_retention(small: Any) -> None:
    """Equations 8 and 9, written out: rotate, retain, norm per head, swish gate, project."""
    mixer = mixer_of(small.model("retnet"))
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    w_q, w_k, w_v, w_g = mixer.qkvg.weight.split([32, 32, 64, 64])
    cos, sin = Rotary(8, 10000.0)(torch.arange(9), torch.float64)

    def heads(y: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(y, -1, (4, -1)).transpose(1, 2)

    q, k = (rotate(heads(x @ w.T), cos, sin) for w in (w_q, w_k))
    decays = log_decays(4, "language-model")
    retained, _ = retention_recurrent(q, k / 8**0.5, heads(x @ w_v.T), decays)
    normed = retained / (retained.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    joined = normed.transpose(1, 2).flatten(-2)
    expected = (F.silu(x @ w_g.T) * joined) @ mixer.out.weight.T
    found = mixer(x, mixer.prepare(Span(torch.arange(9), 0), None))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_rotation_makes_a_score_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)

    def score(m: int, n: int) -> float:
        angles = [Rotary(8, 10000.0)(torch.tensor([at]), torch.float64) for at in (m, n)]
        return float((rotate(q, *angles[0]) * rotate(k, *angles[1])).sum())

    assert score(9, 4) == pytest.approx(score(1_000_005, 1_000_000), rel=1e-8, abs=1e-8)
    assert score(9, 4) != pytest.approx(score(9, 5), rel=1e-3)


@pytest.mark.parametrize("decay", ["eq8", "language-model"])
@pytest.mark.parametrize("chunk_size", [1, 3, 128])
def test_the_chunk_size_changes_no_logit(small: Any, decay: str, chunk_size: int) -> None:
    tokens = small.tokens(2, 20)
    expected = small.model("retnet", decay=decay)(tokens, form="recurrent")
    found = small.model("retnet", decay=decay, chunk_size=chunk_size)(tokens)
    assert small.distance(found, expected) < 1e-10


def test_the_kind_of_decay_changes_the_logits(small: Any) -> None:
    tokens = small.tokens(2, 30)
    paper, other = (small.model("retnet", decay=d)(tokens) for d in ("eq8", "language-model"))
    assert small.distance(paper, other) > 1e-4


def test_decays_are_not_saved_for_they_follow_from_the_configuration(small: Any) -> None:
    assert not [name for name in small.model("retnet").state_dict() if "gamma" in name]


def test_implementation_names_form_and_chunk() -> None:
    mixer = RetNetConfig(d_model=32, n_layers=1, n_heads=4, chunk_size=64).mixer()
    assert mixer.implementation("decode") == "recurrent"
    assert mixer.implementation("prefill") == "chunkwise-64"


def test_a_norms_gain_multiplies_each_heads_dimensions_alike(small: Any) -> None:
    plain, gained = (small.model("retnet", torch.float64, norm_gain=g) for g in (False, True))
    gained.load_state_dict(plain.state_dict(), strict=False)
    tokens = small.tokens(2, 20)
    assert small.distance(plain(tokens), gained(tokens)) < 1e-12
    for layer in gained.layers:
        layer.mixer.gain.data.fill_(0.0)
    assert small.distance(plain(tokens), gained(tokens)) > 1e-4
    assert plain.config.num_parameters() < gained.config.num_parameters() == gained.num_parameters()


def test_torchscales_initialisation_has_its_spread() -> None:
    model = config_for("retnet", "125m", n_layers=1, init="torchscale").build(seed=1)
    mixer = model.layers[0].mixer
    d = model.config.d_model
    q, _, v, _ = mixer.qkvg.weight.split([d, d, 2 * d, 2 * d])
    # Xavier's uniform: gain x sqrt(2 / (rows + columns)).
    assert float(q.std()) == pytest.approx(2**-2.5 / d**0.5, rel=0.01)
    assert float(v.std()) == pytest.approx(2**-2.5 * (2 / (3 * d)) ** 0.5, rel=0.01)
    assert float(mixer.out.weight.std()) == pytest.approx(0.5 * (2 / (3 * d)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("options", [{}, {"gate": False, "group_norm": False}])
@pytest.mark.parametrize("form", ["chunkwise", "parallel", "recurrent"])
def test_query_heads_that_share_a_kv_head_are_heads_with_the_same_keys_and_values(
    small: Any, options: dict[str, bool], form: str
) -> None:
    """An ungrouped model of the same weights, its keys and values repeated, and its decays."""
    grouped, whole = (small.model(name, d_ff=64, **options) for name in ("retnet-gq", "retnet"))
    weights = grouped.state_dict()
    for name in weights:
        if name.endswith("qkvg.weight"):
            q, k, v, *gate = weights[name].split([32, 16, 32] + ([] if options else [64]))
            k, v = (x.unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1) for x in (k, v))
            weights[name] = torch.cat((q, k, v, *gate))
    whole.load_state_dict(weights)
    for layer in whole.layers:
        bits = log_decays(2, "language-model").repeat_interleave(2).view(torch.int64)
        layer.mixer.log_gamma_bits.copy_(bits)
    tokens = small.tokens(2, 13)
    assert small.distance(grouped(tokens, form=form), whole(tokens, form=form)) < 1e-10
    half, full = (m.init_state(2, 13).nbytes for m in (grouped, whole))
    assert full == 2 * half == 2 * grouped.state_bytes(2, 13)
