"""The regimes that the suites' descriptions claim, against the analytic costs."""

from __future__ import annotations

import pytest
import torch

from models.operations import Case, Direction, Kind
from models.registry import config_for
from retbench.engine.resolve import resolve

LONG = 1 << 16


@pytest.mark.parametrize(
    ("family", "expected"), [("transformer", 1.0), ("transformer-gqa", 4.0), ("retnet", 0.5)]
)
def test_a_decode_step_does_few_flops_for_each_byte_of_its_state(
    family: str, expected: float
) -> None:
    config = config_for(family, "1.3b")
    flops, moved = config.mixer_flops(1, context=LONG), config.mixer_step_bytes(1, LONG, 2)
    assert flops / moved == pytest.approx(expected, rel=0.01)


def test_attention_takes_as_many_flops_as_the_matrices_at_twelve_widths() -> None:
    config = config_for("transformer", "10m")
    d, length = config.d_model, 12 * config.d_model
    assert config.mixer_flops(length) / length == pytest.approx(24 * d**2, rel=0.01)
    retnet = config_for("retnet", "10m")
    chunk, d_k = retnet.to_dict()["chunk_size"], d // retnet.n_heads
    needed, computed = retnet.mixer_flops(LONG), retnet.mixer_hardware_flops(LONG)
    assert needed / LONG == pytest.approx(8 * d * d_k, rel=0.01)
    assert computed / LONG == pytest.approx(d * (6 * chunk + 8 * d_k), rel=0.01)
    assert computed / LONG < 0.15 * 24 * d**2


@pytest.mark.parametrize(("direction", "factor"), [("forward", 1.0), ("train", 1.5)])
@pytest.mark.parametrize(
    ("kind", "d_v", "expected"), [("attention", 64, LONG / 8), ("retention", 128, 4 * 64 / 12)]
)
def test_attentions_intensity_grows_with_length_and_retentions_does_not(
    kind: Kind, d_v: int, expected: float, direction: Direction, factor: float
) -> None:
    case = Case(kind, direction, 1, 8, LONG, 64, d_v, torch.float32, torch.device("cpu"))
    assert case.flops / case.moved_bytes == pytest.approx(expected * factor, rel=0.01)


def test_both_states_hold_as_many_numbers_at_as_many_tokens_as_a_head_has_keys() -> None:
    retnet, transformer = (config_for(family, "10m") for family in ("retnet", "transformer"))
    d_k = retnet.d_model // retnet.n_heads
    assert retnet.state_bytes(1, d_k) == transformer.state_bytes(1, d_k)


def test_the_default_perplexity_run_reads_less_than_a_token_a_parameter() -> None:
    config = resolve("perplexity", device="cpu", threads=1)
    tokens = config.steps * config.batch[0] * config.context[0]
    assert tokens < config_for("retnet", config.preset).num_parameters()
