"""Identities of the paper that are computed in float64 when they are asked for, not measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def normalisers() -> float:
    """How far the paper's scalings of retention move what stands behind the norm of each head.

    Section 2.2 of arXiv 2307.08621: scores over sqrt(d_k), each row of decays over the square root
    of its sum, each row of scores over the absolute value of its sum, at least 1. The norm, here
    without an epsilon, takes back any positive scale of a row; with one it does so the less, the
    smaller the row.

    Returns:
        The least power of ten that is not below the relative L2 distances between with and
        without, of the output and of the gradients of queries, keys and values: their digits are
        of a processor's rounding.
    """
    import torch

    from models.layers import rms_norm
    from models.retention import log_decays, retention_parallel

    generator = torch.Generator().manual_seed(0)
    heads, time, d_k = 4, 96, 16
    inputs = [
        torch.randn(2, heads, time, size, dtype=torch.float64, generator=generator)
        for size in (d_k, d_k, 2 * d_k)
    ]
    weight = torch.randn(2, heads, time, 2 * d_k, dtype=torch.float64, generator=generator)
    ahead = torch.arange(time)[:, None] - torch.arange(time)
    log_gamma = log_decays(heads, "eq8")
    decays = torch.exp(log_gamma[:, None, None] * ahead).tril()
    decays = decays / decays.sum(-1, keepdim=True).sqrt()

    def mixed(*, scaled: bool) -> tuple[Tensor, ...]:
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        if scaled:
            scores = q @ k.mT / d_k**0.5 * decays
            retained = scores / scores.sum(-1, keepdim=True).abs().clamp(min=1) @ v
        else:
            retained, _ = retention_parallel(q, k, v, log_gamma)
        out = rms_norm(retained, 0.0)
        (out * weight).sum().backward()
        return tuple(x.detach() for x in (out, *(x.grad for x in (q, k, v) if x.grad is not None)))

    with torch.enable_grad():
        pairs = zip(mixed(scaled=True), mixed(scaled=False), strict=True)
    return 10.0 ** math.ceil(max(math.log10(float((a - b).norm() / b.norm())) for a, b in pairs))


IDENTITIES: Mapping[str, Callable[[], float]] = {"normalisers": normalisers}
"""What the claims' file names them by."""
