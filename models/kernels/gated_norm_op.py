"""The norm of each head and the swish gate by Triton kernels, as custom ops with a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.kernels.chunk_op import unsupported


@torch.library.custom_op("retention::gated_norm", mutates_args=())
def fused_gated_norm(x: Tensor, gate: Tensor, eps: float) -> Tensor:
    """SiLU(gate) * x / sqrt(mean(x^2) + eps), the mean over the last dimension.

    What :func:`models.gated_norm.gated_rms_norm` computes, in float32 throughout: only the results
    are rounded, of the gradients, too, which keep the two inputs alone.

    Args:
        x: (batch, time, heads, d_v), float32, bfloat16 or float16; copied unless contiguous.
        gate: shaped like ``x``, of one of these types; a part of each token's row of a larger
            tensor, as a projection's, is read where it lies.
        eps: added to the mean square.

    Returns:
        A contiguous tensor like ``gate``.

    Raises:
        ValueError: the shapes differ, or :func:`models.kernels.chunk_op.unsupported` says why such
            heads cannot be run there.
    """
    _require(x, gate)
    from models.kernels.gated_norm import launch

    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    launch(x.contiguous(), _by_token(gate), out, eps)
    return out


@torch.library.custom_op("retention::gated_norm_backward", mutates_args=())
def _backward(x: Tensor, gate: Tensor, grad: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from models.kernels.gated_norm import launch_backward

    grads = _empty_grads(x, gate)
    launch_backward(x.contiguous(), _by_token(gate), grad.contiguous(), *grads, eps)
    return grads


@fused_gated_norm.register_fake
def _(x: Tensor, gate: Tensor, eps: float) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(x: Tensor, gate: Tensor, grad: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _empty_grads(x, gate)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *kept, ctx.eps = inputs
    ctx.save_for_backward(*kept)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, gate = ctx.saved_tensors
    return *_backward(x, gate, grad, ctx.eps), None


fused_gated_norm.register_autograd(_differentiate, setup_context=_keep_inputs)


def _require(x: Tensor, gate: Tensor) -> None:
    if x.ndim != 4 or x.shape != gate.shape:
        raise ValueError("the gated norm in Triton: x and gate differ in their shapes")
    for each in (x, gate):
        if reason := unsupported(1, each.shape[-1], each.dtype, each.device):
            raise ValueError(f"the gated norm in Triton: {reason}")


def _empty_grads(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_gate = (
        torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, gate)
    )
    return of_x, of_gate


def _by_token(gate: Tensor) -> Tensor:
    """(tokens, heads, d_v), copied only where a token's numbers, or the tokens, lie otherwise."""
    tokens = gate.flatten(0, 1)
    return tokens if tokens.stride()[1:] == (gate.shape[-1], 1) else tokens.contiguous()
