"""A Transformer that sees a window of the last tokens alone: attention with a state of fixed size.

The honest rival of a recurrent model in memory and at length: its cache is a ring of ``window``
tokens (Beltagy et al. 2020, arXiv 2004.05150, section 3; Jiang et al. 2023, arXiv 2310.06825,
section 2). Through the layers a token still learns of ``n_layers * window`` tokens before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from models.attention import KVCache, causal_attention, decode_attention, step_bias
from models.mixers.multihead import Attention, Positions
from models.protocol import LayerState
from models.sdpa import by_kernel

if TYPE_CHECKING:
    from models.family.transformer import WindowConfig


class WindowAttention(Attention):
    """Causal attention with rotary positions over the last ``window`` tokens."""

    config: WindowConfig

    def _sequence_bias(self, start: int, time: int) -> None:
        """None: what each token sees follows from the window."""

    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> KVCache:
        """A ring of ``window`` tokens; of ``max_len``, where these are fewer."""
        return super().init_state(batch_size, min(max_len, self.config.window), device, dtype)

    def prefill(self, x: Tensor, shared: Positions, state: LayerState) -> Tensor:
        """Mix tokens after those of the ring that they still see."""
        assert isinstance(state, KVCache)
        start, slots = shared.span.start, state.keys.shape[2]
        assert start is not None
        q, k, v = self._project(x, shared)
        past = torch.arange(max(0, start - slots), start, device=x.device) % slots
        keys, values = (
            torch.cat([cached.index_select(2, past), new], dim=2)
            for cached, new in zip(state.read(q.dtype), (k, v), strict=True)
        )
        state.write(shared.span.positions[-slots:] % slots, k[:, :, -slots:], v[:, :, -slots:])
        return self._output(self._attend(q, keys, values))

    def step(self, x: Tensor, shared: Positions, state: LayerState) -> Tensor:
        """Mix one token with the ring, in the place of the token that leaves the window."""
        assert isinstance(state, KVCache) and shared.bias is not None
        q, k, v = self._project(x, shared)
        state.write(shared.span.positions % state.keys.shape[2], k, v)
        return self._output(decode_attention(q, state, shared.bias))

    def _in_triton(self) -> bool:
        """Never: the kernels write at the position, not into a ring."""
        return False

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention of a sequence, by the kernel that the configuration names."""
        with by_kernel(self.config.implementation, q):
            return window_attention(q, k, v, self.config.window)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention in which each query sees the last ``window`` keys, its own included.

    Linear in time: behind the first ``window`` queries, each run of as many sees itself and the
    run before it, and all of them are one batch.

    Args:
        q: (batch, heads, time, head_dim).
        k: (batch, kv_heads, past + time, head_dim): of at most ``window`` tokens before the first
            query, and of the queries' own.
        v: likewise.
        window: keys that a query sees.

    Returns:
        (batch, heads, time, head_dim).
    """
    time = q.shape[2]
    past = k.shape[2] - time
    head = min(time, window)
    bias = None if past == 0 else _band(head, past + head, past, window, q)
    first = causal_attention(q[:, :, :head], k[:, :, : past + head], v[:, :, : past + head], bias)
    if time <= window:
        return first
    rest = time - window
    runs = -(-rest // window)
    padding = (0, 0, 0, runs * window - rest)
    queries = F.pad(q[:, :, window:], padding).unflatten(2, (runs, window))
    keys, values = (F.pad(x[:, :, past:], padding).unfold(2, 2 * window, window).mT for x in (k, v))
    queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (queries, keys, values))
    band = _band(window, 2 * window, window, window, q)
    mixed = causal_attention(queries, keys, values, band)
    mixed = mixed.unflatten(0, (q.shape[0], runs)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, mixed[:, :, :rest]], dim=2)


def _band(queries: int, keys: int, past: int, window: int, like: Tensor) -> Tensor:
    """The mask of queries behind ``past`` keys that each see ``window`` keys: (queries, keys)."""
    ahead = torch.arange(keys, device=like.device)[None] - past
    ahead = ahead - torch.arange(queries, device=like.device)[:, None]
    return step_bias((ahead <= 0) & (ahead > -window), like)
