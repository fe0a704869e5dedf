"""Attention's pure functions against the formula, above all the decode path of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models import build
from models.attention import (
    DECODE_SPLITS,
    KVCache,
    causal_attention,
    decode_attention,
    offset_bias,
    split_decode,
    step_bias,
)
from models.mixers.base import Span


def cached(keys: int, kv_heads: int, dtype: torch.dtype = torch.float64) -> KVCache:
    torch.manual_seed(keys)
    return KVCache(*torch.randn(2, 2, kv_heads, keys, 8, dtype=dtype))


def formula(q: Tensor, cache: KVCache, allowed: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v over the allowed keys, KV heads repeated."""
    repeats = q.shape[1] // cache.keys.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1) for x in cache.tensors())
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~allowed, float("-inf"))
    return torch.softmax(scores, -1) @ v


@pytest.mark.parametrize("keys", [1, 7, DECODE_SPLITS, 3 * DECODE_SPLITS, 3 * DECODE_SPLITS + 5])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (8, 2)])
@pytest.mark.parametrize("seen", [1, "half", "all"])
def test_split_decode_is_attention_over_the_keys_in_sight(
    keys: int, heads: int, kv_heads: int, seen: int | str
) -> None:
    visible = {"half": (keys + 1) // 2, "all": keys}.get(str(seen), 1)
    cache = cached(keys, kv_heads)
    q = torch.randn(2, heads, 1, 8, dtype=torch.float64)
    allowed = torch.arange(keys) < visible
    bias = step_bias(allowed, q)
    found = split_decode(q.reshape(2, kv_heads, -1, 8), cache.keys, cache.values, bias)
    expected = formula(q, cache, allowed)
    assert torch.allclose(found.reshape(2, heads, 1, 8), expected, atol=1e-12)
    # What a CPU runs in its place is the same function.
    assert torch.allclose(decode_attention(q, cache, bias), expected, atol=1e-12)


@pytest.mark.parametrize("parts", [1, 2, 8, 32])
def test_the_number_of_parts_changes_no_result(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cached(32, 2)
    q = torch.randn(2, 2, 1, 8, dtype=torch.float64)
    allowed = torch.arange(32) < 30
    monkeypatch.setattr("models.attention.DECODE_SPLITS", parts)
    found = split_decode(q, cache.keys, cache.values, step_bias(allowed, q))
    assert torch.allclose(found, formula(q, cache, allowed), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_split_decode_in_half_precision(dtype: torch.dtype) -> None:
    cache = cached(64, 2, dtype)
    q = torch.randn(2, 4, 1, 8, dtype=dtype)
    allowed = torch.arange(64) < 50
    found = split_decode(q.reshape(2, 2, 2, 8), cache.keys, cache.values, step_bias(allowed, q))
    wide = KVCache(cache.keys.double(), cache.values.double())
    expected = formula(q.double(), wide, allowed)
    assert found.dtype == dtype
    # Scores, weights and parts are each rounded to 8 (or 11) bits once.
    tolerance = 3e-2 if dtype == torch.bfloat16 else 4e-3
    assert torch.allclose(found.reshape(2, 4, 1, 8).double(), expected, atol=tolerance)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (8, 2)])
@pytest.mark.parametrize("start", [0, 5])
def test_causal_attention_after_earlier_keys(heads: int, kv_heads: int, start: int) -> None:
    cache = cached(start + 6, kv_heads)
    q = torch.randn(2, heads, 6, 8, dtype=torch.float64)
    bias = offset_bias(start, 6, q) if start else None
    allowed = torch.arange(start + 6) <= start + torch.arange(6)[:, None]
    found = causal_attention(q, cache.keys, cache.values, bias)
    assert torch.allclose(found, formula(q, cache, allowed), atol=1e-12)


def test_a_cache_is_written_where_it_is_told_and_nowhere_else() -> None:
    cache = cached(6, 2)
    before = cache.clone()
    new = torch.ones(2, 2, 2, 8, dtype=torch.float64)
    cache.write(torch.tensor([1, 4]), new, 2 * new)
    untouched = [0, 2, 3, 5]
    assert torch.equal(cache.keys[:, :, [1, 4]], new)
    assert torch.equal(cache.values[:, :, [1, 4]], 2 * new)
    assert torch.equal(cache.keys[:, :, untouched], before.keys[:, :, untouched])
    assert torch.equal(cache.values[:, :, untouched], before.values[:, :, untouched])


def test_what_lies_in_a_cache_beyond_the_position_is_not_seen(small: Any) -> None:
    for family in ("transformer", "transformer-gqa"):
        model = small.model(family)
        tokens = small.tokens(1, 6)
        clean, dirty = model.init_state(1, 16), model.init_state(1, 16)
        for layer in dirty.layers:
            for tensor in layer.tensors():
                tensor.fill_(1e3)
        for state in (clean, dirty):
            model.prefill(tokens, state)
        for token in tokens.T:
            assert torch.equal(model.step(token, dirty), model.step(token, clean))


def test_grouped_queries_need_a_quarter_of_the_cache(small: Any) -> None:
    full, grouped = (
        small.model(f).init_state(1, 40).nbytes for f in ("transformer", "transformer-gqa")
    )
    assert grouped * 4 == full


def test_the_kernel_that_ran_is_named(small: Any) -> None:
    model = small.model("transformer", torch.float32)
    assert model.implementation("decode") == "sdpa"
    assert model.implementation("prefill") in {"sdpa-flash", "sdpa-math", "sdpa-efficient"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_no_position_or_angle(small: Any, dtype: torch.dtype) -> None:
    span = Span(torch.tensor([255, 100_003]), 0)
    exact, half = (
        small.model("transformer", torch.float64).to(kind).layers[0].mixer.prepare(span, None)
        for kind in (torch.float64, dtype)
    )
    assert half.cos.dtype == half.sin.dtype == torch.float32
    assert torch.equal(half.cos, exact.cos.float())
    assert torch.equal(half.sin, exact.sin.float())


@pytest.mark.parametrize("family", ["transformer", "transformer-gqa", "retnet"])
def test_a_step_within_a_part_of_the_state_is_that_in_the_whole(family: str) -> None:
    model = build(family, preset="tiny", vocab_size=97)
    whole = model.init_state(2, 16)
    tokens = torch.arange(18).reshape(2, 9)
    with torch.inference_mode():
        model.prefill(tokens[:, :8], whole)
        part = whole.within(9)
        logits = model.step(tokens[:, 8], part)
        assert (int(whole.position), int(part.position), part.max_len) == (8, 9, 9)
        if family == "retnet":  # its state has taken the token in; a cache merely holds it
            whole.reset()
            model.prefill(tokens[:, :8], whole)
        assert torch.allclose(model.step(tokens[:, 8], whole), logits, atol=1e-5)


def test_a_cache_within_another_is_its_first_part_in_the_same_memory() -> None:
    cache = cached(6, 2)
    part = cache.within(4)
    part.keys.zero_()
    assert part.keys.shape[2] == part.values.shape[2] == 4
    assert not cache.keys[:, :, :4].any() and cache.keys[:, :, 4:].all()


@pytest.mark.parametrize("family", ["transformer", "transformer-gqa", "transformer-paper"])
def test_without_positions_a_layer_sees_what_stands_before_in_no_order(
    small: Any, family: str
) -> None:
    tokens = small.tokens(2, 12)
    moved = tokens[:, [*range(10, -1, -1), 11]]
    for positions, alike in (("none", True), ("rotary", False)):
        model = small.model(family, n_layers=1, positions=positions)
        last, other = (model(each)[:, -1] for each in (tokens, moved))
        assert (small.distance(last, other) < 1e-5) == alike
        state = model.init_state(2, 12)
        model.prefill(tokens[:, :-1], state)
        assert small.distance(model.step(tokens[:, -1], state), last) < 1e-5
