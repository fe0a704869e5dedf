"""Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236), a linear Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.footprint import Phase
from models.layers import Rotary, rotate
from models.mixers.base import Mixer, Span
from models.protocol import LayerState
from models.retention import (
    retention_chunkwise,
    retention_parallel,
    retention_recurrent,
    retention_step,
)

if TYPE_CHECKING:
    from models.family.linear_attention import LinearAttentionConfig


@dataclass
class LinearAttentionState(LayerState):
    """Sums over all tokens so far, float32 or float64.

    Attributes:
        matrices: sums of phi(k)^T v with rotated keys, (batch, heads, head_dim, head_dim).
        normalisers: sums of phi(k), (batch, heads, head_dim).
    """

    matrices: Tensor
    normalisers: Tensor


@dataclass(frozen=True)
class _Shared:
    """What all layers need of the positions: rotary angles, logarithms of no decay, the form."""

    cos: Tensor
    sin: Tensor
    log_gamma: Tensor
    form: str


@dataclass(frozen=True)
class _Features:
    """Features of queries and keys, plain (for the normaliser) and rotated, and the values."""

    q: Tensor
    k: Tensor
    q_rotated: Tensor
    k_rotated: Tensor
    v: Tensor


class LinearAttention(Mixer):
    """o_n = R_n phi(q_n) sum_m (R_m phi(k_m))^T v_m / phi(q_n) sum_m phi(k_m)^T, over m <= n.

    With phi = elu + 1 (Katharopoulos et al., eqs. 7 and 9). Positions are the rotary ones that the
    other models have, in the numerator alone so that the weights' sum stays positive (Su et al.
    2021, arXiv 2104.09864, eq. 19). The numerator is retention without decay.
    """

    forms = ("chunkwise", "parallel", "recurrent")

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config.head_dim, config.rope_base)
        # One matrix for queries, keys and values: one product over the same input.
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def prepare(self, span: Span, state: LayerState | None) -> _Shared:
        """Rotary angles in the type that the state is kept in."""
        weight = self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        cos, sin = self.rotary(span.positions, wide)
        no_decay = torch.zeros(self.config.n_heads, dtype=torch.float64, device=weight.device)
        return _Shared(cos, sin, no_decay, span.form or self.forms[0])

    def forward(self, x: Tensor, shared: _Shared) -> Tensor:
        """Mix a whole sequence in the chosen form."""
        f = self._project(x, shared)
        mixed, _ = self._numerator(f, shared, None)
        return self._output(mixed, f.q, f.k.cumsum(-2), x.dtype)

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> LinearAttentionState:
        """Zeros; the same size for any ``max_len``."""
        c = self.config
        wide = torch.promote_types(dtype, torch.float32)
        vectors = torch.zeros(batch_size, c.n_heads, c.head_dim, device=device, dtype=wide)
        return LinearAttentionState(vectors[..., None].repeat(1, 1, 1, c.head_dim), vectors)

    def prefill(self, x: Tensor, shared: _Shared, state: LayerState) -> Tensor:
        """Mix tokens after those in the state, chunk by chunk."""
        assert isinstance(state, LinearAttentionState)
        f = self._project(x, shared)
        mixed, matrices = self._numerator(f, shared, state.matrices.to(f.q.dtype))
        sums = f.k.cumsum(-2) + state.normalisers[:, :, None].to(f.q.dtype)
        state.matrices.copy_(matrices)
        state.normalisers.copy_(sums[:, :, -1])
        return self._output(mixed, f.q, sums, x.dtype)

    def step(self, x: Tensor, shared: _Shared, state: LayerState) -> Tensor:
        """Mix one token by the recurrence."""
        assert isinstance(state, LinearAttentionState)
        f = self._project(x, shared)
        keep_all = torch.ones_like(state.matrices[0, :, :1, :1])
        mixed = retention_step(f.q_rotated, f.k_rotated, f.v, keep_all, state.matrices)
        sums = state.normalisers.add_(f.k.squeeze(-2))
        return self._output(mixed, f.q, sums[:, :, None], x.dtype)

    def implementation(self, phase: Phase) -> str:
        """The recurrence for decoding, else the chunkwise form and its chunk size."""
        return "recurrent" if phase == "decode" else f"chunkwise-{self.config.chunk_size}"

    def _project(self, x: Tensor, shared: _Shared) -> _Features:
        """Features in the wide type; rotated ones and values, for the products, in that of x."""
        c, (batch, time, d) = self.config, x.shape
        qk, v = self.qkv(x).split_with_sizes([2 * d, d], -1)
        qk = qk.view(batch, time, 2, c.n_heads, c.head_dim).movedim(1, 3)
        features = feature_map(qk.to(shared.cos.dtype))
        rotated = rotate(features, shared.cos, shared.sin).to(v.dtype)
        v = v.view(batch, time, c.n_heads, c.head_dim).transpose(1, 2)
        (q, k), (q_rotated, k_rotated) = features.unbind(1), rotated.unbind(1)
        return _Features(q, k, q_rotated, k_rotated, v)

    def _numerator(
        self, f: _Features, shared: _Shared, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v, no_decay = f.q_rotated, f.k_rotated, f.v, shared.log_gamma
        if shared.form == "parallel":
            return retention_parallel(q, k, v, no_decay, state)
        if shared.form == "recurrent":
            return retention_recurrent(q, k, v, no_decay, state)
        return retention_chunkwise(q, k, v, no_decay, self.config.chunk_size, state)

    def _output(self, mixed: Tensor, q: Tensor, sums: Tensor, dtype: torch.dtype) -> Tensor:
        """Divide by phi(q) times the sum of phi(k), and project back to the model's width."""
        weights = (q * sums).sum(-1, keepdim=True)
        normed = (mixed / (weights + self.config.norm_eps)).to(dtype)
        return self.out(normed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


def feature_map(x: Tensor) -> Tensor:
    """elu(x) + 1, which is positive: exp(x) below 0 and x + 1 above.

    Written so that exp(x) is not rounded to the precision of 1, as it would be in elu.
    """
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())
