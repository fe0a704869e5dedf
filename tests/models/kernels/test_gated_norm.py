"""The gated norm's kernels against its plain formula in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from models.gated_norm import gated_rms_norm
from models.kernels.gated_norm_op import fused_gated_norm

EPS = 1e-6
# Results are rounded once; the interpreter cuts bfloat16 off where a GPU rounds it.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 5e-4}
# Rows that fill no program, one to a program, more than one; widths that must be masked.
SHAPES = [(2, 3, 4, 16), (1, 5, 1, 512), (2, 7, 3, 48), (1, 1, 1, 2), (3, 1, 2, 8)]


def inputs(
    shape: tuple[int, ...], device: torch.device, x_dtype: torch.dtype, gate_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """x as the kernels write it, the gate as a part of a projection, a gradient of the output."""
    batch, time, heads, d_v = shape
    generator = torch.Generator().manual_seed(d_v)
    x, grad = torch.randn(2, *shape, generator=generator)
    projected = torch.randn(batch, time, 5 + heads * d_v, generator=generator)
    gate = projected.to(device, gate_dtype)[..., 5:].view(shape)
    x, grad = x.to(device, x_dtype), grad.to(device, gate_dtype)
    return x.requires_grad_(), gate.detach().requires_grad_(), grad


def expected(x: Tensor, gate: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The output and both gradients, in float64."""
    x, gate = (each.detach().double().requires_grad_() for each in (x, gate))
    out = F.silu(gate) * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    return out.detach(), *torch.autograd.grad(out, (x, gate), grad.double())


def distance(found: Tensor, exact: Tensor) -> float:
    """Of the row that is furthest from its exact values."""
    errors = (found.double() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-3)
    return float(errors.max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("x_dtype", "gate_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
)
def test_values_and_gradients_are_the_formulas(
    device: torch.device, shape: tuple[int, ...], x_dtype: torch.dtype, gate_dtype: torch.dtype
) -> None:
    x, gate, grad = inputs(shape, device, x_dtype, gate_dtype)
    out = fused_gated_norm(x, gate, EPS)
    grads = torch.autograd.grad(out, (x, gate), grad)
    assert (out.dtype, *(each.dtype for each in grads)) == (gate_dtype, x_dtype, gate_dtype)
    limits = TOLERANCES[gate_dtype], TOLERANCES[x_dtype], TOLERANCES[gate_dtype]
    for found, exact, limit in zip((out, *grads), expected(x, gate, grad), limits, strict=True):
        assert distance(found, exact) < limit


def test_it_is_what_plain_torch_computes(device: torch.device) -> None:
    x, gate, _ = inputs((2, 3, 4, 16), device, torch.float32, torch.float32)
    assert torch.allclose(fused_gated_norm(x, gate, EPS), gated_rms_norm(x, gate, EPS), atol=1e-6)


def test_inputs_in_any_strides_are_read(device: torch.device) -> None:
    x, gate, grad = inputs((2, 3, 4, 16), device, torch.float32, torch.float32)
    exact = expected(x, gate, grad)
    by_head = (each.detach().transpose(1, 2).contiguous().transpose(1, 2) for each in (x, gate))
    x, gate = (each.requires_grad_() for each in by_head)
    out = fused_gated_norm(x, gate, EPS)
    for found, other in zip((out, *torch.autograd.grad(out, (x, gate), grad)), exact, strict=True):
        assert distance(found, other) < 2e-6


def test_a_gate_whose_numbers_lie_apart_is_copied(device: torch.device) -> None:
    x, gate, grad = inputs((1, 3, 4, 16), device, torch.float32, torch.float32)
    exact, *_ = expected(x, gate, grad)
    by_head = gate.detach().transpose(1, 2).contiguous().transpose(1, 2)
    apart = torch.stack((gate.detach(), gate.detach()), -1)[..., 0]
    for each in (by_head, apart):
        assert distance(fused_gated_norm(x, each, EPS), exact) < 2e-6


def test_one_input_may_have_no_gradient_and_that_of_the_output_may_be_expanded(
    device: torch.device,
) -> None:
    x, gate, grad = inputs((2, 3, 4, 16), device, torch.float32, torch.float32)
    exact = expected(x, gate, torch.ones_like(grad))
    for found, other in (
        (torch.autograd.grad(fused_gated_norm(x, gate.detach(), EPS).sum(), x)[0], exact[1]),
        (torch.autograd.grad(fused_gated_norm(x.detach(), gate, EPS).sum(), gate)[0], exact[2]),
    ):
        assert distance(found, other) < 2e-6


def test_its_gradient_keeps_the_two_inputs_alone(device: torch.device) -> None:
    x, gate, _ = inputs((2, 3, 4, 16), device, torch.float32, torch.float32)
    kept: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        fused_gated_norm(x, gate, EPS)
    assert kept == {tensor.untyped_storage().data_ptr() for tensor in (x, gate)}


def test_a_batch_of_none_is_left_as_it_is(device: torch.device) -> None:
    x = torch.empty(0, 3, 2, 8, device=device)
    assert fused_gated_norm(x, x, EPS).shape == x.shape


def test_the_op_keeps_torchs_rules(device: torch.device) -> None:
    x, gate, _ = inputs((2, 3, 2, 8), device, torch.float32, torch.float32)
    torch.library.opcheck(fused_gated_norm, (x, gate, EPS))


def test_what_the_kernels_cannot_run_is_refused(device: torch.device) -> None:
    x = torch.ones(1, 2, 2, 8, device=device)
    with pytest.raises(ValueError, match="x and gate differ in their shapes"):
        fused_gated_norm(x, x[..., :4], EPS)
    with pytest.raises(ValueError, match="the gated norm in Triton: float64 is none of"):
        fused_gated_norm(x.double(), x.double(), EPS)
