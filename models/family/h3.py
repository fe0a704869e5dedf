"""H3: two state space models between three projections (Fu et al. 2022, arXiv 2212.14052)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.config import ConfigError
from models.costs import fft_length
from models.family.decoder import DecoderConfig
from models.presets import Preset
from models.registry import register

if TYPE_CHECKING:
    from models.mixers.h3 import H3


@register("h3")
@dataclass(frozen=True)
class H3Config(DecoderConfig):
    """Projections of 4 d_model^2, and a shift and a diagonal state space model.

    A head of dimension n multiplies keys and values to n^2 series. ``head_dim`` times ``d_state``
    is the size of the state per channel; the presets' heads make that RetNet's.

    Attributes:
        d_state: numbers in the state of a series, those of the diagonal model in complex pairs.
    """

    d_state: int = 64

    rewrites_state: ClassVar[bool] = True

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """Heads whose state is RetNet's, 2 ``retention_dim`` numbers a channel at d_state 64."""
        return max(1, d_model // max(1, preset.retention_dim // 32))

    def check(self) -> None:
        """Raise ConfigError for a state that is not made of pairs."""
        if self.d_state < 2 or self.d_state % 2:
            raise ConfigError(f"d_state must be even and at least 2, not {self.d_state}")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.d_model // self.n_heads

    def mixer(self) -> H3:
        """A new mixer."""
        from models.mixers.h3 import H3

        return H3(self)

    def mixer_parameters(self) -> int:
        """q, k, v, out: d^2 each; and the two systems' own."""
        return 4 * self.d_model**2 + self.mixer_vectors()

    def mixer_vectors(self) -> int:
        """Filter and skip of each channel; poles, output weights, step and skip of each head."""
        return self.d_model * (self.d_state + 1) + self.n_heads * (2 * self.d_state + 2)

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """Fourier transforms for a sequence, recurrences for one token.

        A real transform of n is taken as 5/2 n log2 n, the product of two spectra as 3 n. What
        depends on parameters alone (the kernels and their spectra) serves a whole batch and is
        left out; a step's complex pair costs 14.
        """
        channels, series = self.d_model, self.d_model * self.head_dim
        if tokens == 1:
            return channels * 2 * self.d_state + series * 7 * self.d_state
        short = fft_length(tokens + min(tokens, self.d_state) - 1)
        long = fft_length(2 * tokens - 1)
        return round(channels * _convolution_flops(short) + series * _convolution_flops(long))

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """``d_state`` numbers a channel and a series in float32 (or float64), at any context."""
        series = self.d_model * (1 + self.head_dim)
        return batch_size * series * self.d_state * max(4, dtype_bytes)


def _convolution_flops(n: int) -> float:
    return 5 * n * math.log2(n) + 3 * n
