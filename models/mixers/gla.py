"""Gated linear attention: decays that depend on the data (Yang et al. 2023, arXiv 2312.06635)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.footprint import Phase
from models.gated_norm import gated_rms_norm
from models.mixers.base import MatrixState, Mixer, Span
from models.protocol import LayerState

if TYPE_CHECKING:
    from models.family.gla import GatedLinearAttentionConfig


class GatedLinearAttention(Mixer):
    """(silu(x W_G) * norm(gla(x W_Q, x W_K, x W_V, alpha))) W_O (section 4.4 of the paper).

    alpha = sigmoid(x W_1 W_2 + b)^(1/temperature) for each key channel, kept as its logarithm in
    float32. The norm is an RMSNorm per head without affine weights, and only the decays have a
    bias, as in RetNet here. Positions are not rotated: the decays give the order.
    """

    forms = ("chunkwise", "recurrent")

    def __init__(self, config: GatedLinearAttentionConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        # One product over the same input: queries, keys, values, gate, and the decays' thin half.
        self.sizes = [d // 2, d // 2, d, d, config.gate_rank]
        self.qkvg = nn.Linear(d, sum(self.sizes), bias=False)
        self.decay = nn.Linear(config.gate_rank, d // 2)
        nn.init.zeros_(self.decay.bias)
        self.out = nn.Linear(d, d, bias=False)

    def prepare(self, span: Span, state: LayerState | None) -> str:
        """The form in which a sequence is mixed."""
        return span.form or self.forms[0]

    def forward(self, x: Tensor, shared: str) -> Tensor:
        """Mix a whole sequence in the chosen form."""
        q, k, v, log_decay, gate = self._project(x)
        if shared == "recurrent":
            mixed, _ = gated_recurrent(q, k, v, log_decay)
        else:
            mixed, _ = gated_chunkwise(q, k, v, log_decay, self.config.chunk_size)
        return self._output(mixed, gate)

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> MatrixState:
        """Zeros; the same size for any ``max_len``."""
        c = self.config
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch_size, c.n_heads, c.d_k, c.d_v)
        return MatrixState(torch.zeros(shape, device=device, dtype=wide))

    def prefill(self, x: Tensor, shared: str, state: LayerState) -> Tensor:
        """Mix tokens after those in the state, chunk by chunk."""
        assert isinstance(state, MatrixState)
        q, k, v, log_decay, gate = self._project(x)
        before = state.matrices.to(log_decay.dtype)
        mixed, after = gated_chunkwise(q, k, v, log_decay, self.config.chunk_size, before)
        state.matrices.copy_(after)
        return self._output(mixed, gate)

    def step(self, x: Tensor, shared: str, state: LayerState) -> Tensor:
        """Mix one token by the recurrence."""
        assert isinstance(state, MatrixState)
        q, k, v, log_decay, gate = self._project(x)
        return self._output(gated_step(q, k, v, log_decay, state.matrices), gate)

    def implementation(self, phase: Phase) -> str:
        """The recurrence for decoding, else the chunkwise form and its chunk size."""
        return "recurrent" if phase == "decode" else f"chunkwise-{self.config.chunk_size}"

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values, log decays (batch, heads, time, d_k or d_v), and the gate."""
        c = self.config
        q, k, v, gate, thin = self.qkvg(x).split_with_sizes(self.sizes, -1)
        logits = self.decay(thin)
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_decay = F.logsigmoid(logits.to(wide)) / c.gate_temperature
        q, k, v, log_decay = (
            torch.unflatten(y, -1, (c.n_heads, -1)).transpose(1, 2)
            for y in (q * c.d_k**-0.5, k, v, log_decay)
        )
        return q, k, v, log_decay, gate

    def _output(self, mixed: Tensor, gate: Tensor) -> Tensor:
        """Norm per head in the wide type, gate, and project back to the model's width."""
        mixed = mixed.transpose(1, 2)
        joined = gated_rms_norm(mixed, gate.view(mixed.shape), self.config.norm_eps).flatten(-2)
        return self.out(joined)  # type: ignore[no-any-return]


# The operation: S_n = diag(alpha_n) S_{n-1} + k_n^T v_n, o_n = q_n S_n (eq. 3 of the paper).
# Shapes: q, k, log_decay (batch, heads, time, d_k), v (batch, heads, time, d_v), state (batch,
# heads, d_k, d_v). log_decay = ln alpha <= 0 is float32 or float64, and so are outputs and states.


def gated_recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The operation token by token, as it is defined: the reference for the other forms.

    Returns:
        The output (batch, heads, time, d_v) and the state after the last token.
    """
    q, k, v = (x.to(log_decay.dtype) for x in (q, k, v))
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outs = []
    for q_n, k_n, v_n, log_n in zip(*(x.unbind(2) for x in (q, k, v, log_decay)), strict=True):
        state = log_n.exp()[..., None] * state + k_n[..., None] * v_n[..., None, :]
        outs.append(q_n[..., None, :] @ state)
    return torch.cat(outs, dim=-2), state


def gated_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> Tensor:
    """One token of :func:`gated_recurrent`, updating the state in place.

    Returns:
        (batch, heads, 1, d_v), of the state's type.
    """
    q, k, v = (x.to(state.dtype) for x in (q, k, v))
    state.mul_(log_decay.exp().transpose(-1, -2)).addcmul_(k.transpose(-1, -2), v)
    return q @ state


def gated_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    chunk_size: int,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The operation in chunks, linear in time: products inside, the state across.

    Args:
        q: (batch, heads, time, d_k).
        k: (batch, heads, time, d_k).
        v: (batch, heads, time, d_v).
        log_decay: (batch, heads, time, d_k).
        chunk_size: a power of two.
        state: the state before the first token, (batch, heads, d_k, d_v); zeros where None.

    Returns:
        As :func:`gated_recurrent`.
    """
    time, wide = q.shape[-2], log_decay.dtype
    size = min(chunk_size, 1 << (time - 1).bit_length())
    if missing := -time % size:
        # Tokens that add nothing and forget nothing.
        q, k, v, log_decay = (F.pad(x, (0, 0, 0, missing)) for x in (q, k, v, log_decay))
    q, k, v, log_decay = (torch.unflatten(x, -2, (-1, size)) for x in (q, k, v, log_decay))
    product_type = torch.float32 if v.dtype == torch.float16 else v.dtype
    v = v.to(product_type)
    scores, to_start, to_end = _scores(q.to(wide), k.to(wide), log_decay, product_type)
    added = ((k * to_end).to(product_type).transpose(-1, -2) @ v).to(wide)
    before, final = _scan(added, to_start[..., -1, :, None], state)
    out = scores @ v + (q * to_start).to(product_type) @ before.to(product_type)
    return out.to(wide).flatten(2, 3)[:, :, :time], final


def _scores(
    q: Tensor, k: Tensor, log_decay: Tensor, product_type: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Decayed scores inside chunks: sum_c q_ic k_jc exp(sum of log_decay_c from j + 1 to i).

    The paper's secondary chunking (section 4.3) carried to the end: blocks of one position are
    joined two by two, the later one's queries decayed back to the border between them and the
    earlier one's keys on to it. So every exponent is a sum of logarithms over just the tokens
    between two positions: none is positive, and none is a difference of large sums that would
    lose its digits behind a gate that closed.

    Args:
        q: (..., size, d_k), in the type of ``log_decay``.
        k: shaped like ``q``.
        log_decay: logarithms of the decays, shaped like ``q``.
        product_type: the type that the matrix products are taken in.

    Returns:
        Scores (..., size, size), zero above the diagonal; the decays from the chunk's start up to
        and with each position, and those after it up to the chunk's end, both (..., size, d_k).
    """
    scores = (q * k).sum(-1)[..., None, None].to(product_type)
    prefix, suffix = log_decay, torch.zeros_like(log_decay)
    width = 1
    while width < q.shape[-2]:

        def halves(x: Tensor, width: int = width) -> tuple[Tensor, Tensor]:
            first, second = torch.unflatten(x, -2, (-1, 2, width)).unbind(-3)
            return first, second

        (up_to, then_up_to), (after, then_after) = halves(prefix), halves(suffix)
        queries = (halves(q)[1] * then_up_to.exp()).to(product_type)
        keys = (halves(k)[0] * after.exp()).to(product_type)
        early, late = torch.unflatten(scores, -3, (-1, 2)).unbind(-3)
        lower = torch.cat((queries @ keys.transpose(-1, -2), late), dim=-1)
        scores = torch.cat((F.pad(early, (0, width)), lower), dim=-2)
        first, second = up_to[..., -1:, :], then_up_to[..., -1:, :]
        prefix = torch.stack((up_to, then_up_to + first), dim=-3).flatten(-4, -2)
        suffix = torch.stack((after + second, then_after), dim=-3).flatten(-4, -2)
        width *= 2
    return scores.squeeze(-3), prefix.exp(), suffix.exp()


def _scan(added: Tensor, decays: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states before each chunk and after the last, S_{c+1} = decays_c S_c + added_c.

    Args:
        added: what each chunk adds, (batch, heads, chunks, d_k, d_v).
        decays: the decays of whole chunks, (batch, heads, chunks, d_k, 1).
        state: the state before the first chunk; zeros where None.
    """
    if state is None:
        state = torch.zeros_like(added[:, :, 0])
    before = []
    for decay, more in zip(decays.unbind(2), added.unbind(2), strict=True):
        before.append(state)
        state = torch.addcmul(more, decay, state)
    return torch.stack(before, dim=2), state
