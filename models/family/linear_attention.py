"""Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236), a linear Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.config import ConfigError
from models.costs import chunkwise_flops, retention_flops
from models.family.decoder import DecoderConfig
from models.presets import Preset
from models.registry import register

if TYPE_CHECKING:
    from models.mixers.linear_attention import LinearAttention


@register("linear-attention")
@dataclass(frozen=True)
class LinearAttentionConfig(DecoderConfig):
    """Attention's heads and its 4 d_model^2 parameters, the softmax replaced by a feature map.

    Attributes:
        chunk_size: tokens of a chunk in the chunkwise form; changes speed, not the function.
    """

    chunk_size: int = 128

    rewrites_state: ClassVar[bool] = True

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """As many heads of the preset's ``head_dim`` as fit."""
        return max(1, d_model // preset.head_dim)

    def check(self) -> None:
        """Raise ConfigError for an odd head dimension or an empty chunk."""
        if self.head_dim % 2:
            raise ConfigError(f"{self.family} needs an even d_model / n_heads, not {self.head_dim}")
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, not {self.chunk_size}")

    @property
    def head_dim(self) -> int:
        """Dimension of a head's queries, keys and values."""
        return self.d_model // self.n_heads

    def mixer(self) -> LinearAttention:
        """A new mixer."""
        from models.mixers.linear_attention import LinearAttention

        return LinearAttention(self)

    def mixer_parameters(self) -> int:
        """q, k, v, out: d^2 each."""
        return 4 * self.d_model**2

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """The cheapest form's, recurrent for one token; the normaliser's sums left out."""
        return self.n_heads * retention_flops(tokens, self.head_dim, self.head_dim)

    def mixer_hardware_flops(self, tokens: int) -> int:
        """All pairs of each chunk, and its states."""
        d = self.head_dim
        return self.n_heads * chunkwise_flops(tokens, self.chunk_size, d, d)

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """A matrix and a vector a head in float32 (float64 in a float64 model), at any context."""
        numbers = self.n_heads * self.head_dim * (self.head_dim + 1)
        return batch_size * numbers * max(4, dtype_bytes)
