"""Chunkwise retention in three Triton kernels that serve the forward and the backward pass alike.

With tokens i, j of a chunk of length L, S the state before it, ' a transposition and D[i, j] =
gamma^(i-j) for i >= j, else 0 (Sun et al. 2023, arXiv 2307.08621, eq. 7, without normalisers)::

    A = (q k') * D                          out_i = gamma^(i+1) q_i S + sum_j A[i, j] v_j
    S_next = gamma^L S + sum_j gamma^(L-1-j) k_j' v_j

and with G the gradient of the state after the chunk, which runs backwards like S forwards::

    dA = (dout v') * D                      dq_i = gamma^(i+1) dout_i S' + sum_j dA[i, j] k_j
    G_previous = gamma^L G                  dk_j = gamma^(L-1-j) v_j G'  + sum_i dA[i, j] q_i
        + sum_i gamma^(i+1) q_i' dout_i     dv_j = gamma^(L-1-j) k_j G   + sum_i A[i, j] dout_i

So :func:`states` runs either recurrence, :func:`scores` makes A and dA, and :func:`mix` all four
sums. A is written to memory, not made anew inside :func:`mix`: its programs each hold a tile of
the d_v columns and would all repeat it, and it is an eighth of what the states are (d_k 256, d_v
512, chunks of 128).

Tensors are (batch, heads, time, dim) with any strides but a last one of 1. Of the decays only the
heads' logarithms are loaded. Offsets beyond one tile are 64-bit, and the grid has one axis, for
the others end at 65,535.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.plan import Plan, block, gpu_at, plan_of_states

LOG2_E = tl.constexpr(1.4426950408889634)


def states(
    x: Tensor,
    y: Tensor,
    log_gamma: Tensor,
    initial: Tensor | None,
    plan: Plan,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The state before each chunk, and the one after all, in the direction of travel.

    Args:
        x: (batch, heads, time, rows): keys, or queries in reverse.
        y: (batch, heads, time, columns): values, or gradients of the output in reverse.
        log_gamma: (heads,) float64.
        initial: (batch, heads, rows, columns) float32, contiguous; zeros where None.
        plan: how to cut and round.
        reverse: whether the last chunk comes first, a token's weight growing with its place.

    Returns:
        (batch * heads, chunks, rows, columns) of the operands' type, and the final state in
        float32, which is what is carried from chunk to chunk.
    """
    batch, heads, time, rows = x.shape
    columns, chunks = y.shape[-1], triton.cdiv(time, plan.chunk)
    before = x.new_empty(batch * heads, chunks, rows, columns, dtype=plan.operand)
    final = x.new_empty(batch, heads, rows, columns, dtype=torch.float32)
    plan = plan_of_states(plan, batch * heads, rows, columns, gpu_at(x.device))
    tiles = triton.cdiv(rows, plan.rows) * triton.cdiv(columns, plan.columns)
    _launch(
        _states_kernel, batch * heads * tiles, plan,
        x, y, final if initial is None else initial, before, final, log_gamma,
        *x.stride()[:3], *y.stride()[:3], heads, time, chunks,
        X_DIM=rows, Y_DIM=columns, BLOCK_X=plan.rows, BLOCK_Y=plan.columns,
        REVERSE=reverse, FROM_ZERO=initial is None,
    )  # fmt: skip
    return before, final


def scores(x: Tensor, y: Tensor, log_gamma: Tensor, plan: Plan) -> Tensor:
    """(x y') * D of each chunk: (batch * heads, chunks, chunk, chunk) of the operands' type."""
    batch, heads, time, dim = x.shape
    chunks = triton.cdiv(time, plan.chunk)
    out = x.new_empty(batch * heads, chunks, plan.chunk, plan.chunk, dtype=plan.operand)
    _launch(
        _scores_kernel, batch * heads * chunks, plan,
        x, y, out, log_gamma,
        *x.stride()[:3], *y.stride()[:3], heads, time, chunks,
        DIM=dim, INNER=block(dim, plan.inner),
    )  # fmt: skip
    return out


def mix(
    x: Tensor,
    before: Tensor,
    weights: Tensor,
    y: Tensor,
    out: Tensor,
    log_gamma: Tensor,
    plan: Plan,
    *,
    reverse: bool = False,
) -> Tensor:
    """Row i of ``out``: w_i x_i S + sum_j P[i, j] y_j, S the state and P the scores of its chunk.

    Args:
        x: (batch, heads, time, inner).
        before: states, (batch * heads, chunks, inner, columns) with any last two strides.
        weights: scores, (batch * heads, chunks, chunk, chunk) with any last two strides.
        y: (batch, heads, time, columns).
        out: shaped like ``y``; written to.
        log_gamma: (heads,) float64.
        plan: the plan that made ``before`` and ``weights``.
        reverse: whether w_i is gamma^(L-1-i) and not gamma^(i+1).

    Returns:
        ``out``.
    """
    batch, heads, time, inner = x.shape
    columns, chunks = y.shape[-1], before.shape[1]
    wide = block(columns, plan.columns)
    _launch(
        _mix_kernel, batch * heads * chunks * triton.cdiv(columns, wide), plan,
        x, before, weights, y, out, log_gamma,
        *x.stride()[:3], *before.stride()[2:], *weights.stride()[2:],
        *y.stride()[:3], *out.stride()[:3], heads, time, chunks,
        X_DIM=inner, Y_DIM=columns, BLOCK_Y=wide,
        INNER_X=block(inner, plan.inner), INNER_Y=plan.inner, REVERSE=reverse,
    )  # fmt: skip
    return out


def _launch(kernel: Any, programs: int, plan: Plan, *args: Any, **sizes: Any) -> None:
    """Run a kernel on the device of its first tensor; nothing where there is nothing to do."""
    if programs == 0:
        return
    with torch.cuda.device_of(args[0]):
        kernel[(programs,)](
            *args, **sizes, CHUNK=plan.chunk, PRODUCT=plan.product, PRECISION=plan.precision,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip


# --- the kernels ---------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["time", "chunks"])
def _states_kernel(
    x, y, initial, before, final, log_gamma,
    x_batch, x_head, x_time, y_batch, y_head, y_time, heads, time, chunks,
    X_DIM: tl.constexpr, Y_DIM: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
    REVERSE: tl.constexpr, FROM_ZERO: tl.constexpr,
    CHUNK: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one head's state, chunk after chunk."""
    OPERAND: tl.constexpr = before.dtype.element_ty
    tiles_x, tiles_y = tl.cdiv(X_DIM, BLOCK_X), tl.cdiv(Y_DIM, BLOCK_Y)
    program = tl.program_id(0)
    of_x = program // tiles_y % tiles_x * BLOCK_X + tl.arange(0, BLOCK_X)
    of_y = program % tiles_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    sequence = (program // (tiles_x * tiles_y)).to(tl.int64)
    batch, head = sequence // heads, sequence % heads
    x += batch * x_batch + head * x_head
    y += batch * y_batch + head * y_head
    before += sequence * chunks * X_DIM * Y_DIM
    entries = of_x[:, None] * Y_DIM + of_y[None, :]
    inside = (of_x < X_DIM)[:, None] & (of_y < Y_DIM)[None, :]

    decay = tl.load(log_gamma + head)
    rate = (decay * LOG2_E).to(tl.float32)
    last = time - (chunks - 1) * CHUNK
    # 1 - gamma^L in float64: near 1, a decay that float32 had rounded would keep too much.
    forgotten_by_chunk = (1 - tl.exp(decay * CHUNK)).to(tl.float32)
    forgotten_by_last = (1 - tl.exp(decay * last)).to(tl.float32)

    tokens = tl.arange(0, CHUNK)
    if FROM_ZERO:
        state = tl.zeros((BLOCK_X, BLOCK_Y), tl.float32)
    else:
        state = tl.load(initial + sequence * X_DIM * Y_DIM + entries, mask=inside, other=0.0)
    for step in range(chunks):
        chunk = tl.cast(chunks - 1 - step if REVERSE else step, tl.int64)
        tl.store(before + chunk * X_DIM * Y_DIM + entries, state.to(OPERAND), mask=inside)
        length = tl.minimum(time - chunk * CHUNK, CHUNK)
        there = tokens < length
        x_at = x + chunk * CHUNK * x_time + of_x[:, None] + tokens[None, :] * x_time
        y_at = y + chunk * CHUNK * y_time + tokens[:, None] * y_time + of_y[None, :]
        x_tile = tl.load(x_at, mask=(of_x < X_DIM)[:, None] & there[None, :], other=0.0)
        y_tile = tl.load(y_at, mask=there[:, None] & (of_y < Y_DIM)[None, :], other=0.0)
        age = tokens + 1 if REVERSE else tl.maximum(length - 1 - tokens, 0)
        aged = (x_tile.to(tl.float32) * tl.exp2(rate * age)[None, :]).to(OPERAND)
        state -= state * tl.where(length == CHUNK, forgotten_by_chunk, forgotten_by_last)
        state = tl.dot(
            aged.to(PRODUCT), y_tile.to(OPERAND).to(PRODUCT), state, input_precision=PRECISION
        )
    tl.store(final + sequence * X_DIM * Y_DIM + entries, state, mask=inside)


@triton.jit(do_not_specialize=["time", "chunks"])
def _scores_kernel(
    x, y, out, log_gamma,
    x_batch, x_head, x_time, y_batch, y_head, y_time, heads, time, chunks,
    DIM: tl.constexpr, INNER: tl.constexpr,
    CHUNK: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The scores of one chunk of one head."""
    OPERAND: tl.constexpr = out.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    sequence, chunk = program // chunks, program % chunks
    batch, head = sequence // heads, sequence % heads
    x += batch * x_batch + head * x_head + chunk * CHUNK * x_time
    y += batch * y_batch + head * y_head + chunk * CHUNK * y_time
    tokens = tl.arange(0, CHUNK)
    there = tokens < time - chunk * CHUNK
    products = tl.zeros((CHUNK, CHUNK), tl.float32)
    for first in range(0, DIM, INNER):
        dims = first + tl.arange(0, INNER)
        x_at = x + tokens[:, None] * x_time + dims[None, :]
        y_at = y + dims[:, None] + tokens[None, :] * y_time
        x_tile = tl.load(x_at, mask=there[:, None] & (dims < DIM)[None, :], other=0.0)
        y_tile = tl.load(y_at, mask=(dims < DIM)[:, None] & there[None, :], other=0.0)
        products = tl.dot(
            x_tile.to(OPERAND).to(PRODUCT), y_tile.to(OPERAND).to(PRODUCT), products,
            input_precision=PRECISION,
        )  # fmt: skip
    rate = (tl.load(log_gamma + head) * LOG2_E).to(tl.float32)
    distance = tokens[:, None] - tokens[None, :]
    decays = tl.where(distance >= 0, tl.exp2(rate * tl.maximum(distance, 0)), 0.0)
    entries = tokens[:, None] * CHUNK + tokens[None, :]
    tl.store(out + program * CHUNK * CHUNK + entries, (products * decays).to(OPERAND))


@triton.jit(do_not_specialize=["time", "chunks"])
def _mix_kernel(
    x, before, weights, y, out, log_gamma,
    x_batch, x_head, x_time, before_row, before_column, weights_row, weights_column,
    y_batch, y_head, y_time, out_batch, out_head, out_time, heads, time, chunks,
    X_DIM: tl.constexpr, Y_DIM: tl.constexpr, BLOCK_Y: tl.constexpr,
    INNER_X: tl.constexpr, INNER_Y: tl.constexpr, REVERSE: tl.constexpr,
    CHUNK: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some columns of the output of one chunk of one head."""
    OPERAND: tl.constexpr = before.dtype.element_ty
    tiles = tl.cdiv(Y_DIM, BLOCK_Y)
    program = tl.program_id(0)
    of_y = program % tiles * BLOCK_Y + tl.arange(0, BLOCK_Y)
    cell = (program // tiles).to(tl.int64)
    sequence, chunk = cell // chunks, cell % chunks
    batch, head = sequence // heads, sequence % heads
    x += batch * x_batch + head * x_head + chunk * CHUNK * x_time
    y += batch * y_batch + head * y_head + chunk * CHUNK * y_time
    before += cell * X_DIM * Y_DIM
    weights += cell * CHUNK * CHUNK
    tokens = tl.arange(0, CHUNK)
    length = tl.minimum(time - chunk * CHUNK, CHUNK)
    there = tokens < length

    mixed = tl.zeros((CHUNK, BLOCK_Y), tl.float32)
    for first in range(0, X_DIM, INNER_X):
        dims = first + tl.arange(0, INNER_X)
        x_at = x + tokens[:, None] * x_time + dims[None, :]
        before_at = before + dims[:, None] * before_row + of_y[None, :] * before_column
        x_tile = tl.load(x_at, mask=there[:, None] & (dims < X_DIM)[None, :], other=0.0)
        inside = (dims < X_DIM)[:, None] & (of_y < Y_DIM)[None, :]
        state = tl.load(before_at, mask=inside, other=0.0)
        mixed = tl.dot(
            x_tile.to(OPERAND).to(PRODUCT), state.to(PRODUCT), mixed, input_precision=PRECISION
        )
    rate = (tl.load(log_gamma + head) * LOG2_E).to(tl.float32)
    age = tl.maximum(length - 1 - tokens, 0) if REVERSE else tokens + 1
    mixed *= tl.exp2(rate * age)[:, None]
    for first in range(0, CHUNK, INNER_Y):
        others = first + tl.arange(0, INNER_Y)
        y_at = y + others[:, None] * y_time + of_y[None, :]
        inside = (others < length)[:, None] & (of_y < Y_DIM)[None, :]
        y_tile = tl.load(y_at, mask=inside, other=0.0)
        score = tl.load(weights + tokens[:, None] * weights_row + others[None, :] * weights_column)
        mixed = tl.dot(
            score.to(PRODUCT), y_tile.to(OPERAND).to(PRODUCT), mixed, input_precision=PRECISION
        )
    out += batch * out_batch + head * out_head + chunk * CHUNK * out_time
    out_at = out + tokens[:, None] * out_time + of_y[None, :]
    inside = there[:, None] & (of_y < Y_DIM)[None, :]
    tl.store(out_at, mixed.to(out.dtype.element_ty), mask=inside)
