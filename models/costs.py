"""FLOPs of retention and lengths of transforms, told by sizes alone; no torch."""

from __future__ import annotations


def pair_flops(tokens: int, d_k: int, d_v: int) -> int:
    """FLOPs of one head's scores and weighted sum over the pairs that a causal mask leaves."""
    return tokens * (tokens + 1) * (d_k + d_v)


def retention_flops(tokens: int, d_k: int, d_v: int, group: int = 1) -> int:
    """The fewest FLOPs that a KV head's retention needs: of the pairs, or of the recurrence.

    The recurrence takes 2 d_k d_v a token to update the state, and as many for each of the
    ``group`` query heads to read it, as does a decode step: one token. A cut into n equal chunks
    costs recurrence + (pairs - recurrence) / n, so no chunk size needs less than both.
    """
    recurrence = tokens * 2 * (1 + group) * d_k * d_v
    return recurrence if tokens == 1 else min(group * pair_flops(tokens, d_k, d_v), recurrence)


def chunk_pairs(tokens: int, chunk_size: int) -> int:
    """Pairs of tokens in one chunk, masked ones too; a last chunk may be shorter."""
    whole, tail = divmod(tokens, chunk_size)
    return whole * chunk_size**2 + tail**2


def chunkwise_flops(tokens: int, chunk_size: int, d_k: int, d_v: int, group: int = 1) -> int:
    """FLOPs of a KV head's retention in chunks: all pairs inside, and the states across."""
    pairs = group * chunk_pairs(tokens, chunk_size) * 2 * (d_k + d_v)
    return pairs + tokens * 2 * (1 + group) * d_k * d_v


def fft_length(least: int) -> int:
    """A length of at least that many that has no prime factor beyond 7, at most a quarter more."""
    unit = 1 << max(0, least.bit_length() - 3)
    return -(-least // unit) * unit
