"""RetNet's decode kernels against the step in plain torch, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.kernels.step import warp_count
from models.kernels.step_op import fused_retention
from models.layers import rms_norm, rotate
from models.retention import retention_step

EPS = 1e-6


@dataclass
class Case:
    """Random inputs of one layer, in float64."""

    batch: int
    heads: int
    d_k: int
    d_v: int
    gated: bool = True
    scaled: bool = False
    device: torch.device | str = "cpu"
    group: int = 1

    @property
    def kv_heads(self) -> int:
        """Heads that have a state."""
        return self.heads // self.group

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.d_k + self.d_v)

        def random(*shape: int) -> Tensor:
            x = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return x.to(self.device)

        angles = random(self.d_k)
        sign = torch.ones_like(angles)
        sign[: self.d_k // 2] = -1
        scales = torch.tensor([1.0, self.d_k**-0.5], device=self.device)[:, None, None, None]
        self.cos, self.sin = angles.cos() * scales, angles.sin() * sign * scales
        self.gamma = 1 - random(self.kv_heads).sigmoid()[:, None, None] / 4
        self.scale = random(self.heads).exp()[:, None, None] if self.scaled else None
        self.state = random(self.batch, self.kv_heads, self.d_k, self.d_v)
        self.random = random

    def token(self) -> Tensor:
        """The fused projection of a new token."""
        return self.random(self.batch, sum(self.widths()))

    def widths(self) -> list[int]:
        """Of the projection's parts: queries, keys, values and, if there is one, the gate."""
        queries, keys = self.heads * self.d_k, self.kv_heads * self.d_k
        values, gate = self.kv_heads * self.d_v, self.heads * self.d_v
        return [queries, keys, values, *([gate] if self.gated else [])]

    def expected(self, projected: Tensor, state: Tensor) -> Tensor:
        """The same in plain torch; updates the state."""
        batch = self.batch
        q, k, v, *gate = projected.split_with_sizes(self.widths(), -1)
        q, k = (
            rotate(x.view(batch, self.kv_heads, -1, self.d_k), cos.flatten(), sin.flatten())
            for x, cos, sin in zip((q, k), self.cos, self.sin, strict=True)
        )
        v = v.view(batch, self.kv_heads, 1, self.d_v)
        mixed = retention_step(q, k, v, self.gamma, state).view(batch, self.heads, 1, self.d_v)
        normed = rms_norm(mixed, EPS) if self.scale is None else mixed * self.scale
        joined = normed.reshape(batch, self.heads * self.d_v)
        return F.silu(gate[0]) * joined if self.gated else joined

    def found(self, projected: Tensor, state: Tensor) -> Tensor:
        """The kernels' answer; updates the state."""
        cos, sin, gamma = self.cos.float(), self.sin.float(), self.gamma.float()
        scale = None if self.scale is None else self.scale.float()
        return fused_retention(projected, cos, sin, gamma, scale, state, self.heads, EPS)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


# The result is rounded once, to 8 or 11 bits; the interpreter cuts bfloat16 off where a GPU rounds
# it. float32 sums of up to 256 products lose some 4 bits.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 5e-4}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("heads", "d_k", "d_v"), [(2, 16, 32), (3, 10, 20), (1, 96, 192)])
def test_a_step_is_the_torch_step(
    device: torch.device, dtype: torch.dtype, batch: int, heads: int, d_k: int, d_v: int
) -> None:
    case = Case(batch, heads, d_k, d_v, device=device)
    projected = case.token().to(dtype)
    state = case.state.float()
    expected = case.expected(projected.double(), case.state)
    found = case.found(projected, state)
    assert found.dtype == dtype and found.shape == (batch, heads * d_v)
    assert distance(found, expected) < TOLERANCES[dtype]
    # The state is not rounded to the model's type.
    assert distance(state, case.state) < 1e-6


def test_the_papers_head_dimensions(device: torch.device) -> None:
    case = Case(1, 2, 256, 512, device=device)
    projected, state = case.token().float(), case.state.float()
    expected = case.expected(projected.double(), case.state)
    assert distance(case.found(projected, state), expected) < 4e-6
    assert distance(state, case.state) < 1e-6


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_gate_and_norm_can_be_left_out(device: torch.device, gated: bool, scaled: bool) -> None:
    case = Case(2, 3, 8, 16, gated, scaled, device)
    projected, state = case.token().float(), case.state.float()
    expected = case.expected(projected.double(), case.state)
    assert distance(case.found(projected, state), expected) < 2e-6


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("group", [2, 4])
def test_query_heads_share_a_state(
    device: torch.device, gated: bool, scaled: bool, group: int
) -> None:
    case = Case(2, 4, 8, 16, gated, scaled, device, group)
    projected, state = case.token().float(), case.state.float()
    expected = case.expected(projected.double(), case.state)
    assert distance(case.found(projected, state), expected) < 2e-6
    assert distance(state, case.state) < 1e-6


def test_many_steps_stay_together(device: torch.device) -> None:
    case = Case(1, 1, 16, 16, device=device)
    state = case.state.float()
    for _ in range(50):
        projected = case.token().float()
        expected = case.expected(projected.double(), case.state)
        assert distance(case.found(projected, state), expected) < 4e-6
    assert distance(state, case.state) < 1e-6


def test_a_float64_state_is_kept_as_it_is_made(device: torch.device) -> None:
    case = Case(1, 1, 8, 16, device=device)
    projected, state = case.token().float(), case.state.clone()
    expected = case.expected(projected.double(), case.state)
    assert distance(case.found(projected, state), expected) < 2e-6
    assert distance(state, case.state) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_state_is_computed_in_float32_and_rounded_once(
    device: torch.device, dtype: torch.dtype
) -> None:
    case = Case(2, 2, 16, 40, device=device)
    state = case.state.to(dtype)
    case.state = state.double()
    projected = case.token().float()
    expected = case.expected(projected.double(), case.state)
    assert distance(case.found(projected, state), expected) < 2e-6
    assert state.dtype == dtype
    assert distance(state, case.state) < TOLERANCES[dtype]


@pytest.mark.parametrize(("d_k", "columns"), [(2, 8), (4, 8), (8, 8), (16, 8), (8, 32), (256, 8)])
def test_no_two_warps_hold_the_same_of_a_state(d_k: int, columns: int) -> None:
    warps = warp_count(d_k, columns)
    assert warps == 1 or 32 * warps <= d_k * columns
    assert warps == 4 or 64 * warps > d_k * columns


@pytest.mark.parametrize("columns", [8, 16, 32])
@pytest.mark.parametrize("group", [1, 2])
def test_the_cut_changes_no_result(
    device: torch.device, group: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(1, 2, 16, 40, device=device, group=group)
    projected, state = case.token().float(), case.state.float()
    expected = case.expected(projected.double(), case.state)
    monkeypatch.setattr("models.kernels.step.step_columns", lambda *_: columns)
    assert distance(case.found(projected, state), expected) < 2e-6
    assert distance(state, case.state) < 1e-6


def test_a_batch_of_none_is_left_as_it_is(device: torch.device) -> None:
    case = Case(0, 2, 8, 16, device=device)
    assert case.found(case.token().float(), case.state.float()).shape == (0, 32)


def test_the_op_keeps_torchs_rules(device: torch.device) -> None:
    case = Case(2, 4, 8, 16, device=device, group=2)
    arguments: tuple[Any, ...] = (
        case.token().float(), case.cos.float(), case.sin.float(), case.gamma.float(), None,
        case.state.float(), case.heads, EPS,
    )  # fmt: skip
    torch.library.opcheck(fused_retention, arguments)


def test_going_backward_is_an_error(device: torch.device) -> None:
    case = Case(1, 1, 8, 16, device=device)
    projected = case.token().float().requires_grad_()
    with torch.enable_grad():
        out = case.found(projected, case.state.float())
        with pytest.raises(RuntimeError, match=r"retention\.step"):
            out.sum().backward()


@pytest.mark.parametrize(
    ("d_k", "dtype", "reason"),
    [
        (258, torch.float32, "d_k = 258, d_v = 16 is beyond 256, 512"),
        (8, torch.float64, "float64 is none of bfloat16, float16, float32"),
    ],
)
def test_what_the_kernels_cannot_run_is_refused(
    device: torch.device, d_k: int, dtype: torch.dtype, reason: str
) -> None:
    case = Case(1, 1, d_k, 16, device=device)
    with pytest.raises(ValueError, match=f"retention's step in Triton: {reason}"):
        case.found(case.token().to(dtype), case.state.float())


def test_inputs_that_do_not_fit_are_refused(device: torch.device) -> None:
    case = Case(1, 2, 8, 16, device=device)
    projected, state = case.token().float(), case.state.float()
    for part, matrices in [
        (projected[:, :-1].contiguous(), state),
        (projected.repeat(2, 1), state),
        (projected, state.mT.contiguous().mT),
    ]:
        with pytest.raises(ValueError, match="do not fit or are not contiguous"):
            case.found(part, matrices)
    case.gamma = case.gamma.repeat(2, 1, 1)  # of the query heads
    with pytest.raises(ValueError, match="do not fit"):
        case.found(projected, state)


def test_query_heads_that_are_no_multiple_of_the_others_are_refused(device: torch.device) -> None:
    case = Case(1, 4, 8, 16, device=device, group=2)
    case.heads = 3
    projected = torch.zeros(1, 3 * 8 + 2 * (8 + 16) + 3 * 16, device=device)
    with pytest.raises(ValueError, match="do not fit"):
        case.found(projected, case.state.float())
