"""One token's retention by Triton kernels, as a custom op with a fake.

The op stands between the two matrix products of a layer's mixer in a decode step::

    out = retention_step(qkvg(x), cos, sin, gamma, None, state, eps)   # the state moves on in place
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels.chunk_op import unsupported


@torch.library.custom_op("retention::step", mutates_args=("state",))
def retention_step(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    gamma: Tensor,
    scale: Tensor | None,
    state: Tensor,
    eps: float,
) -> Tensor:
    """One token's retention from the fused projection to the output projection's input.

    The rotation, :func:`models.retention.retention_step`, the norm per head and the swish gate, in
    float32 throughout: only the result is rounded. A custom op without a derivative: calling it
    with gradients enabled is allowed, going backward through it is torch's RuntimeError.

    Args:
        projected: (batch, width), contiguous: queries and keys (heads x d_k each), values and,
            where there is a gate, its input (heads x d_v each); float32, bfloat16 or float16.
        cos: two rows of d_k float32, contiguous: of the queries, and of the keys with their scale.
        sin: likewise, see :class:`models.layers.Rotary`.
        gamma: the heads' decays, ``heads`` float32.
        scale: what the heads' outputs are multiplied by, ``heads`` float32; None for an RMSNorm.
        state: (batch, heads, d_k, d_v) float32, contiguous, d_k even; updated in place.
        eps: of the norm.

    Returns:
        (batch, heads d_v), of the type of ``projected``.

    Raises:
        ValueError: if :func:`models.kernels.chunk_op.unsupported` says why these inputs cannot be
            run; the step takes what the chunkwise kernels take.
    """
    batch, heads, d_k, d_v = state.shape
    if reason := unsupported(d_k, d_v, projected.dtype, projected.device):
        raise ValueError(f"retention's step in Triton: {reason}")
    from models.kernels.step import launch

    out = projected.new_empty(batch, heads * d_v)
    launch(projected, cos, sin, gamma, scale, state, eps, out)
    return out


@retention_step.register_fake
def _(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    gamma: Tensor,
    scale: Tensor | None,
    state: Tensor,
    eps: float,
) -> Tensor:
    return projected.new_empty(projected.shape[0], state.shape[1] * state.shape[3])
