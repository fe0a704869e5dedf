"""As ``compile_ahead.py`` for the kernels of a decode step.

python compile_decode_ahead.py DTYPE...     one JSON line a kernel
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from compile_ahead import AbsentGPU, report
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from models.kernels import attend, step

compile_or_run = JITFunction.run


def compile_only(kernel: Any, *args: Any, warmup: bool, **options: Any) -> None:
    """Stands in for every launch."""
    report(kernel, compile_or_run(kernel, *args, warmup=True, **options))


def retention(dtype: torch.dtype, heads: int, d_k: int, d_v: int) -> None:
    """Compile what one step launches."""
    projected = torch.empty(1, 2 * heads * (d_k + d_v), dtype=dtype)
    angles, gamma = torch.empty(2, d_k), torch.empty(heads)
    state, out = torch.empty(1, heads, d_k, d_v), torch.empty(1, heads * d_v, dtype=dtype)
    step.launch(projected, angles, angles, gamma, None, state, 1e-6, out)


def attention(dtype: torch.dtype, kv_heads: int, group: int, dim: int) -> None:
    """Compile what one step launches."""
    qkv = torch.empty(1, (group + 2) * kv_heads * dim, dtype=dtype)
    angles, position = torch.empty(1, dim), torch.zeros(1, dtype=torch.int64)
    keys, out = torch.empty(1, kv_heads, 8192, dim, dtype=dtype), qkv[:, : group * kv_heads * dim]
    attend.launch(qkv, angles, angles, position, keys, keys, out)


def main(dtype: torch.dtype) -> None:
    """The shapes of ``1.3b``, the widest heads, and some that must be masked."""
    for heads, d_k, d_v in [(8, 256, 512), (6, 48, 96)]:
        retention(dtype, heads, d_k, d_v)
    for kv_heads, group, dim in [(16, 1, 128), (4, 4, 128), (2, 4, 256), (2, 4, 48)]:
        attention(dtype, kv_heads, group, dim)


if __name__ == "__main__":
    driver.set_active(AbsentGPU())
    JITFunction.run = compile_only
    for name in sys.argv[1:]:
        main(getattr(torch, name))
