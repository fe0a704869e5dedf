"""Multi-head attention with rotary positions and a static cache, grouped queries included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.attention import (
    Int8Cache,
    KVCache,
    causal_attention,
    decode_attention,
    offset_bias,
    step_bias,
)
from models.config import ConfigError
from models.footprint import Phase
from models.kernels.attend_op import fused_attention, unsupported
from models.layers import Rotary, rotate
from models.mixers.base import Mixer, Span, in_triton
from models.protocol import LayerState
from models.sdpa import CHOSEN, by_kernel, kernel_unsupported, product_dtype, sdpa_backend

if TYPE_CHECKING:
    from models.family.transformer import TransformerConfig


@dataclass(frozen=True)
class Positions:
    """What all layers need of the positions: rotary angles, the mask, and where to write.

    A decode step without a mask is the kernels', which know from the position what they may see.
    """

    cos: Tensor
    sin: Tensor
    span: Span
    bias: Tensor | None


class Attention(Mixer):
    """Causal attention with rotary positions and a static KV cache (Vaswani et al. 2017)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        rotates = config.positions == "rotary"
        self.rotary = Rotary(config.head_dim, config.rope_base, rotates=rotates)
        # One matrix for queries, keys and values: one product over the same input.
        self.qkv = nn.Linear(config.d_model, config.d_model + 2 * config.kv_dim, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def prepare(self, span: Span, state: LayerState | None) -> Positions:
        """Rotary angles in float32 or wider, and the mask where a cache is read.

        Raises:
            ConfigError: for a decode step by Triton where it cannot run.
        """
        if span.start is None:
            bias = self._step_bias(span, state)
        else:
            bias = self._sequence_bias(span.start, span.positions.shape[0])
        wide = torch.promote_types(self.out.weight.dtype, torch.float32)
        cos, sin = self.rotary(span.positions, wide)
        return Positions(cos, sin, span, bias)

    def _step_bias(self, span: Span, state: LayerState | None) -> Tensor | None:
        """The mask of the slots that are filled; None where Triton's kernels step."""
        if self._in_triton():
            return None
        assert isinstance(state, KVCache)
        weight = self.out.weight
        slots = torch.arange(state.keys.shape[2], device=weight.device)
        return step_bias(slots <= span.positions, weight)

    def _sequence_bias(self, start: int, time: int) -> Tensor | None:
        """The mask of ``time`` tokens behind ``start``; None where there are none before them."""
        return offset_bias(start, time, self.out.weight) if start > 0 else None

    def forward(self, x: Tensor, shared: Positions) -> Tensor:
        """Mix a whole sequence."""
        q, k, v = self._project(x, shared)
        return self._output(self._attend(q, k, v))

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> KVCache:
        """A cache of ``max_len`` tokens, in ``dtype`` unless the configuration's is another."""
        shape = (batch_size, self.config.n_kv_heads, max_len, self.config.head_dim)
        if self.config.cache_dtype == "int8":
            return Int8Cache.empty(shape, device)
        return KVCache(*(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)))

    def prefill(self, x: Tensor, shared: Positions, state: LayerState) -> Tensor:
        """Mix tokens after those in the cache."""
        assert isinstance(state, KVCache)
        q, k, v = self._project(x, shared)
        state.write(shared.span.positions, k, v)
        if shared.bias is None:
            return self._output(self._attend(q, k, v))
        keys, values = state.read(q.dtype, shared.bias.shape[-1])
        return self._output(self._attend(q, keys, values, shared.bias))

    def step(self, x: Tensor, shared: Positions, state: LayerState) -> Tensor:
        """Mix one token with all in the cache."""
        assert isinstance(state, KVCache)
        if shared.bias is None:
            qkv = self.qkv(x).flatten(1)
            at = shared.span.positions
            mixed = fused_attention(qkv, shared.cos, shared.sin, at, state.keys, state.values)
            return self.out(mixed[:, None])  # type: ignore[no-any-return]
        q, k, v = self._project(x, shared)
        state.write(shared.span.positions, k, v)
        return self._output(decode_attention(q, state, shared.bias))

    def implementation(self, phase: Phase) -> str:
        """The kernel that PyTorch's attention chooses, or what a step on a GPU is.

        The choice depends on the type of the products: ask where they will be taken, in an
        autocast if that is so.
        """
        weight = self.out.weight
        if phase == "decode":
            if self._in_triton():
                return "split-kv-triton"
            return "split-kv" if weight.is_cuda else "sdpa"
        c = self.config
        if c.implementation == "math":
            return "sdpa-math"
        dtype = product_dtype(weight)
        if c.implementation in CHOSEN:
            reason = kernel_unsupported(c.implementation, c.head_dim, c.group, dtype, weight.device)
            if reason:
                raise ConfigError(f"implementation {c.implementation}: {reason}")
            return f"sdpa-{c.implementation}"
        q = weight.new_empty(1, c.n_heads, 512, c.head_dim, dtype=dtype)
        k = weight.new_empty(1, c.n_kv_heads, 512, c.head_dim, dtype=dtype)
        return f"sdpa-{sdpa_backend(q, k, k)}"

    def _in_triton(self) -> bool:
        """Whether Triton's kernels step; see :func:`models.mixers.base.in_triton`."""
        c = self.config
        if c.cache_dtype == "int8":
            return False
        reason = partial(unsupported, c.head_dim, c.group)
        return in_triton(c.implementation, self.out.weight, reason, ("auto", *CHOSEN))

    def _project(self, x: Tensor, shared: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (batch, heads, time, head_dim) and keys, values of the KV heads."""
        c, (batch, time, d) = self.config, x.shape
        qk, v = self.qkv(x).split_with_sizes([d + c.kv_dim, c.kv_dim], -1)
        # Queries and keys are rotated alike, so as one tensor of all heads.
        qk = qk.view(batch, time, -1, c.head_dim).transpose(1, 2)
        q, k = rotate(qk, shared.cos, shared.sin).split_with_sizes([c.n_heads, c.n_kv_heads], 1)
        return q, k, v.view(batch, time, -1, c.head_dim).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention by the kernel that the configuration names; of a mask only ``math`` takes."""
        name = self.config.implementation
        with by_kernel(name if bias is None or name == "math" else "auto", q):
            return causal_attention(q, k, v, bias)

    def _output(self, mixed: Tensor) -> Tensor:
        return self.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]
