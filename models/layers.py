"""What both families share besides the skeleton: rotary positions and the feed-forward kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import FeedForwardKind


def rotary_angles(positions: Tensor, dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles of some positions.

    Computed in float64 and made anew in each call: no buffer that ``model.bfloat16()`` could
    ruin, and positions stay exact at any length. RoPE, Su et al. 2021 (arXiv 2104.09864), eq. 15;
    xPos (arXiv 2212.10554) without its magnitude decay rotates alike.

    Args:
        positions: int64 of shape (time,).
        dim: the even head dimension that is rotated.
        base: base of the geometric series of frequencies.

    Returns:
        Two tensors of shape (time, dim), float64, each half of the last dimension the same.
    """
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64) / dim
    angles = torch.outer(positions.to(torch.float64), base**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + dim/2) of the last dimension.

    Args:
        x: (..., time, dim).
        cos: (time, dim), of a float type at least as wide as that of ``x``.
        sin: likewise.

    Returns:
        A tensor like ``x``; the products are taken in the type of ``cos``.
    """
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


class FeedForward(nn.Module):
    """The position-wise network of a block.

    ``gelu`` is GELU(x W_1) W_2 (RetNet, arXiv 2307.08621, section 2); ``swiglu`` is
    (SiLU(x W_gate) * x W_up) W_down (Shazeer 2020, arXiv 2002.05202, eq. 6). No biases.
    """

    def __init__(self, d_model: int, d_ff: int, kind: FeedForwardKind, **factory: Any) -> None:
        super().__init__()
        self.kind = kind
        # The gate and the up projection are one matrix: one product over the same input.
        inner = 2 * d_ff if kind == "swiglu" else d_ff
        self.up = nn.Linear(d_model, inner, bias=False, **factory)
        self.down = nn.Linear(d_ff, d_model, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_model) to (..., d_model)."""
        hidden = self.up(x)
        if self.kind == "gelu":
            return self.down(F.gelu(hidden))  # type: ignore[no-any-return]
        gate, up = hidden.chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]
