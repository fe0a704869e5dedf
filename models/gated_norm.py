"""The norm of each head and the swish gate, as one operation that keeps little for its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.layers import rms_norm


def gated_rms_norm(x: Tensor, gate: Tensor, eps: float) -> Tensor:
    """SiLU(gate) * x / sqrt(mean(x^2) + eps), the mean over the last dimension.

    Eq. 8 of Sun et al. 2023 (arXiv 2307.08621) before its output projection. A gradient keeps the
    two inputs alone, and makes the norm and the gate's SiLU again: as separate operations these
    would be kept, too, twice the width of the model each.

    Args:
        x: (..., dim); statistics are taken in float32 or wider.
        gate: shaped like ``x``, of the type that the norm is rounded to before it is gated.
        eps: added to the mean square.

    Returns:
        A tensor like ``gate``.
    """
    if torch.is_grad_enabled() and (x.requires_grad or gate.requires_grad):
        return _GatedRMSNorm.apply(x, gate, eps)  # type: ignore[no-any-return, no-untyped-call]
    return _gated(x, gate, eps)


def _gated(x: Tensor, gate: Tensor, eps: float) -> Tensor:
    return F.silu(gate) * rms_norm(x, eps).to(gate.dtype)


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.eps = eps
        return _gated(x, gate, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """That of x is s (g - y mean(g y)): s the scale, y = x s, and g the gradient of y."""
        x, gate = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        scale = torch.rsqrt(x.to(wide).square().mean(-1, keepdim=True) + ctx.eps)
        normed = x.to(wide) * scale
        grad_gate = torch.ops.aten.silu_backward(grad * normed.to(gate.dtype), gate)
        grad_normed = (grad * F.silu(gate)).to(wide)
        along = (grad_normed * normed).mean(-1, keepdim=True)
        grad_x = torch.addcmul(grad_normed, normed, along, value=-1).mul_(scale)
        return grad_x.to(x.dtype), grad_gate, None
