"""A KV cache in 8 bits: how far it rounds, what it holds, and who may have one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import ConfigError, config_for
from models.attention import Int8Cache

FAMILIES = ("transformer-modern", "transformer-window")


def test_a_contender_has_one_by_name() -> None:
    narrow, usual = (config_for(f"transformer-gqa{tail}", "1m") for tail in ("-8bit-cache", ""))
    # A byte a number, and 4 a head of 32: 36 bytes for each 128 of float32.
    assert narrow.state_bytes(1, 64) * 128 == usual.state_bytes(1, 64) * 36


def test_each_token_and_head_is_rounded_to_its_own_range() -> None:
    cache = Int8Cache.empty((1, 2, 6, 8), torch.device("cpu"))
    new = torch.randn(2, 1, 2, 3, 8) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    new[0, 0, 0, 1] = 0
    cache.write(torch.tensor([4, 0, 2]), *new)
    for found, expected in zip(cache.read(torch.float32), new, strict=True):
        rounding = expected.abs().amax(-1, keepdim=True) / 254
        assert bool(((found[:, :, [4, 0, 2]] - expected).abs() <= 1.001 * rounding).all())
        assert not found[:, :, [1, 3, 5]].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_prefills_and_steps_follow_the_forward_within_the_rounding(small: Any, family: str) -> None:
    model, tokens = small.model(family, cache_dtype="int8"), small.tokens(2, 30)
    expected, state = model(tokens), model.init_state(2, 32)
    found = [model.prefill(part, state) for part in tokens[:, :20].split([13, 7], 1)]
    found += [model.step(token, state) for token in tokens.T[20:]]
    rounding = small.distance(torch.stack(found, 1), expected[:, [12, *range(19, 30)]])
    assert 1e-6 < rounding < 3e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_bytes_are_those_of_the_tensors(small: Any, family: str, dtype: torch.dtype) -> None:
    model = small.model(family, dtype, cache_dtype="int8")
    counted = [model.init_state(3, length).nbytes for length in (8, 40)]
    assert counted == [model.state_bytes(3, length) for length in (8, 40)]
    layers, heads, head_dim = 2, model.config.n_kv_heads, 8
    assert counted[0] == layers * 2 * 3 * 8 * heads * (head_dim + 4)


@pytest.mark.parametrize(
    ("family", "options", "complaint"),
    [
        ("transformer", {"cache_dtype": "int4"}, "cache_dtype must be one of model, int8"),
        ("transformer-paper", {"cache_dtype": "int8"}, "has no cache_dtype int8"),
        (
            "transformer",
            {"cache_dtype": "int8", "implementation": "triton"},
            "implementation triton: its step reads no int8 cache",
        ),
    ],
)
def test_who_cannot_have_one_says_so(family: str, options: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config_for(family, "tiny", **options)
