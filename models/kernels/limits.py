"""The largest heads that the Triton kernels can run anywhere; no torch."""

from __future__ import annotations

MAX_HEAD_DIM = 256
"""Of attention's queries, keys and values."""

MAX_GROUP = 16
"""Query heads of one KV head in attention: the rows of a tensor core's operand."""

MAX_D_K, MAX_D_V = 256, 512
"""Of retention's keys and values."""


def too_large(head_dim: int, group: int) -> str | None:
    """Why the kernels can run such heads nowhere; None where they can."""
    if head_dim > MAX_HEAD_DIM:
        return f"head_dim = {head_dim} is beyond {MAX_HEAD_DIM}"
    if group > MAX_GROUP:
        return f"{group} heads for a KV head are beyond {MAX_GROUP}"
    return None


def too_wide(d_k: int, d_v: int) -> str | None:
    """Why the kernels can run heads of these dimensions nowhere; None where they can."""
    if d_k > MAX_D_K or d_v > MAX_D_V:
        return f"d_k = {d_k}, d_v = {d_v} is beyond {MAX_D_K}, {MAX_D_V}"
    return None
