"""How far tensors are from exact ones, in their worst part: pooled, it hides in rounding."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 16
"""Entries of a vector that are judged together besides: a kernel's last tile may have as few."""

BLOCK_ROUNDING = 5.0
"""How much farther than its whole vector a block may be. Rounding takes the worst of 50,000 blocks
1.3 to 3.6 times as far at sizes ``tiny`` and ``1m``, and farther only where few logits differ at
all; where errors and entries are drawn from normal distributions it is 3.5 times, of a million
blocks 4.6 times. One that is wholly wrong is off by 1."""

SMALL = 0.1
"""A block's norm counts as so much of the largest block's at least."""


def worst_distance(computed: Tensor, exact: Tensor) -> float:
    """The largest relative L2 distance of any vector, each by its own norm; NaN where one is NaN.

    Or the largest of any ``BLOCK`` successive entries of one over ``BLOCK_ROUNDING``, where that is
    more: among a vocabulary's, a tile of a kernel that is wholly wrong would be within the rounding
    of the others.

    Args:
        computed: (vectors, size) float64.
        exact: shaped like ``computed``.
    """
    off = computed - exact
    whole = off.norm(dim=-1) / exact.norm(dim=-1)
    blocks = _by_block(*(_entries(each).norm(dim=-1) for each in (off, exact)))
    return float(whole.maximum(blocks.amax(-1) / BLOCK_ROUNDING).max())


def worst_block(computed: Tensor, exact: Tensor, blocks: int) -> Tensor:
    """The largest relative L2 error among so many blocks of successive rows.

    Args:
        computed: (rows, dim) float64, of one head.
        exact: shaped like ``computed``.
        blocks: how many, at most.

    Returns:
        A number; NaN where one of ``computed`` is.
    """
    return _by_block(*(_row_norms(x, blocks) for x in (computed - exact, exact))).max()


def _by_block(off: Tensor, norms: Tensor) -> Tensor:
    """The norms of errors (..., blocks) over those of what is exact.

    A block is judged by its own norm, but for one that is small beside the largest: there, as in
    the gradients of keys that decays have all but forgotten, the type's rounding is no share of it.
    """
    scale = norms.maximum(SMALL * norms.amax(-1, keepdim=True))
    return torch.where(off == 0, 0.0, off / scale)


def _entries(vectors: Tensor) -> Tensor:
    """Vectors (vectors, size) in blocks of successive entries, the last one to the very end."""
    size = min(BLOCK, vectors.shape[-1])
    return torch.cat((vectors.unfold(-1, size, size), vectors[:, None, -size:]), dim=1)


def _row_norms(x: Tensor, blocks: int) -> Tensor:
    """The root mean square of a row in each block of them."""
    return torch.stack([rows.mean() for rows in x.square().sum(-1).chunk(blocks)]).sqrt()
