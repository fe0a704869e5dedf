"""Gated linear attention: decays that depend on the data (Yang et al. 2023, arXiv 2312.06635)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.config import ConfigError
from models.costs import chunk_pairs, chunkwise_flops, retention_flops
from models.family.decoder import DecoderConfig
from models.presets import Preset
from models.registry import register

if TYPE_CHECKING:
    from models.mixers.gla import GatedLinearAttention


@register("gla")
@dataclass(frozen=True)
class GatedLinearAttentionConfig(DecoderConfig):
    """The paper's proportions: keys half as wide as values, so a mixer holds about 4 d_model^2.

    Attributes:
        chunk_size: tokens of a chunk, a power of two; changes speed, not the function.
        gate_rank: rank of the projection that the decays come from.
        gate_temperature: divides the decays' logarithms, so that the gates begin near 1.
    """

    chunk_size: int = 64
    gate_rank: int = 16
    gate_temperature: float = 16.0

    rewrites_state: ClassVar[bool] = True

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """As many heads with d_k = ``retention_dim`` as fit: four at 1.3b, as in the paper."""
        return max(1, d_model // (2 * preset.retention_dim))

    def check(self) -> None:
        """Raise ConfigError for an odd head, a chunk of no power of two or an impossible gate."""
        if self.d_v % 2:
            raise ConfigError(f"gla needs an even d_model / n_heads, not {self.d_v}")
        if self.chunk_size < 1 or self.chunk_size & (self.chunk_size - 1):
            raise ConfigError(f"chunk_size of gla must be a power of two, not {self.chunk_size}")
        if self.gate_rank < 1:
            raise ConfigError(f"gate_rank must be at least 1, not {self.gate_rank}")
        if not self.gate_temperature > 0:
            raise ConfigError(f"gate_temperature must be above 0, not {self.gate_temperature}")

    @property
    def d_k(self) -> int:
        """Dimension of a head's queries, keys and decays."""
        return self.d_v // 2

    @property
    def d_v(self) -> int:
        """Dimension of a head's values."""
        return self.d_model // self.n_heads

    def mixer(self) -> GatedLinearAttention:
        """A new mixer."""
        from models.mixers.gla import GatedLinearAttention

        return GatedLinearAttention(self)

    def mixer_parameters(self) -> int:
        """q, k: d^2 / 2 each; v, gate, out: d^2 each; the decays' two thin matrices and bias."""
        d = self.d_model
        return 4 * d**2 + self.gate_rank * (d + d // 2) + self.mixer_vectors()

    def mixer_vectors(self) -> int:
        """The bias of the decays."""
        return self.d_model // 2

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """The cheapest form's, recurrent for one token; independent of the context."""
        return self.n_heads * retention_flops(tokens, self.d_k, self.d_v)

    def mixer_hardware_flops(self, tokens: int) -> int:
        """All pairs of each chunk, less the scores above the diagonal, and its states."""
        masked = (chunk_pairs(tokens, self.chunk_size) - tokens) // 2
        dense = chunkwise_flops(tokens, self.chunk_size, self.d_k, self.d_v)
        return self.n_heads * (dense - masked * 2 * self.d_k)

    def mixer_operands(self) -> int:
        """q, k and decays: d / 2 each; v: d."""
        return 5 * self.d_model // 2

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """Heads x d_k x d_v numbers in float32 (float64 in a float64 model), at any context."""
        return batch_size * self.n_heads * self.d_k * self.d_v * max(4, dtype_bytes)
