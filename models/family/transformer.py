"""The Transformer baselines: multi-head attention, and grouped-query attention as served today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from models.config import ConfigError
from models.family.grouped import GroupedHeadsConfig
from models.kernels.limits import too_large
from models.presets import PRESETS, Preset
from models.registry import register

if TYPE_CHECKING:
    from models.mixers.multihead import Attention
    from models.mixers.paper import PaperAttention
    from models.mixers.window import WindowAttention

CacheDtype = Literal["model", "int8"]
PositionKind = Literal["rotary", "none"]

FUSED = ("flash", "cudnn", "fa3")
"""PyTorch's fused attention kernels that a configuration may insist on, see :mod:`models.sdpa`."""


@register("transformer")
@dataclass(frozen=True)
class TransformerConfig(GroupedHeadsConfig):
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
        positions: ``rotary``, or ``none``: the causal mask alone tells the order then (Haviv et al.
            2022, arXiv 2203.16634). The paper does not say what its Transformer has.
    """

    implementations: ClassVar[tuple[str, ...]] = ("auto", "torch", "triton", "math", *FUSED)

    n_kv_heads: int = 0
    cache_dtype: CacheDtype = "model"
    positions: PositionKind = "rotary"

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """As many heads of the preset's ``head_dim`` as fit."""
        return max(1, d_model // preset.head_dim)

    def check(self) -> None:
        """Settle ``n_kv_heads``; raise ConfigError for heads that cannot be."""
        self._check_kv_heads()
        if self.head_dim % 2:
            raise ConfigError(f"{self.family} needs an even d_model / n_heads, not {self.head_dim}")
        self._check_choices(cache_dtype=CacheDtype, positions=PositionKind)
        reason = too_large(self.head_dim, self.group)
        if self.cache_dtype == "int8":
            reason = "its step reads no int8 cache"
        if self.implementation == "triton" and reason:
            raise ConfigError(f"implementation triton: {reason}")

    def mixer(self) -> Attention:
        """A new mixer."""
        from models.mixers.multihead import Attention

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
        return {"math": self.reference()} | {name: {"implementation": name} for name in FUSED}

    def reference(self) -> dict[str, Any]:
        """The scores as a matrix, their softmax, and its product with the values."""
        return {"implementation": "math"}

    def mixer_operands(self) -> int:
        """Queries: keys and values are the state."""
        return self.d_model

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
        return {name: {"implementation": name} for name in FUSED}

    def default_kv_heads(self) -> int:
        """A KV head for four query heads."""
        if self.n_heads % 4:
            raise ConfigError(f"transformer-gqa needs n_heads in fours, not {self.n_heads}")
        return self.n_heads // 4


@register("transformer-gqa-8bit-cache")
@dataclass(frozen=True)
class NarrowCacheConfig(GroupedQueryConfig):
    """Grouped queries over a cache in 8 bits, a float32 scale for each token and head."""

    cache_dtype: CacheDtype = "int8"


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


@register("transformer-window")
@dataclass(frozen=True)
class WindowConfig(TransformerConfig):
    """Multi-head attention over a window.

    Attributes:
        window: tokens that a token sees, itself included; 0 means twice the preset's d_k of
            retention: a 16-bit cache of them is as large as a RetNet's float32 state.
    """

    implementations: ClassVar[tuple[str, ...]] = ("auto", "torch", "math")

    window: int = 0

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> Self:
        """As any family's; the window follows from the preset unless it is given."""
        if preset in PRESETS and not overrides.get("window"):
            overrides["window"] = 2 * PRESETS[preset].retention_dim
        return super().from_preset(preset, **overrides)

    def check(self) -> None:
        """Check the window."""
        super().check()
        if self.window < 1:
            raise ConfigError(f"window must be at least 1, not {self.window}")

    def variants(self) -> dict[str, dict[str, Any]]:
        """None: the paper's baseline is the multi-head model."""
        return {}

    def mixer(self) -> WindowAttention:
        """A new mixer."""
        from models.mixers.window import WindowAttention

        return WindowAttention(self)

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """Scores and weighted sum over the pairs that lie within the window."""
        growing = max(0, min(tokens, self.window - context))  # tokens that still see all before
        pairs = growing * context + growing * (growing + 1) // 2
        return (pairs + (tokens - growing) * self.window) * 4 * self.d_model

    def mixer_hardware_flops(self, tokens: int) -> int:
        """The first window as a whole, then two windows of keys for each run of queries."""
        if tokens <= self.window:
            return super().mixer_hardware_flops(tokens)
        runs = -(-tokens // self.window) - 1
        first = super().mixer_hardware_flops(self.window)
        return first + runs * 2 * self.window**2 * 4 * self.d_model

    def mixer_operands(self) -> int:
        """Queries, keys and values: the state holds those of the window alone."""
        return self.d_model + 2 * self.kv_dim

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """Keys and values of the window."""
        return super().mixer_state_bytes(batch_size, min(context, self.window), dtype_bytes)


@register("transformer-paper")
@dataclass(frozen=True)
class PaperConfig(TransformerConfig):
    """Multi-head attention, unfused, over a cache that grows by concatenation."""

    implementations: ClassVar[tuple[str, ...]] = ("auto",)
    static_state: ClassVar[bool] = False

    def check(self) -> None:
        """As any Transformer; raise ConfigError for queries that share a KV head."""
        super().check()
        if self.group != 1:
            raise ConfigError(f"{self.family} has as many n_kv_heads as n_heads, {self.n_heads}")
        if self.cache_dtype != "model":
            raise ConfigError(f"{self.family} has no cache_dtype {self.cache_dtype}")

    def variants(self) -> dict[str, dict[str, Any]]:
        """None: it is one itself."""
        return {}

    def reference(self) -> dict[str, Any]:
        """None: it computes as its formula says."""
        return {}

    def mixer(self) -> PaperAttention:
        """A new mixer."""
        from models.mixers.paper import PaperAttention

        return PaperAttention(self)

    def mixer_hardware_flops(self, tokens: int) -> int:
        """All pairs, masked ones too: the scores are a whole product."""
        return tokens**2 * 4 * self.d_model

    def mixer_step_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """The old cache is read, the new one written, and read by the attention."""
        return 3 * self.mixer_state_bytes(batch_size, context, dtype_bytes)
