"""One token's retention by Triton kernels, as a custom op with a fake.

The op stands between the two matrix products of a layer's mixer in a decode step::

    out = fused_retention(qkvg(x), cos, sin, gamma, None, state, heads, eps)   # updates the state
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels.chunk_op import unsupported


@torch.library.custom_op("retention::step", mutates_args=("state",))
def fused_retention(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    gamma: Tensor,
    scale: Tensor | None,
    state: Tensor,
    heads: int,
    eps: float,
) -> Tensor:
    """One token's retention from the fused projection to the output projection's input.

    The rotation, :func:`models.retention.retention_step`, the norm per head and the swish gate, in
    float32 throughout: only the result is rounded, and a state that is kept in 16 bits. A custom op
    without a derivative: calling it with gradients enabled is allowed, going backward through it is
    torch's RuntimeError.

    Args:
        projected: (batch, width): queries (heads x d_k), keys and values (KV heads x d_k and d_v)
            and, where there is a gate, its input (heads x d_v); float32, bfloat16 or float16;
            contiguous, as all others.
        cos: two rows of d_k float32: of the queries, and of the keys with their scale.
        sin: the sines, shaped like ``cos``; see :class:`models.layers.Rotary`.
        gamma: the KV heads' decays, as many float32.
        scale: what the heads' outputs are multiplied by, ``heads`` float32; None for an RMSNorm.
        state: (batch, KV heads, d_k, d_v) of any type, d_k even; updated in place, and computed in
            float32.
        heads: query heads, a multiple of the KV heads; those of one lie side by side.
        eps: epsilon of the norm.

    Returns:
        (batch, heads d_v), of the type of ``projected``.

    Raises:
        ValueError: if :func:`models.kernels.chunk_op.unsupported` says why these inputs cannot be
            run (the step takes what the chunkwise kernels take), or if they do not fit together
            or are not contiguous.
    """
    batch, kv_heads, d_k, d_v = state.shape
    if reason := unsupported(d_k, d_v, projected.dtype, projected.device):
        raise ValueError(f"retention's step in Triton: {reason}")
    width = heads * d_k + kv_heads * (d_k + d_v)
    fit = projected.shape[0] == batch and projected.shape[1] in (width, width + heads * d_v)
    fit = fit and heads % kv_heads == 0 and gamma.numel() == kv_heads
    others = [] if scale is None else [scale]
    fit = fit and all(x.numel() == heads for x in others)
    given = (projected, cos, sin, gamma, state, *others)
    if not (fit and all(x.is_contiguous() for x in given)):
        raise ValueError("retention's step in Triton: inputs do not fit or are not contiguous")
    from models.kernels.step import launch

    out = projected.new_empty(batch, heads * d_v)
    launch(projected, cos, sin, gamma, scale, state, eps, out)
    return out


@fused_retention.register_fake
def _(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    gamma: Tensor,
    scale: Tensor | None,
    state: Tensor,
    heads: int,
    eps: float,
) -> Tensor:
    return projected.new_empty(projected.shape[0], heads * state.shape[3])
