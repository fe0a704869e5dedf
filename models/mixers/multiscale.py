"""The mixer of a RetNet: multi-scale retention (Sun et al. 2023, arXiv 2307.08621, eqs. 8, 9)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.footprint import Phase
from models.gated_norm import gated_rms_norm
from models.kernels.chunk_op import retention_chunk, unsupported
from models.kernels.gated_norm_op import fused_gated_norm
from models.kernels.step_op import fused_retention
from models.layers import Rotary, rms_norm, rotate
from models.mixers.base import MatrixState, Mixer, Span, in_triton
from models.protocol import LayerState
from models.retention import (
    decay_sums,
    log_decays,
    retention_chunkwise,
    retention_parallel,
    retention_recurrent,
    retention_step,
)

if TYPE_CHECKING:
    from models.family.retnet import RetNetConfig


@dataclass(frozen=True)
class _Shared:
    """What all layers need of the positions: rotary angles (2, 1, time, d_k), decays, the form.

    ``scale``, (heads, time, 1), multiplies the output where no norm does. ``in_triton`` says
    whether Triton's kernels compute the chunkwise form, the gated norm and the decode step.
    """

    cos: Tensor
    sin: Tensor
    gamma: Tensor
    scale: Tensor | None
    form: str
    in_triton: bool


class MultiScaleRetention(Mixer):
    """(silu(x W_G) * norm(retention(x W_Q, x W_K, x W_V))) W_O (eqs. 8 and 9).

    The norm is an RMSNorm per head in float32, without weights or with a gain that all heads share:
    the paper's group norm up to its mean. Queries and keys are rotated; keys carry the one scale
    d_k^-0.5.
    """

    forms = ("chunkwise", "parallel", "recurrent")

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.rotary = Rotary(config.d_k, config.rope_base)
        # One matrix for queries, keys, values and gate: one product over the same input.
        width = (3 if config.gate else 1) * d + 3 * config.kv_dim
        self.qkvg = nn.Linear(d, width, bias=False)
        self.out = nn.Linear(2 * d, d, bias=False)
        self.gain = nn.Parameter(torch.ones(config.d_v)) if config.norm_gain else None
        # Kept as their bits, so that .to(bfloat16) moves the decays but does not round them.
        log_gamma = log_decays(config.n_kv_heads, config.decay)
        self.register_buffer("log_gamma_bits", log_gamma.view(torch.int64), persistent=False)
        bits = log_gamma.exp().float().view(torch.int32)
        self.register_buffer("gamma_bits", bits, persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """As the configuration's ``init`` says: as the skeleton did, or as torchscale does."""
        if self.config.init == "torchscale":
            d, keys = self.config.d_model, self.config.kv_dim
            widths = [d, keys, 2 * keys] + [2 * d] * self.config.gate
            for matrix in self.qkvg.weight.split(widths):
                nn.init.xavier_uniform_(matrix, 2**-2.5, generator)
            nn.init.xavier_uniform_(self.out.weight, 2**-1, generator)

    @property
    def log_gamma(self) -> Tensor:
        """Logarithms of the KV heads' decays, (KV heads,) float64."""
        return self.log_gamma_bits.view(torch.float64)  # type: ignore[operator]

    def _gamma(self, dtype: torch.dtype) -> Tensor:
        """The KV heads' decays, (KV heads,), in float32 without any work, or in float64."""
        if dtype == torch.float64:
            return self.log_gamma.exp()
        return self.gamma_bits.view(torch.float32)  # type: ignore[operator]

    def prepare(self, span: Span, state: LayerState | None) -> _Shared:
        """Rotary angles and decays in the type that the state is kept in."""
        wide = torch.promote_types(self.out.weight.dtype, torch.float32)
        angles = self.rotary(span.positions, wide)
        # Queries in the first row; keys in the second, with their scale.
        cos, sin = torch.stack((angles, angles * self.config.d_k**-0.5), dim=1)[:, :, None]
        gamma = self._gamma(wide)[:, None, None]
        scale = None
        if not self.config.group_norm:
            sums = decay_sums(self.log_gamma, span.positions)
            scale = self._for_queries(sums.rsqrt().to(wide), 0)[..., None]
        form = span.form or self.config.form
        return _Shared(cos, sin, gamma, scale, form, self._in_triton())

    def forward(self, x: Tensor, shared: _Shared) -> Tensor:
        """Mix a whole sequence in the chosen form."""
        q, k, v, gate = self._project(x, shared)
        mixed, _ = self._retain(q, k, v, shared, None)
        return self._output(mixed, gate, shared)

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> MatrixState:
        """Zeros; the same size for any ``max_len``."""
        c = self.config
        if c.state_dtype == "float32" and dtype != torch.float64:
            dtype = torch.float32
        shape = (batch_size, c.n_kv_heads, c.d_k, c.d_v)
        return MatrixState(torch.zeros(shape, device=device, dtype=dtype))

    def prefill(self, x: Tensor, shared: _Shared, state: LayerState) -> Tensor:
        """Mix tokens after those in the state, chunk by chunk."""
        assert isinstance(state, MatrixState)
        q, k, v, gate = self._project(x, shared)
        wide = state.matrices.to(shared.gamma.dtype)
        mixed, matrices = self._retain(q, k, v, shared, wide)
        state.matrices.copy_(matrices)
        return self._output(mixed, gate, shared)

    def step(self, x: Tensor, shared: _Shared, state: LayerState) -> Tensor:
        """Mix one token by the recurrence."""
        assert isinstance(state, MatrixState)
        if shared.in_triton:
            mixed = fused_retention(
                self.qkvg(x).flatten(1), shared.cos, shared.sin, shared.gamma, shared.scale,
                state.matrices, self.config.n_heads, self.config.norm_eps,
            )  # fmt: skip
            return self._projected(mixed[:, None])
        q, k, v, gate = self._project(x, shared)
        # Query heads of one KV head are as many queries to its state.
        grouped = q.view(q.shape[0], self.config.n_kv_heads, -1, self.config.d_k)
        mixed = retention_step(grouped, k, v, shared.gamma, state.matrices)
        mixed = mixed.view(*q.shape[:-1], self.config.d_v)
        return self._output(mixed, gate, shared)

    def implementation(self, phase: Phase) -> str:
        """The recurrence for decoding, else the form; PyTorch's chunkwise one with its chunk."""
        in_triton = self._in_triton()
        if phase == "decode":
            return "recurrent-triton" if in_triton else "recurrent"
        if self.config.form == "parallel":
            return "parallel"
        if in_triton:
            return "chunkwise-triton"  # its chunk follows from the type of what it is given
        return f"chunkwise-{self.config.chunk_size}"

    def _in_triton(self) -> bool:
        """Whether Triton's kernels are used; see :func:`models.mixers.base.in_triton`."""
        c = self.config
        return in_triton(c.implementation, self.out.weight, partial(unsupported, c.d_k, c.d_v))

    def _project(self, x: Tensor, shared: _Shared) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries (batch, heads, time, d_k); of KV heads keys, values; gate (batch, time, 2 d)."""
        c, (batch, time, d) = self.config, x.shape
        widths = [d + c.kv_dim, 2 * c.kv_dim] + ([2 * d] if c.gate else [])
        qk, v, *gate = self.qkvg(x).split_with_sizes(widths, -1)
        if c.group == 1:  # queries and keys are rotated as one tensor
            qk = qk.view(batch, time, 2, c.n_heads, c.d_k).movedim(1, 3)
            q, k = rotate(qk, shared.cos, shared.sin).unbind(1)
        else:
            parts = qk.view(batch, time, -1, c.d_k).transpose(1, 2)
            parts = parts.split_with_sizes([c.n_heads, c.n_kv_heads], 1)
            q, k = (rotate(*each) for each in zip(parts, shared.cos, shared.sin, strict=True))
        v = v.view(batch, time, c.n_kv_heads, c.d_v).transpose(1, 2)
        return q, k, v, gate[0] if gate else None

    def _retain(
        self, q: Tensor, k: Tensor, v: Tensor, shared: _Shared, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Retention of a sequence by its form; each KV head's state is its first query head's."""
        log_gamma, group = self._for_queries(self.log_gamma, 0), self.config.group
        k, v = self._for_queries(k, 1), self._for_queries(v, 1)
        state = None if state is None else self._for_queries(state, 1)
        if shared.form == "parallel":
            mixed, matrices = retention_parallel(q, k, v, log_gamma, state)
        elif shared.form == "recurrent":
            mixed, matrices = retention_recurrent(q, k, v, log_gamma, state)
        elif shared.in_triton:
            mixed, matrices = retention_chunk(q, k, v, log_gamma, state)
        else:
            size = self.config.chunk_size
            mixed, matrices = retention_chunkwise(q, k, v, log_gamma, size, state)
        return mixed, matrices if group == 1 else matrices[:, ::group]

    def _for_queries(self, x: Tensor, dim: int) -> Tensor:
        """What KV heads have along a dimension, repeated for the query heads of each."""
        group = self.config.group
        return x if group == 1 else x.repeat_interleave(group, dim)

    def _output(self, mixed: Tensor, gate: Tensor | None, shared: _Shared) -> Tensor:
        """Norm per head in the wide type, gate, and project back to the model's width."""
        scale = shared.scale
        if scale is not None:
            mixed = mixed * scale
        # By token before the norm: so lie what the kernels wrote, and a fused norm need not copy.
        mixed = mixed.transpose(1, 2)
        if scale is None and gate is not None:
            fused = shared.in_triton and shared.form == "chunkwise"
            joined = (fused_gated_norm if fused else gated_rms_norm)(
                mixed, gate.view(mixed.shape), self.config.norm_eps
            )
            return self._projected(joined.flatten(-2))
        normed = mixed if scale is not None else rms_norm(mixed, self.config.norm_eps)
        if gate is None:
            return self._projected(normed.flatten(-2).to(self.out.weight.dtype))
        return self._projected(F.silu(gate) * normed.flatten(-2).to(gate.dtype))

    def _projected(self, joined: Tensor) -> Tensor:
        """Heads side by side (batch, time, heads x d_v), gated, times the gain, to the width."""
        if self.gain is not None:  # behind the gate, whose product is the same in any order
            joined = joined * self.gain.repeat(self.config.n_heads)
        return self.out(joined)  # type: ignore[no-any-return]
