"""The Transformer baselines: multi-head attention, and grouped-query attention as served today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

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
from models.config import ConfigError, Phase
from models.decoder import DecoderConfig
from models.kernels.attend_op import fused_attention, too_large, unsupported
from models.layers import Rotary, rotate
from models.mixer import Mixer, Span
from models.presets import Preset
from models.protocol import LayerState
from models.registry import register
from models.sdpa import CHOSEN, by_kernel, kernel_unsupported, product_dtype, sdpa_backend

CacheDtype = Literal["model", "int8"]


@register("transformer")
@dataclass(frozen=True)
class TransformerConfig(DecoderConfig):
    """Rotary positions, RMSNorm, multi-head attention, no biases: Llama's architecture.

    Sequences are mixed by PyTorch's attention, with implementation ``math`` by its unfused kernel,
    with ``flash``, ``cudnn`` and ``fa3`` by that one (:mod:`models.sdpa`). A decode step is
    computed by PyTorch with ``torch`` and ``math``, by Triton kernels with ``triton``, and with all
    others by these on a GPU where they can run.

    Attributes:
        n_kv_heads: heads of keys and values; 0 means as many as query heads.
        cache_dtype: the type of the KV cache: the ``model``'s, or ``int8`` with a float32 scale for
            each token and head. PyTorch's steps alone read that, and widen it first: it saves
            memory and no time. It rounds by up to 1/254: too much for a run in float32.
    """

    implementations: ClassVar[tuple[str, ...]] = ("auto", "torch", "triton", "math", *CHOSEN)

    n_kv_heads: int = 0
    cache_dtype: CacheDtype = "model"

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """As many heads of the preset's ``head_dim`` as fit."""
        return max(1, d_model // preset.head_dim)

    def check(self) -> None:
        """Settle ``n_kv_heads``; raise ConfigError for heads that cannot be."""
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.default_kv_heads())
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_kv_heads = {self.n_kv_heads} does not divide n_heads = {self.n_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"{self.family} needs an even d_model / n_heads, not {self.head_dim}")
        if self.cache_dtype not in get_args(CacheDtype):
            known = ", ".join(get_args(CacheDtype))
            raise ConfigError(f"cache_dtype must be one of {known}, not {self.cache_dtype!r}")
        reason = too_large(self.head_dim, self.group)
        if self.cache_dtype == "int8":
            reason = "its step reads no int8 cache"
        if self.implementation == "triton" and reason:
            raise ConfigError(f"implementation triton: {reason}")

    def default_kv_heads(self) -> int:
        """A KV head for each query head."""
        return self.n_heads

    @property
    def head_dim(self) -> int:
        """Dimension of a head."""
        return self.d_model // self.n_heads

    @property
    def group(self) -> int:
        """Query heads of one KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys of one token."""
        return self.n_kv_heads * self.head_dim

    def mixer(self) -> Attention:
        """A new mixer."""
        return Attention(self)

    def mixer_parameters(self) -> int:
        """q, out: d^2 each; k, v: d kv_dim each."""
        return 2 * self.d_model**2 + 2 * self.d_model * self.kv_dim

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """Scores and weighted sum over the pairs a causal mask leaves."""
        pairs = tokens * context + tokens * (tokens + 1) // 2
        return pairs * 4 * self.d_model

    def mixer_hardware_flops(self, tokens: int) -> int:
        """Those needed, for fused kernels skip what is masked; the unfused one takes all pairs."""
        if self.implementation == "math":
            return tokens**2 * 4 * self.d_model
        return self.mixer_flops(tokens)

    def variants(self) -> dict[str, dict[str, Any]]:
        """The fused kernels by name, and the scores kept: the paper's slower baseline."""
        return {"math": self.reference()} | {name: {"implementation": name} for name in CHOSEN}

    def reference(self) -> dict[str, Any]:
        """The scores as a matrix, their softmax, and its product with the values."""
        return {"implementation": "math"}

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """Keys and values of every token; in 8 bits their scales too."""
        numbers = 2 * batch_size * context * self.kv_dim
        if self.cache_dtype == "int8":
            return numbers + 4 * numbers // self.head_dim
        return numbers * dtype_bytes


@register("transformer-gqa")
@dataclass(frozen=True)
class GroupedQueryConfig(TransformerConfig):
    """Four query heads a KV head (Ainslie et al. 2023, arXiv 2305.13245).

    The parameters that keys and values save go to the feed-forward.
    """

    def variants(self) -> dict[str, dict[str, Any]]:
        """The fused kernels by name; the paper's baseline is the multi-head model."""
        return {name: {"implementation": name} for name in CHOSEN}

    def default_kv_heads(self) -> int:
        """A KV head for four query heads."""
        if self.n_heads % 4:
            raise ConfigError(f"transformer-gqa needs n_heads in fours, not {self.n_heads}")
        return self.n_heads // 4


@register("transformer-modern")
@dataclass(frozen=True)
class ModernConfig(GroupedQueryConfig):
    """What is trained and served today: grouped queries, and SwiGLU whatever the run's kind is.

    The layer of Llama 3 (Grattafiori et al. 2024, arXiv 2407.21783, section 3.2) and its like.
    """

    def check(self) -> None:
        """Settle the feed-forward, then as any Transformer."""
        object.__setattr__(self, "ffn", "swiglu")
        super().check()


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
        self.rotary = Rotary(config.head_dim, config.rope_base)
        # One matrix for queries, keys and values: one product over the same input.
        self.qkv = nn.Linear(config.d_model, config.d_model + 2 * config.kv_dim, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def prepare(self, span: Span, state: LayerState | None) -> Positions:
        """Rotary angles in float32 or wider, and the mask where a cache is read.

        Raises:
            ConfigError: for a decode step by Triton where it cannot run.
        """
        weight = self.out.weight
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        bias = None
        if span.start is None:
            if not self._in_triton():
                assert isinstance(state, KVCache)
                slots = torch.arange(state.keys.shape[2], device=weight.device)
                bias = step_bias(slots <= span.positions, weight)
        elif span.start > 0:
            bias = offset_bias(span.start, span.positions.shape[0], weight)
        cos, sin = self.rotary(span.positions, wide)
        return Positions(cos, sin, span, bias)

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
        """Whether Triton's kernels step: where asked for, else on a GPU where they can run.

        Raises:
            ConfigError: where they are asked for and cannot run.
        """
        c, weight = self.config, self.out.weight
        if c.cache_dtype == "int8":
            return False
        insisted = c.implementation == "triton"
        if not (insisted or (weight.is_cuda and c.implementation in ("auto", *CHOSEN))):
            return False
        reason = unsupported(c.head_dim, c.group, weight.dtype, weight.device)
        if insisted and reason:
            raise ConfigError(f"implementation triton: {reason}")
        return reason is None

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
