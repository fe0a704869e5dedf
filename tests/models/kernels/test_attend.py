"""Attention's decode kernels against softmax(q k^T / sqrt(head_dim)) v, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from models.kernels.attend import RESIDENT
from models.kernels.attend_op import fused_attention
from models.kernels.limits import MAX_GROUP
from models.kernels.plan import split_count
from models.layers import Rotary, rotate


@dataclass
class Case:
    """A cache of random keys and values, and the projections of new tokens, in one dtype."""

    batch: int
    kv_heads: int
    group: int
    dim: int
    max_len: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    cache_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.dim + self.max_len)
        shape = (self.batch, self.kv_heads, self.max_len, self.dim)
        self.keys, self.values = (
            self.random(*shape).to(self.cache_dtype or self.dtype) for _ in range(2)
        )
        self.rotary = Rotary(self.dim, 10000.0).to(self.device)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def token(self) -> Tensor:
        """The fused projection of a new token; queries large enough for a softmax with peaks."""
        heads = (self.group + 2) * self.kv_heads
        return self.random(self.batch, heads * self.dim).mul(1.5).to(self.dtype)

    def found(self, qkv: Tensor, position: int) -> Tensor:
        """The kernels' answer; writes the cache."""
        at = torch.tensor([position], device=self.device)
        cos, sin = self.rotary(at, torch.float32)
        return fused_attention(qkv, cos, sin, at, self.keys, self.values)

    def expected(self, qkv: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """The formula in float64 over a cache as it was: output, new key, new value."""
        kv, heads = self.kv_heads, self.group * self.kv_heads
        x = qkv.double().view(self.batch, -1, 1, self.dim)
        cos, sin = self.rotary(torch.tensor([position], device=self.device), torch.float64)
        q, k = rotate(x[:, : heads + kv], cos, sin).split([heads, kv], 1)
        v = x[:, heads + kv :]
        keys = torch.cat((self.keys[:, :, :position].double(), k), 2)
        values = torch.cat((self.values[:, :, :position].double(), v), 2)
        keys, values = (y.repeat_interleave(self.group, 1) for y in (keys, values))
        weights = torch.softmax(q @ keys.mT / self.dim**0.5, -1)
        return (weights @ values).reshape(self.batch, -1), k[:, :, 0], v[:, :, 0]


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


# Weights, where they go through a product of several rows, and the result are rounded to 8 or 11
# bits; the interpreter cuts bfloat16 off where a GPU rounds it.
TOLERANCES = {torch.float32: 4e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def check(case: Case, position: int) -> None:
    """One step at a position: output, what was written, and that nothing else was."""
    before = [x.clone() for x in (case.keys, case.values)]
    qkv = case.token()
    expected, key, value = case.expected(qkv, position)
    found = case.found(qkv, position)
    tolerance = TOLERANCES[case.dtype]
    assert found.dtype == case.dtype
    assert distance(found, expected) < tolerance
    for cache, old, new in zip((case.keys, case.values), before, (key, value), strict=True):
        assert distance(cache[:, :, position], new) < tolerance
        others = torch.arange(case.max_len) != position
        assert torch.equal(cache[:, :, others], old[:, :, others])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(("batch", "dim"), [(1, 48), (3, 16)])
def test_a_step_is_attention(
    device: torch.device, dtype: torch.dtype, group: int, batch: int, dim: int
) -> None:
    check(Case(batch, 2, group, dim, 96, dtype, device), 77)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("dim", [2, 10, 64, 130, 256])
def test_any_even_head_dimension(device: torch.device, group: int, dim: int) -> None:
    check(Case(1, 1, group, dim, 80, device=device), 70)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("position", [0, 1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 319])
def test_positions_at_the_borders_of_splits(
    device: torch.device, group: int, position: int
) -> None:
    case = Case(1, 1, group, 8, 320, device=device)
    assert split_count(1, case.max_len, 64, 100) == 5
    check(case, position)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("splits", [1, 3])
def test_few_long_splits_give_the_same(
    device: torch.device, group: int, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.kernels.attend.split_count", lambda *_: splits)
    case = Case(1, 1, group, 32, 320, device=device)
    # Keys that grow along the sequence: later tiles hold higher scores than earlier ones.
    case.keys *= torch.linspace(0, 3, case.max_len, device=device)[:, None]
    check(case, 300)


# As many splits as at batch 1 of 1.3b, multi-head and grouped, and of 6.7b, grouped. The last is
# empty, or has one key.
@pytest.mark.parametrize(
    ("batch", "group", "caches", "block_keys", "context", "position"),
    [
        (2, 1, 16, 32, 8192, 8193),
        (1, 4, 4, 64, 8192, 8192),
        (1, 8, 8, 64, 65536, 16385),
        (1, 1, 16, 32, 65536, 65537),
        (1, 4, 4, 64, 65536, 65536),
    ],
)
def test_the_splits_of_an_h100_at_the_lengths_that_are_timed(
    device: torch.device,
    batch: int,
    group: int,
    caches: int,
    block_keys: int,
    context: int,
    position: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(batch, 1, group, 2, context + 32, device=device)
    slots = 132 * RESIDENT[1 if group == 1 else MAX_GROUP]
    splits = split_count(caches, case.max_len, block_keys, slots)
    monkeypatch.setattr("models.kernels.attend.split_count", lambda *_: splits)
    check(case, position)


@pytest.mark.parametrize("group", [2, 3, MAX_GROUP])
def test_groups_of_any_size(device: torch.device, group: int) -> None:
    check(Case(2, 2, group, 8, 40, device=device), 39)


@pytest.mark.parametrize("group", [1, 4])
def test_a_cache_may_be_the_first_part_of_a_longer_one(device: torch.device, group: int) -> None:
    case = Case(2, 2, group, 8, 90, device=device)
    whole = case.keys, case.values
    case.keys, case.values = (x[:, :, :71] for x in whole)
    case.max_len = 71
    beyond = [x[:, :, 71:].clone() for x in whole]
    check(case, 70)
    assert all(torch.equal(x[:, :, 71:], y) for x, y in zip(whole, beyond, strict=True))


@pytest.mark.parametrize("group", [1, 4])
def test_what_lies_beyond_the_position_is_not_read(device: torch.device, group: int) -> None:
    case = Case(1, 2, group, 8, 128, device=device)
    case.keys[:, :, 70:] = case.values[:, :, 70:] = float("nan")
    qkv = case.token()
    expected, *_ = case.expected(qkv, 70)
    assert distance(case.found(qkv, 70), expected) < 4e-6


@pytest.mark.parametrize("group", [1, 4])
def test_scores_far_apart_do_not_overflow(device: torch.device, group: int) -> None:
    case = Case(1, 1, group, 16, 200, device=device)
    case.keys *= 100
    qkv = case.token() * 100
    expected, *_ = case.expected(qkv, 190)
    assert distance(case.found(qkv, 190), expected) < 1e-4


@pytest.mark.parametrize("group", [1, 4])
def test_a_cache_of_another_type(device: torch.device, group: int) -> None:
    case = Case(1, 2, group, 16, 64, torch.float32, device, torch.float16)
    qkv = case.token()
    expected, key, value = case.expected(qkv, 50)
    assert distance(case.found(qkv, 50), expected) < 1e-3
    assert torch.equal(case.values[:, :, 50], value.half())
    assert distance(case.keys[:, :, 50], key) < 1e-3


@pytest.mark.parametrize("group", [1, 4])
def test_many_steps_stay_together(device: torch.device, group: int) -> None:
    case = Case(1, 1, group, 16, 30, device=device)
    exact = Case(1, 1, group, 16, 30, torch.float64, device)
    for position in range(20):
        qkv = case.token()
        expected, exact.keys[:, :, position], exact.values[:, :, position] = exact.expected(
            qkv.double(), position
        )
        assert distance(case.found(qkv, position), expected) < 4e-6
    assert distance(case.keys[:, :, :20], exact.keys[:, :, :20]) < 1e-6


@pytest.mark.parametrize("group", [1, 4])
def test_beyond_the_cache_nothing_is_written(device: torch.device, group: int) -> None:
    case = Case(1, 2, group, 8, 64, device=device)
    before = [x.clone() for x in (case.keys, case.values)]
    case.found(case.token(), 64)
    assert torch.equal(case.keys, before[0]) and torch.equal(case.values, before[1])


def test_a_batch_of_none_is_left_as_it_is(device: torch.device) -> None:
    case = Case(0, 2, 2, 8, 16, device=device)
    assert case.found(case.token(), 3).shape == (0, 32)


def test_the_op_keeps_torchs_rules(device: torch.device) -> None:
    case = Case(2, 1, 2, 8, 32, device=device)
    at = torch.tensor([5], device=device)
    arguments = (case.token(), *case.rotary(at, torch.float32), at, case.keys, case.values)
    torch.library.opcheck(fused_attention, arguments)


def test_going_backward_is_an_error(device: torch.device) -> None:
    case = Case(1, 1, 1, 8, 16, device=device)
    qkv = case.token().requires_grad_()
    with torch.enable_grad():
        out = case.found(qkv, 3)
        with pytest.raises(RuntimeError, match=r"attention\.step"):
            out.sum().backward()


@pytest.mark.parametrize(
    ("dim", "group", "dtype", "reason"),
    [
        (258, 1, torch.float32, "head_dim = 258 is beyond 256"),
        (8, MAX_GROUP + 1, torch.float32, "17 heads for a KV head are beyond 16"),
        (8, 1, torch.float64, "float64 is none of bfloat16, float16, float32"),
    ],
)
def test_what_the_kernels_cannot_run_is_refused(
    device: torch.device, dim: int, group: int, dtype: torch.dtype, reason: str
) -> None:
    case = Case(1, 1, group, dim, 4, dtype, device)
    with pytest.raises(ValueError, match=f"attention's step in Triton: {reason}"):
        case.found(case.token(), 3)


def test_inputs_that_do_not_fit_are_refused(device: torch.device) -> None:
    case = Case(1, 2, 1, 8, 16, device=device)
    whole = case.keys
    for case.keys in (whole[:, :1], whole[..., ::2], whole.mT.contiguous().mT):
        with pytest.raises(ValueError, match="do not fit or are not contiguous"):
            case.found(case.token(), 3)
