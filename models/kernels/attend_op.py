"""One token's attention by Triton kernels, as a custom op with a fake.

The op stands between the two matrix products of a layer's mixer in a decode step::

    out = fused_attention(qkv(x), cos, sin, position, keys, values)   # writes the cache in place
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.kernels.limits import too_large
from models.kernels.support import unavailable


@torch.library.custom_op("attention::step", mutates_args=("keys", "values"))
def fused_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, position: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """One token's attention from the fused projection to the output projection's input.

    Rotates queries and key, puts key and value into the cache, and attends to all up to them. A
    custom op without a derivative: calling it with gradients enabled is allowed, going backward
    through it is torch's RuntimeError.

    Args:
        qkv: (batch, (heads + 2 kv_heads) head_dim), queries, keys, values; float32, bfloat16 or
            float16; contiguous, as all others.
        cos: (1, head_dim) float32, see :class:`models.layers.Rotary`.
        sin: the sines, shaped like ``cos``.
        position: int64 of shape (1,), on the device: how many tokens the cache holds. At a
            position beyond the cache nothing is written.
        keys: (batch, kv_heads, max_len, head_dim) of any of these types, head_dim even;
            written at ``position``. May be the first part of a longer cache: a head's keys must
            lie side by side, and no more.
        values: the cache of values, shaped and laid out like ``keys``.

    Returns:
        (batch, heads head_dim), of the type of ``qkv``.

    Raises:
        ValueError: if :func:`unsupported` says why these inputs cannot be run, or if they do not
            fit together or are not contiguous.
    """
    batch, kv_heads, _, dim = keys.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    group = heads // kv_heads
    if reason := unsupported(dim, group, qkv.dtype, qkv.device):
        raise ValueError(f"attention's step in Triton: {reason}")
    fit = qkv.shape == (batch, (group + 2) * kv_heads * dim) and values.shape == keys.shape
    laid_out = keys.stride() == values.stride() and keys.stride()[2:] == (dim, 1)
    if not (fit and laid_out and all(x.is_contiguous() for x in (qkv, cos, sin))):
        raise ValueError("attention's step in Triton: inputs do not fit or are not contiguous")
    from models.kernels.attend import launch

    out = qkv.new_empty(batch, heads * dim)
    if batch > 0:
        launch(qkv, cos, sin, position, keys, values, out)
    return out


@fused_attention.register_fake
def _(
    qkv: Tensor, cos: Tensor, sin: Tensor, position: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] - 2 * keys.shape[1] * keys.shape[3])


def unsupported(head_dim: int, group: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels cannot run such heads there; None where they can.

    Args:
        head_dim: dimension of queries, keys and values; even.
        group: query heads of one KV head.
        dtype: the type of the projection.
        device: where it lies.
    """
    if reason := too_large(head_dim, group):
        return reason
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{str(dtype).removeprefix('torch.')} is none of bfloat16, float16, float32"
    return unavailable(device)
