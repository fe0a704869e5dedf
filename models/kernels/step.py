"""RetNet's decode step in two Triton kernels: all of a layer's mixer between its two products.

Regime: one new token a sequence, bound by memory. In a layer the state, ``KV heads x d_k x d_v``
numbers a sequence, is read once and written once, as it must be, for all query heads of a KV head;
beside it the kernels move ``2 d_k + 3 d_v`` numbers a head of the model's dtype and ``2 d_v`` of
float32, 0.8% of the bytes of a float32 state at d_k 256. At ``1.3b`` and batch 1 that is 8.5 MB a
layer, 2.5 us at an H100's 3.35 TB/s, beside 100 MB of the layer's weights in bfloat16. A state in
16 bits is half of it.

Launches a layer: 2, beside the matrix products. The norm needs a whole head's output, the first
kernel's programs hold some columns of it each; so the norm and the gate are a second kernel.

Each launch depends on shapes alone and nothing waits for the device, so a step can be captured in a
CUDA graph. Formulas: RetNet, arXiv 2307.08621, eqs. 6, 8 and 9.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.plan import gpu_at, step_columns
from models.kernels.rotary import load_rotated


@triton.jit
def _recur(
    projected, cos, sin, gamma, state, mixed,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D_K: tl.constexpr, D_V: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """S = gamma S + k^T v and each q S, for some columns of one KV head of one sequence.

    A column of the state is changed by no other, so a program keeps its columns in registers
    between reading and writing them, (BLOCK_K, BLOCK_V) float32.
    """
    BLOCKS: tl.constexpr = (D_V + BLOCK_V - 1) // BLOCK_V
    program = tl.program_id(0)
    matrix = (program // BLOCKS).to(tl.int64)
    head = matrix % KV_HEADS
    row = tl.arange(0, BLOCK_K)
    column = program % BLOCKS * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = (row < D_K)[:, None] & (column < D_V)[None, :]

    tile = state + matrix * (D_K * D_V) + row[:, None] * D_V + column[None, :]
    s = tl.load(tile, mask=inside, other=0.0).to(tl.float32)
    queries = projected + matrix // KV_HEADS * WIDTH
    keys = queries + KV_HEADS * GROUP * D_K
    queries += head * GROUP * D_K
    # Before the state is waited for: no load passes a store that might be to its place.
    q = load_rotated(queries, row, row < D_K, cos, sin, D_K)
    k = load_rotated(keys + head * D_K, row, row < D_K, cos + D_K, sin + D_K, D_K)
    values = keys + KV_HEADS * D_K + head * D_V
    v = tl.load(values + column, mask=column < D_V, other=0.0)

    s = s * tl.load(gamma + head) + k[:, None] * v.to(tl.float32)[None, :]
    tl.store(tile, s, mask=inside)
    for query in tl.static_range(GROUP):
        if query > 0:
            q = load_rotated(queries + query * D_K, row, row < D_K, cos, sin, D_K)
        out = mixed + (matrix * GROUP + query) * D_V + column
        tl.store(out, tl.sum(q[:, None] * s, axis=0), mask=column < D_V)


@triton.jit
def _finish(
    mixed, projected, scale, out, eps,
    HEADS: tl.constexpr, D_V: tl.constexpr, WIDTH: tl.constexpr, GATES: tl.constexpr,
    SCALED: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Norm or scale, swish gate and cast of one head of one sequence, all of it in float32.

    ``GATES`` is where the gates begin in a token's row; at its end there are none.
    """
    matrix = tl.program_id(0).to(tl.int64)
    head = matrix % HEADS
    column = tl.arange(0, BLOCK_V)
    inside = column < D_V
    x = tl.load(mixed + matrix * D_V + column, mask=inside, other=0.0)
    if SCALED:
        x *= tl.load(scale + head)
    else:
        x *= tl.rsqrt(tl.sum(x * x, axis=0) / D_V + eps)
    if GATES < WIDTH:
        gates = projected + matrix // HEADS * WIDTH + GATES + head * D_V
        gate = tl.load(gates + column, mask=inside, other=0.0).to(tl.float32)
        x *= gate * tl.sigmoid(gate)
    tl.store(out + matrix * D_V + column, x, mask=inside)


def launch(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    gamma: Tensor,
    scale: Tensor | None,
    state: Tensor,
    eps: float,
    out: Tensor,
) -> None:
    """Run both kernels on what :func:`models.kernels.step_op.fused_retention` was given."""
    batch, kv_heads, d_k, d_v = state.shape
    heads, width = out.shape[1] // d_v, projected.shape[1]
    mixed = torch.empty(batch, heads, d_v, dtype=torch.float32, device=state.device)
    block_k = triton.next_power_of_2(d_k)
    columns = step_columns(batch * kv_heads, d_v, gpu_at(out.device), state.itemsize)
    with torch.cuda.device_of(out):
        _recur[(batch * kv_heads * triton.cdiv(d_v, columns),)](
            projected, cos, sin, gamma, state, mixed,
            KV_HEADS=kv_heads, GROUP=heads // kv_heads, D_K=d_k, D_V=d_v, WIDTH=width,
            BLOCK_K=block_k, BLOCK_V=columns, num_warps=warp_count(block_k, columns),
        )  # fmt: skip
        _finish[(batch * heads,)](
            mixed, projected, scale, out, eps,
            HEADS=heads, D_V=d_v, WIDTH=width, GATES=heads * d_k + kv_heads * (d_k + d_v),
            SCALED=scale is not None, BLOCK_V=triton.next_power_of_2(d_v), num_warps=4,
        )  # fmt: skip


def warp_count(block_k: int, block_v: int) -> int:
    """Warps of a program: as many as there is an element of the state for each thread, up to 4.

    More would hold copies of the same elements, and as the state is updated in place, one warp
    could store an element before another has loaded it.
    """
    return max(1, min(4, block_k * block_v // 32))
