"""The Transformer's decode step in two Triton kernels: rotation, KV cache and attention.

Regime: one new token a sequence, bound by memory. In a layer each cached key and value up to the
position is read once, whatever the cache's length: ``2 kv_heads head_dim context`` numbers a
sequence of the cache's type. One sequence's head would keep one multiprocessor busy, so the keys
are cut into splits that are reduced side by side and combined after, as in Flash-Decoding (Dao et
al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html); the softmax is Milakov and
Gimelshein's online one (arXiv 1805.02867). The splits write and read back ``4 (head_dim + 1)``
bytes each a query head. At ``1.3b``, batch 1 and 8,192 tokens that is 67 MB of cache in bfloat16
and 0.5 MB of splits a layer, 20 us at an H100's 3.35 TB/s.

Launches a layer: 2, beside the matrix products. The new token is attended from the projection and
not from the cache, so that writing the cache needs no launch of its own before attention.

The number of splits follows from shapes, their ranges from the position, which the kernel reads
itself: nothing waits for the device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.limits import MAX_GROUP
from models.kernels.plan import gpu_at, product_type, split_count
from models.kernels.rotary import load_rotated

RESIDENT = {1: 4, MAX_GROUP: 2}
"""Programs of :func:`_attend` in 16 bits that a multiprocessor holds at least, by their rows."""

_FLOOR = tl.constexpr(-1e30)
"""The score of what is not there: finite, so that the difference of two of them is no NaN."""


@triton.jit
def _attend_one(
    q, keys, values, first, end,
    SCALE: tl.constexpr, DIM: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """Attention of one query, (1, BLOCK_DIM), to keys ``first`` to ``end - 1``.

    One row would fill a sixteenth of a tensor core's operand, so products are multiplied and
    summed in float32. Each line of the tile is an online softmax of its own: inside the loop no
    thread waits for another but for the dot product of one key. The loop names no ``num_stages``:
    pipelined, it takes 217 to 249 registers a thread where it now takes 96 to 128, and two programs
    fit a multiprocessor where now four do, which hide each other's loads.

    Returns:
        Largest score (1,), sum of exponentials (1,) and weighted sum of values (1, BLOCK_DIM).
    """
    column, line = tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_KEYS)
    tile = line[:, None] * DIM + column[None, :]
    top = tl.full((BLOCK_KEYS,), _FLOOR, tl.float32)
    total = tl.zeros((BLOCK_KEYS,), tl.float32)
    mixed = tl.zeros((BLOCK_KEYS, BLOCK_DIM), tl.float32)
    for start in range(first, end, BLOCK_KEYS):
        seen = line < end - start
        inside = seen[:, None] & (column < DIM)[None, :]
        offset = tl.cast(start, tl.int64) * DIM
        k = tl.load(keys + offset + tile, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(values + offset + tile, mask=inside, other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(q * k, axis=1) * SCALE, float("-inf"))
        higher = tl.maximum(top, score)
        kept, weight = tl.exp2(top - higher), tl.exp2(score - higher)
        total = total * kept + weight
        mixed = mixed * kept[:, None] + weight[:, None] * v
        top = higher
    highest = tl.max(top, axis=0, keep_dims=True)
    share = tl.exp2(top - highest)
    return (
        highest,
        tl.sum(total * share, axis=0, keep_dims=True),
        tl.sum(mixed * share[:, None], axis=0, keep_dims=True),
    )


@triton.jit
def _attend_rows(
    q, keys, values, first, end, dtype: tl.constexpr, PRODUCT: tl.constexpr,
    SCALE: tl.constexpr, DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """As :func:`_attend_one` for the queries of a KV head, (BLOCK_ROWS, BLOCK_DIM).

    Their products go to the tensor cores in ``dtype``, padded to 16 rows. ``PRODUCT`` is that type
    too but in the interpreter, which multiplies bfloat16 by its bits and so gets it as float32.

    Returns:
        (BLOCK_ROWS,), (BLOCK_ROWS,) and (BLOCK_ROWS, BLOCK_DIM).
    """
    column, line = tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_KEYS)
    tile = line[:, None] * DIM + column[None, :]
    queries = q.to(dtype).to(PRODUCT)
    top = tl.full((BLOCK_ROWS,), _FLOOR, tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    mixed = tl.zeros((BLOCK_ROWS, BLOCK_DIM), tl.float32)
    for start in range(first, end, BLOCK_KEYS):
        seen = line < end - start
        inside = seen[:, None] & (column < DIM)[None, :]
        offset = tl.cast(start, tl.int64) * DIM
        k = tl.load(keys + offset + tile, mask=inside, other=0.0).to(dtype).to(PRODUCT)
        v = tl.load(values + offset + tile, mask=inside, other=0.0).to(dtype).to(PRODUCT)
        score = tl.dot(queries, tl.trans(k), input_precision="ieee") * SCALE
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1))
        kept, weight = tl.exp2(top - higher), tl.exp2(score - higher[:, None])
        total = total * kept + tl.sum(weight, axis=1)
        weight = weight.to(dtype).to(PRODUCT)
        mixed = mixed * kept[:, None] + tl.dot(weight, v, input_precision="ieee")
        top = higher
    return top, total, mixed


@triton.jit(do_not_specialize=["max_len", "splits"])
def _attend(
    qkv, cos, sin, position, keys, values, partial, log_sums, cache_batch, cache_head, max_len,
    splits,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, SCALE: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """One split's part of one KV head's attention; the first split also writes the cache.

    Split s sees keys ``s share`` to ``(s + 1) share - 1`` of those before the position. The new
    key and value are taken in by all, but with the floor for a score except by the first: so no
    split is empty, and nobody reads the slot that the first writes.
    """
    program = tl.program_id(0)
    split = program % splits
    cache = (program // splits).to(tl.int64)
    batch, head = cache // KV_HEADS, cache % KV_HEADS
    dtype: tl.constexpr = qkv.dtype.element_ty
    token = qkv + batch * ((GROUP + 2) * KV_HEADS * DIM)
    keys += batch * cache_batch + head * cache_head
    values += batch * cache_batch + head * cache_head
    row, column = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_DIM)
    inside = (row < GROUP)[:, None] & (column < DIM)[None, :]

    slot = tl.load(position)
    earlier = tl.minimum(slot, max_len).to(tl.int32)
    share = tl.cdiv(tl.cdiv(earlier, splits), BLOCK_KEYS) * BLOCK_KEYS
    first = split * share
    end = tl.minimum(first + share, earlier)
    queries = token + head * GROUP * DIM + row[:, None] * DIM
    q = load_rotated(queries, column[None, :], inside, cos, sin, DIM)
    if BLOCK_ROWS == 1:
        top, total, mixed = _attend_one(
            q, keys, values, first, end, SCALE, DIM, BLOCK_KEYS, BLOCK_DIM
        )
    else:
        top, total, mixed = _attend_rows(
            q, keys, values, first, end, dtype, PRODUCT,
            SCALE, DIM, BLOCK_ROWS, BLOCK_KEYS, BLOCK_DIM,
        )  # fmt: skip

    kept_type: tl.constexpr = keys.dtype.element_ty
    new = token + (GROUP * KV_HEADS + head) * DIM
    k = load_rotated(new, column, column < DIM, cos, sin, DIM).to(dtype).to(kept_type)
    v = tl.load(new + KV_HEADS * DIM + column, mask=column < DIM, other=0.0).to(kept_type)
    width = tl.where((split == 0) & (slot < max_len), DIM, 0)
    tl.store(keys + slot * DIM + column, k, mask=column < width)
    tl.store(values + slot * DIM + column, v, mask=column < width)

    score = tl.sum(q * k.to(tl.float32)[None, :], axis=1) * SCALE
    score = tl.where(split == 0, score, _FLOOR)
    higher = tl.maximum(top, score)
    kept, weight = tl.exp2(top - higher), tl.exp2(score - higher)
    total = total * kept + weight
    mixed = mixed * kept[:, None] + weight[:, None] * v.to(tl.float32)[None, :]

    part = (cache * GROUP + row) * splits + split
    tl.store(log_sums + part, higher + tl.log2(total), mask=row < GROUP)
    tl.store(partial + part[:, None] * DIM + column[None, :], mixed / total[:, None], mask=inside)


@triton.jit(do_not_specialize=["splits"])
def _combine(
    partial, log_sums, out, splits,
    DIM: tl.constexpr, ALL_SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """The splits' mean, weighted by their sums of exponentials, for some columns of one head."""
    BLOCKS: tl.constexpr = (DIM + BLOCK_DIM - 1) // BLOCK_DIM
    program = tl.program_id(0)
    head = (program // BLOCKS).to(tl.int64)
    column = program % BLOCKS * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    log_sums += head * splits
    partial += head * splits * DIM

    every = tl.arange(0, ALL_SPLITS)
    sums = tl.load(log_sums + every, mask=every < splits, other=_FLOOR)
    top = tl.max(sums, axis=0)
    total = tl.sum(tl.exp2(sums - top), axis=0)
    mixed = tl.zeros((BLOCK_SPLITS, BLOCK_DIM), tl.float32)
    for start in range(0, splits, BLOCK_SPLITS):
        split = start + tl.arange(0, BLOCK_SPLITS)
        inside = (split < splits)[:, None] & (column < DIM)[None, :]
        x = tl.load(partial + split[:, None] * DIM + column[None, :], mask=inside, other=0.0)
        weight = tl.exp2(tl.load(log_sums + split, mask=split < splits, other=_FLOOR) - top)
        mixed += weight[:, None] * x
    tl.store(out + head * DIM + column, tl.sum(mixed, axis=0) / total, mask=column < DIM)


def launch(
    qkv: Tensor, cos: Tensor, sin: Tensor, position: Tensor, keys: Tensor, values: Tensor,
    out: Tensor,
) -> None:  # fmt: skip
    """Run both kernels on what :func:`models.kernels.attend_op.fused_attention` was given."""
    batch, kv_heads, max_len, dim = keys.shape
    heads = out.shape[1] // dim
    group = heads // kv_heads
    block_dim = triton.next_power_of_2(dim)
    rows = 1 if group == 1 else MAX_GROUP
    # One row's tile is held in registers, several rows' in shared memory.
    block_keys = min(64, max(16, (4096 if rows == 1 else 8192) // block_dim))
    slots = RESIDENT[rows] * gpu_at(out.device).multiprocessors
    splits = split_count(batch * kv_heads, max_len, block_keys, slots)
    log_sums = torch.empty(batch, heads, splits, dtype=torch.float32, device=qkv.device)
    partial = torch.empty(batch, heads, splits, dim, dtype=torch.float32, device=qkv.device)
    with torch.cuda.device_of(out):
        _attend[(batch * kv_heads * splits,)](
            qkv, cos, sin, position, keys, values, partial, log_sums, *keys.stride()[:2], max_len,
            splits,
            KV_HEADS=kv_heads, GROUP=group, DIM=dim, SCALE=dim**-0.5 * math.log2(math.e),
            PRODUCT=product_type(qkv.dtype),
            BLOCK_ROWS=rows, BLOCK_KEYS=block_keys, BLOCK_DIM=max(16, block_dim),
            num_warps=4, num_stages=2,
        )  # fmt: skip
        columns = min(32, block_dim)
        _combine[(batch * heads * triton.cdiv(dim, columns),)](
            partial, log_sums, out, splits,
            DIM=dim, ALL_SPLITS=triton.next_power_of_2(splits),
            BLOCK_SPLITS=min(64, triton.next_power_of_2(splits)), BLOCK_DIM=columns, num_warps=4,
        )  # fmt: skip
