"""The Transformer that the RetNet paper compares with: unfused attention, a cache that is copied.

Its authors' library, torchscale, computes scores, float32 softmax and weighted sum in calls of
their own, and makes the whole cache anew at each step by concatenation (multihead_attention.py at
commit 4d1e0e8). That the paper's decoding figures (Sun et al. 2023, arXiv 2307.08621, figure 6)
were measured so is likely, and nowhere said. It shows what part of a ratio the baseline makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.attention import KVCache, offset_bias
from models.footprint import Phase
from models.mixers.base import Span
from models.mixers.multihead import Attention, Positions
from models.protocol import LayerState

if TYPE_CHECKING:
    from models.family.transformer import PaperConfig


class GrowingCache(KVCache):
    """Keys and values, (batch, kv_heads, tokens so far, head_dim): new tensors at each call."""

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (batch, kv_heads, time, head_dim) behind those so far."""
        self.keys = torch.cat((self.keys, keys.to(self.keys.dtype)), dim=2)
        self.values = torch.cat((self.values, values.to(self.values.dtype)), dim=2)

    def seek(self, position: int) -> None:
        """Drop what stands behind the first ``position`` tokens."""
        self.keys, self.values = (cached[:, :, :position] for cached in self.tensors())

    def reset(self) -> None:
        """Forget every token, and give up the memory."""
        self.keys, self.values = (torch.empty_like(x[:, :, :0]) for x in self.tensors())

    def join(self, parts: Sequence[LayerState]) -> None:
        """Copy the parts of the batch into one cache; they are empty afterwards."""
        tensors = zip(*(part.tensors() for part in parts), strict=True)
        self.keys, self.values = (torch.cat(each) for each in tensors)
        for part in parts:
            part.reset()


class PaperAttention(Attention):
    """Causal attention with rotary positions as its formula says."""

    config: PaperConfig

    def _step_bias(self, span: Span, state: LayerState | None) -> None:
        """None: a step sees all that is cached."""

    def _sequence_bias(self, start: int, time: int) -> Tensor:
        """The causal mask of ``time`` tokens behind ``start``."""
        return offset_bias(start, time, self.out.weight)

    def forward(self, x: Tensor, shared: Positions) -> Tensor:
        """Mix a whole sequence."""
        q, k, v = self._project(x, shared)
        return self._output(unfused_attention(q, k, v, shared.bias))

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> GrowingCache:
        """A cache of no tokens in the model's dtype."""
        shape = (batch_size, self.config.n_kv_heads, 0, self.config.head_dim)
        return GrowingCache(*(torch.empty(shape, device=device, dtype=dtype) for _ in range(2)))

    def prefill(self, x: Tensor, shared: Positions, state: LayerState) -> Tensor:
        """Mix tokens after those in the cache."""
        assert isinstance(state, GrowingCache)
        q, k, v = self._project(x, shared)
        state.append(k, v)
        keys, values = state.read(q.dtype)
        return self._output(unfused_attention(q, keys, values, shared.bias))

    def step(self, x: Tensor, shared: Positions, state: LayerState) -> Tensor:
        """Mix one token with all in the cache."""
        return self.prefill(x, shared, state)

    def implementation(self, phase: Phase) -> str:
        """Unfused; a step concatenates besides."""
        return "unfused-concatenated" if phase == "decode" else "unfused"


def unfused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v, the scores of all pairs in memory.

    Args:
        q: (batch, heads, time, head_dim).
        k: (batch, heads, keys, head_dim).
        v: shaped like ``k``.
        bias: (time, keys), see :func:`models.attention.offset_bias`; None where all may be seen.

    Returns:
        Like ``q``.
    """
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=wide).to(v.dtype) @ v
