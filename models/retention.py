"""The retention operation as pure functions: parallel, chunkwise, recurrent, one step.

All compute, for each head with decay gamma, from a starting state S_0 (zeros where None)::

    S_n = gamma S_{n-1} + k_n^T v_n          o_n = q_n S_n

(Sun et al. 2023, arXiv 2307.08621, eqs. 5 to 7), with no normaliser: the per-head norm that follows
cancels any positive scale of a row. Shapes: q, k (batch, heads, time, d_k), v (batch, heads, time,
d_v), log_gamma (heads,) float64, state (batch, heads, d_k, d_v). Outputs and states are float32,
or float64 for float64 inputs; decays are computed in float64. Products of bfloat16 inputs run in
bfloat16; float16 inputs are computed in float32, for an unnormalised row can leave float16's range.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from models.family.retnet import DecayKind

SINGLE_DECAY = 127 / 128
"""The one decay of all heads in the paper's ablation (section 3.5)."""

SCAN_RADIX = 16
"""States joined by one matrix product of the scan; any value gives the same result."""


def log_decays(n_heads: int, kind: DecayKind) -> Tensor:
    """Natural logarithms of the heads' decays, float64 of shape (heads,).

    ``language-model``: gamma = 1 - exp(linspace(ln 1/32, ln 1/512, heads)), the same range for any
    number of heads (section 3.1's experiments; yet-another-retnet). ``eq8``: gamma_i =
    1 - 2^(-5-i) (eq. 8; torchscale and fla), whose slowest head forgets the sooner the fewer there
    are. ``log1p`` in float64, because in float32 the latter is exactly 1 from head 20 on. For
    ablations: ``single``, the same for all heads, and ``none``, gamma = 1.
    """
    if kind == "none":
        return torch.zeros(n_heads, dtype=torch.float64)
    if kind == "single":
        return torch.full((n_heads,), math.log(SINGLE_DECAY), dtype=torch.float64)
    if kind == "eq8":
        forgotten = 2.0 ** (-5.0 - torch.arange(n_heads, dtype=torch.float64))
    else:
        ends = torch.tensor([1 / 32, 1 / 512], dtype=torch.float64).log()
        forgotten = torch.linspace(ends[0], ends[1], n_heads, dtype=torch.float64).exp()
    return torch.log1p(-forgotten)


def retention_parallel(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Retention as one masked product, quadratic in time: ((q k^T) * D) v (eq. 5).

    Returns:
        The output (batch, heads, time, d_v) and the state after the last token.
    """
    q, k, v, wide = _operands(q, k, v)
    time = q.shape[-2]
    powers = decay_powers(log_gamma, time + 1, wide)
    mask = _toeplitz(powers[:, :time])
    scores = (q @ k.transpose(-1, -2)) * mask
    out = (scores.to(v.dtype) @ v).to(wide)
    to_end = powers[:, :time].flip(-1)[..., None]
    final = ((k * to_end).to(v.dtype).transpose(-1, -2) @ v).to(wide)
    if state is not None:
        from_start = powers[:, 1:][..., None]
        out = out + (q * from_start).to(wide) @ state
        final = final + powers[:, time, None, None] * state
    return out, final


def retention_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gamma: Tensor,
    chunk_size: int,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Retention in chunks, linear in time: parallel inside, a scan of states across (eq. 7).

    All chunks are one batch of matrix products; only the scan over their states is sequential, in
    logarithmically many products. A last, shorter chunk is computed apart.

    Returns:
        As :func:`retention_parallel`.
    """
    time = q.shape[-2]
    whole = time - time % chunk_size
    if whole == 0:
        return retention_parallel(q, k, v, log_gamma, state)
    if whole < time:
        cut = [whole, time - whole]
        (q, q_tail), (k, k_tail), (v, v_tail) = (torch.split(x, cut, dim=-2) for x in (q, k, v))
        out, state = _whole_chunks(q, k, v, log_gamma, chunk_size, state)
        tail, state = retention_parallel(q_tail, k_tail, v_tail, log_gamma, state)
        return torch.cat((out, tail), dim=-2), state
    return _whole_chunks(q, k, v, log_gamma, chunk_size, state)


def retention_recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Retention token by token, as it is defined (eq. 6): the reference for the other forms.

    Returns:
        As :func:`retention_parallel`.
    """
    q, k, v, wide = _operands(q, k, v)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    gamma = log_gamma.exp().to(wide)[:, None, None]
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outs = []
    for n in range(q.shape[-2]):
        one = slice(n, n + 1)
        state = gamma * state + k[:, :, one].transpose(-1, -2) * v[:, :, one]
        outs.append(q[:, :, one] @ state)
    return torch.cat(outs, dim=-2), state


def retention_step(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, state: Tensor) -> Tensor:
    """One token of :func:`retention_recurrent`, updating the state in place.

    Args:
        q: (batch, heads, queries, d_k): all of the one token.
        k: (batch, heads, 1, d_k).
        v: (batch, heads, 1, d_v).
        gamma: decays, (heads, 1, 1), float32 or float64.
        state: (batch, heads, d_k, d_v) of any type; updated in place. One that is narrower than
            ``gamma`` is computed in the type of that, and rounded once a step.

    Returns:
        (batch, heads, queries, d_v), of the wider of the state's type and that of ``gamma``.
    """
    wide = torch.promote_types(state.dtype, gamma.dtype)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    new = state.mul_(gamma) if state.dtype == wide else state * gamma
    new.addcmul_(k.transpose(-1, -2), v)
    if new is not state:
        state.copy_(new)
    return q @ new


def decay_sums(log_gamma: Tensor, positions: Tensor) -> Tensor:
    """gamma^0 + ... + gamma^n for each head at each position n: (heads, time), float64.

    The sum of a row of D (eq. 5), in closed form, so that all forms agree on it wherever a
    sequence is split.

    Args:
        log_gamma: (heads,) float64.
        positions: (time,) int64, from 0 on.
    """
    terms = (positions + 1).to(torch.float64)
    decayed = torch.expm1(log_gamma[:, None] * terms) / torch.expm1(log_gamma)[:, None]
    return torch.where(log_gamma[:, None] == 0, terms, decayed)


def decay_powers(log_gamma: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """gamma^0 to gamma^(count - 1) for each head: (heads, count) in ``dtype``.

    Powers below float32's normal range are set to zero: they add nothing and slow a CPU down.
    """
    exponents = torch.arange(count, dtype=torch.float64, device=log_gamma.device)
    powers = torch.exp(log_gamma[:, None] * exponents)
    return F.threshold(powers, torch.finfo(torch.float32).tiny, 0.0).to(dtype)


def _whole_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, size: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    q, k, v, wide = _operands(q, k, v)
    q, k, v = (torch.unflatten(x, -2, (-1, size)) for x in (q, k, v))
    powers = decay_powers(log_gamma, size + 1, wide)
    mask = _toeplitz(powers[:, :size])[:, None]
    from_start = powers[:, None, 1:, None]
    to_end = powers[:, None, :size, None].flip(-2)

    added = ((k * to_end).to(v.dtype).transpose(-1, -2) @ v).to(wide)
    before, final = _scan(added, log_gamma * size, state)
    across = (q * from_start).to(v.dtype)
    scores = (q @ k.transpose(-1, -2)).mul_(mask)
    # One fused product and sum: (q k^T * D) v + (q gamma^n) S.
    flat = [x.flatten(0, 2) for x in (scores, v, across, before.to(v.dtype))]
    out = (flat[2] @ flat[3]).baddbmm_(flat[0], flat[1])
    return torch.unflatten(out.to(wide), 0, q.shape[:3]).flatten(2, 3), final


def _scan(added: Tensor, log_decay: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states before each chunk and after the last, S_{c+1} = decay S_c + added_c.

    Groups of ``SCAN_RADIX`` chunks are joined by one product with a small triangular matrix, groups
    of groups likewise: linear work, a logarithmic number of steps.

    Args:
        added: what each chunk adds, (batch, heads, chunks, d_k, d_v).
        log_decay: logarithm of a whole chunk's decay, (heads,) float64.
        state: the state before the first chunk; zeros where None.
    """
    if state is None:
        state = torch.zeros_like(added[:, :, 0])
    chunks = added.shape[2]
    whole = chunks - chunks % SCAN_RADIX if chunks > SCAN_RADIX else 0
    if whole == 0:
        return _scan_group(added, log_decay, state)
    if whole < chunks:
        head, tail = torch.split(added, [whole, chunks - whole], dim=2)
        before_head, state = _scan(head, log_decay, state)
        before_tail, state = _scan_group(tail, log_decay, state)
        return torch.cat((before_head, before_tail), dim=2), state
    groups = torch.unflatten(added, 2, (-1, SCAN_RADIX))
    to_end = decay_powers(log_decay, SCAN_RADIX, added.dtype).flip(-1)
    totals = torch.einsum("hr,bhgrkv->bhgkv", to_end, groups)
    before_groups, final = _scan(totals, log_decay * SCAN_RADIX, state)
    before, _ = _scan_group(groups, log_decay, before_groups)
    return before.flatten(2, 3), final


def _scan_group(added: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_scan` by one product; ``added`` may have further dimensions before the chunks."""
    items = torch.cat((state.unsqueeze(-3), added), dim=-3)
    count = items.shape[-3]
    joined = _toeplitz(decay_powers(log_decay, count, added.dtype))
    if items.ndim == 6:
        joined = joined[:, None]
    states = torch.unflatten(joined @ items.flatten(-2), -1, items.shape[-2:])
    return states[..., :-1, :, :], states[..., -1, :, :]


def _toeplitz(powers: Tensor) -> Tensor:
    """Lower-triangular (heads, n, n) with powers[:, i - j] at (i, j), from (heads, n)."""
    count = powers.shape[-1]
    padded = F.pad(powers.flip(-1), (0, count - 1))
    return padded.unfold(-1, count, 1).flip(-2)


def _operands(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
    """The inputs in the type their products run in, and the type that results are kept in."""
    if q.dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    return q, k, v, torch.promote_types(q.dtype, torch.float32)
