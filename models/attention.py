"""Causal attention as pure functions, and the KV cache.

Shapes: q (batch, heads, time, head_dim); k, v (batch, kv_heads, time, head_dim) with ``heads`` a
multiple of ``kv_heads``: query head i reads KV head i // (heads / kv_heads).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from models.protocol import LayerState

DECODE_SPLITS = 16
"""Parts into which one decode step's keys are cut on a GPU, so that one sequence fills it."""


@dataclass
class KVCache(LayerState):
    """A preallocated cache of one layer: keys and values, (batch, kv_heads, max_len, head_dim)."""

    keys: Tensor
    values: Tensor

    def within(self, max_len: int) -> Self:
        """The first ``max_len`` keys and values, in the same memory."""
        return type(self)(*(tensor[:, :, :max_len] for tensor in self.tensors()))

    def write(self, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (batch, kv_heads, time, head_dim) at int64 positions (time,)."""
        self.keys.index_copy_(2, positions, keys.to(self.keys.dtype))
        self.values.index_copy_(2, positions, values.to(self.values.dtype))

    def read(self, dtype: torch.dtype, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values in a type; of the first ``length`` tokens, or of all."""
        return self.keys[:, :, :length].to(dtype), self.values[:, :, :length].to(dtype)


@dataclass
class Int8Cache(KVCache):
    """A cache in 8 bits: the key and value of each token and head are rounded to their own range.

    Attributes:
        key_scales: what a key's numbers are multiples of, float32 (batch, kv_heads, max_len, 1).
        value_scales: likewise.
    """

    key_scales: Tensor
    value_scales: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> Self:
        """A cache for keys and values of a shape, all zeros."""
        numbers = (torch.zeros(shape, dtype=torch.int8, device=device) for _ in range(2))
        scales = (torch.zeros(*shape[:-1], 1, device=device) for _ in range(2))
        return cls(*numbers, *scales)

    def write(self, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Round keys and values (batch, kv_heads, time, head_dim), and put them at positions."""
        for cached, scales, new in (
            (self.keys, self.key_scales, keys),
            (self.values, self.value_scales, values),
        ):
            new = new.float()
            scale = new.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(new.dtype).tiny) / 127
            cached.index_copy_(2, positions, (new / scale).round_().to(torch.int8))
            scales.index_copy_(2, positions, scale)

    def read(self, dtype: torch.dtype, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values in a type; of the first ``length`` tokens, or of all."""
        tensors = self.keys, self.values, self.key_scales, self.value_scales
        keys, values, key_scales, value_scales = (x[:, :, :length] for x in tensors)
        return (keys * key_scales).to(dtype), (values * value_scales).to(dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, each position seeing itself and what came before.

    Args:
        q: (batch, heads, time, head_dim).
        k: (batch, kv_heads, keys, head_dim), with as many keys as ``bias`` speaks of.
        v: shaped like ``k``.
        bias: where the queries do not start at key 0, what :func:`offset_bias` gives; else None.

    Returns:
        (batch, heads, time, head_dim).
    """
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=q.shape[1] != k.shape[1]
    )


def offset_bias(start: int, time: int, like: Tensor) -> Tensor:
    """The causal mask of ``time`` queries that follow ``start`` keys: (time, start + time)."""
    allowed = torch.ones(time, start + time, dtype=torch.bool, device=like.device).tril(start)
    return step_bias(allowed, like)


def step_bias(allowed: Tensor, like: Tensor) -> Tensor:
    """0 where a key may be seen and minus infinity elsewhere, in the type of ``like``."""
    return allowed.to(like.dtype).log_()


def decode_attention(q: Tensor, cache: KVCache, bias: Tensor) -> Tensor:
    """Attention of one query a head over the whole cache, of a shape that never changes.

    The plain form of :func:`models.kernels.attend_op.fused_attention`, for where that cannot run.
    The query heads of a KV head are taken as one product's rows, so that each key is read once.
    On a CPU this is ``scaled_dot_product_attention``. On a GPU its masked kernels give one
    sequence's head to one multiprocessor, so there the keys are cut into parts that are reduced
    side by side, as in Flash-Decoding (Dao et al. 2023).

    Args:
        q: (batch, heads, 1, head_dim).
        cache: keys and values of all positions so far, this one included.
        bias: (keys,), see :func:`step_bias`.

    Returns:
        (batch, heads, 1, head_dim).
    """
    batch, heads, _, head_dim = q.shape
    grouped = q.reshape(batch, cache.keys.shape[1], -1, head_dim)
    keys, values = cache.read(q.dtype)
    if q.is_cuda:
        mixed = split_decode(grouped, keys, values, bias)
    else:
        mask = bias.view(1, 1, 1, -1)
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
    return mixed.reshape(batch, heads, 1, head_dim)


def split_decode(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v with the reduction over keys cut into parts.

    Args:
        q: (batch, kv_heads, rows, head_dim).
        k: (batch, kv_heads, keys, head_dim).
        v: shaped like ``k``.
        bias: (keys,).

    Returns:
        Like ``q``. The softmax (inside its kernel) and the sum over parts are taken in float32 or
        wider.
    """
    keys, head_dim = k.shape[-2:]
    parts = DECODE_SPLITS if keys % DECODE_SPLITS == 0 else 1
    scores = (q * head_dim**-0.5) @ k.transpose(-1, -2)
    # Adding 0 or minus infinity rounds nothing, so the scores need not be widened for it.
    weights = torch.softmax(scores + bias, dim=-1)
    weights = torch.unflatten(weights, -1, (parts, -1)).transpose(-2, -3)
    partial = weights @ torch.unflatten(v, -2, (parts, -1))
    wide = torch.promote_types(q.dtype, torch.float32)
    return partial.sum(dim=2, dtype=wide).to(q.dtype)
