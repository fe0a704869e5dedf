"""The paper's ablations: every variant is as large as the whole, causal, and one function."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.registry import config_for
from models.retention import decay_sums, log_decays

PARTS = ("no-gate", "no-group-norm", "no-decay", "one-decay", "quarter-heads")
LENGTH = 37


def variant(part: str, preset: str = "tiny", **options: Any) -> Any:
    whole = config_for("retnet", preset, vocab_size=64, chunk_size=8, **options)
    changed = {**whole.ablations()[part], **options}
    return config_for("retnet", preset, vocab_size=64, chunk_size=8, **changed)


@pytest.mark.parametrize("preset", ["tiny", "1m", "125m", "1.3b"])
def test_a_retnet_names_the_parts_that_the_paper_leaves_out(preset: str) -> None:
    assert tuple(config_for("retnet", preset).ablations()) == PARTS
    assert config_for("transformer", preset).ablations() == {}


def test_what_a_model_lacks_is_no_part_of_it() -> None:
    assert "no-group-norm" not in config_for("retnet-no-group-norm", "tiny").ablations()
    assert "no-gate" not in config_for("retnet", "tiny", gate=False).ablations()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("preset", ["tiny", "1m", "125m", "1.3b"])
@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
def test_a_variant_has_as_many_parameters_as_the_whole(part: str, preset: str, ffn: Any) -> None:
    whole = config_for("retnet", preset, ffn=ffn)
    changed = config_for("retnet", preset, ffn=ffn, **whole.ablations()[part])
    assert changed.num_parameters() == pytest.approx(whole.num_parameters(), rel=0.005)
    assert changed != whole


@pytest.mark.parametrize("part", PARTS)
def test_the_count_is_that_of_the_tensors(part: str) -> None:
    config = variant(part)
    assert config.build().num_parameters() == config.num_parameters()


@pytest.mark.parametrize("part", PARTS)
def test_all_forms_and_any_split_agree(part: str) -> None:
    model = variant(part).build(dtype=torch.float64, seed=1)
    tokens = torch.randint(64, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(tokens, form="recurrent")
        for form in ("parallel", "chunkwise"):
            assert torch.allclose(model(tokens, form=form), expected, rtol=0, atol=1e-10)
        for split in (1, 8, 13, LENGTH - 1):
            state = model.init_state(2, LENGTH)
            scored = [model.score(tokens[:, :split], state)]
            for position in range(split, LENGTH):
                scored.append(model.step(tokens[:, position], state)[:, None])
            assert torch.allclose(torch.cat(scored, 1), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("part", PARTS)
def test_no_variant_sees_the_future(part: str) -> None:
    model = variant(part).build(dtype=torch.float64)
    tokens = torch.randint(64, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 64
    with torch.no_grad():
        moved = model(tokens) - model(changed)
    assert moved[:, :-1].abs().max() < 1e-12
    assert moved[:, -1].abs().max() > 1e-6


@pytest.mark.parametrize("part", PARTS)
def test_gradients_of_the_chunkwise_form_are_those_of_the_parallel_one(part: str) -> None:
    model = variant(part).build(dtype=torch.float64)
    tokens = torch.randint(64, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    found = []
    for form in ("parallel", "chunkwise"):
        model.zero_grad()
        model(tokens, form=form).square().mean().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("kind", ["eq8", "language-model", "single", "none"])
def test_the_sum_of_decays_is_that_of_their_powers(kind: Any) -> None:
    log_gamma = log_decays(4, kind)
    powers = torch.exp(log_gamma[:, None] * torch.arange(50))
    sums = decay_sums(log_gamma, torch.arange(50))
    assert torch.allclose(sums, powers.cumsum(-1), rtol=1e-12)
    later = decay_sums(log_gamma, torch.arange(20, 50))
    assert torch.equal(later, sums[:, 20:])


def test_without_decay_nothing_is_forgotten() -> None:
    assert torch.equal(log_decays(3, "none").exp(), torch.ones(3, dtype=torch.float64))
    assert log_decays(3, "single").exp().tolist() == pytest.approx([127 / 128] * 3)
