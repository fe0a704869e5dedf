"""What both families share besides the skeleton: rotary positions and the feed-forward kinds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.footprint import FeedForwardKind


class Rotary(nn.Module):
    """The rotary angles of positions: RoPE, Su et al. 2021 (arXiv 2104.09864), eq. 15.

    xPos (arXiv 2212.10554) without its magnitude decay rotates alike. Angles are taken in float64
    from frequencies that are kept as the bits of float64, in an integer buffer: so
    ``model.bfloat16()`` moves them but does not round them, and positions are exact at any length.

    A decode step waits for its angles, so they are few calls: cosines are taken as sines of a
    quarter turn more. Tables of all positions would be fewer, and would grow with the context.

    Args:
        dim: the even head dimension that is rotated.
        base: base of the geometric series of frequencies.
        rotates: whether they are turned at all; without, every angle is 0.
    """

    def __init__(self, dim: int, base: float, *, rotates: bool = True) -> None:
        super().__init__()
        series = base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim) * rotates
        # One row for the cosines and one for the sines, whose first half :func:`rotate` subtracts.
        frequencies = torch.stack((series.repeat(2), torch.cat((-series, series))))
        turns = torch.tensor([math.pi / 2, 0.0], dtype=torch.float64)[:, None].expand(2, dim)
        bits = torch.stack((frequencies, turns)).view(torch.int64)
        self.register_buffer("bits", bits, persistent=False)
        self.bits: Tensor

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Cosines and sines for :func:`rotate`.

        Args:
            positions: int64 of shape (time,).
            dtype: the floating-point type of the result.

        Returns:
            (2, time, dim): the cosines, and the sines, of which the first half is negative.
        """
        frequencies, turns = self.bits.view(torch.float64)[:, :, None]
        return torch.add(positions[:, None] * frequencies, turns).sin_().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + dim/2) of the last dimension.

    Args:
        x: (..., time, dim).
        cos: (time, dim) from :class:`Rotary`, in a float type at least as wide as that of ``x``;
            any shape that broadcasts will do.
        sin: the sines, shaped like ``cos``.

    Returns:
        A tensor like ``x``; the products are taken in the type of ``cos``.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def rms_norm(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """Scale to a root mean square of 1, then by a weight: x / sqrt(mean(x^2) + eps) * weight.

    Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4, over the last dimension.

    On a GPU torch's fused kernel. On a CPU torch's own is a chain of operations that takes twice
    as long as this one, which a decode step of one token would feel.

    Args:
        x: (..., dim); statistics are taken in float32 or wider.
        eps: added to the mean square.
        weight: (dim,), or None for none.

    Returns:
        A tensor like ``x``.
    """
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    wide = x if x.dtype == torch.float64 else x.float()
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return normed if weight is None else normed * weight


class RMSNorm(nn.Module):
    """:func:`rms_norm` with a weight, initially ones."""

    def __init__(self, dim: int, eps: float, **factory: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., dim)."""
        return rms_norm(x, self.eps, self.weight)


class FeedForward(nn.Module):
    """The position-wise network of a layer.

    ``gelu`` is GELU(x W_1) W_2 (RetNet, arXiv 2307.08621, section 2), with GPT-2's tanh form of
    GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2), the faster of the two on a CPU;
    ``swiglu`` is (SiLU(x W_gate) * x W_up) W_down (Shazeer 2020, arXiv 2002.05202, eq. 6). No
    biases.
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
            return self.down(F.gelu(hidden, approximate="tanh"))  # type: ignore[no-any-return]
        gate, up = hidden.chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]
