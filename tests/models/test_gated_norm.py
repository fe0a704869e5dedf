"""The gated norm against its separate operations: values, gradients, and what they keep."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from models.gated_norm import gated_rms_norm
from models.layers import rms_norm

EPS = 1e-5
SHAPE = (2, 3, 4, 8)


def inputs(x_dtype: torch.dtype, gate_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, 8, generator=generator, dtype=torch.float64).transpose(1, 2)
    gate = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return x.to(x_dtype).requires_grad_(), gate.to(gate_dtype).requires_grad_()


def separate(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * rms_norm(x, EPS).to(gate.dtype)


@pytest.mark.parametrize(
    ("x_dtype", "gate_dtype", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-5),
        (torch.float32, torch.bfloat16, 2e-2),
        (torch.bfloat16, torch.bfloat16, 2e-2),
    ],
)
def test_values_and_gradients_are_those_of_its_separate_operations(
    x_dtype: torch.dtype, gate_dtype: torch.dtype, tolerance: float
) -> None:
    x, gate = inputs(x_dtype, gate_dtype)
    out, expected = gated_rms_norm(x, gate, EPS), separate(x, gate)
    assert torch.equal(out, expected) and out.dtype == gate_dtype
    with torch.no_grad():
        assert torch.equal(gated_rms_norm(x, gate, EPS), expected)
    direction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(gate_dtype)
    found = torch.autograd.grad(out, (x, gate), direction)
    exact = torch.autograd.grad(expected, (x, gate), direction)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == other.dtype
        assert float((one - other).norm() / other.norm()) < tolerance


def test_its_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(
        lambda x, gate: gated_rms_norm(x, gate, EPS), inputs(torch.float64, torch.float64)
    )


@pytest.mark.parametrize("still", [0, 1])
def test_one_input_may_have_no_gradient(still: int) -> None:
    both = list(inputs(torch.float32, torch.float32))
    both[still] = both[still].detach()
    gated_rms_norm(both[0], both[1], EPS).sum().backward()
    assert both[1 - still].grad is not None


def test_its_gradient_keeps_the_two_inputs_alone() -> None:
    x, gate = inputs(torch.float32, torch.float32)
    kept: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        gated_rms_norm(x, gate, EPS)
    assert kept == {tensor.untyped_storage().data_ptr() for tensor in (x, gate)}


def test_a_second_gradient_is_refused_and_not_wrong() -> None:
    x, gate = inputs(torch.float64, torch.float64)
    energy = gated_rms_norm(x, gate, EPS).square().sum()
    first, _ = torch.autograd.grad(energy, (x, gate), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
