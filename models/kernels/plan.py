"""How the kernels' work is cut among programs, and their products rounded: by dtype and GPU.

A multiprocessor runs some programs of a kernel at once, its residents, as many as their registers
and shared memory allow; the rest wait for the next wave. So work is cut such that the busiest
multiprocessor has least of it, start-up included. Nothing here was measured on a GPU: how many
programs are resident is known from the compiled code (``tests/models/kernels/compile_ahead.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from models.kernels.support import CHUNKS

SMALLEST_TILE = 32
"""Rows and columns of a state that a program keeps at least: 16 x 16 for each of four warps."""
LARGE_BLOCKS = 192 * 1024
"""Bytes of shared memory that a program must have for the larger tiles of bfloat16, as on an H100;
a GPU of compute capability 8.0 or more has 99 KiB at least."""
STEP_COLUMNS = (32, 16, 8)
"""Columns of a state that a program of a decode step may hold, if they are a sector or more."""
SECTOR = 32
"""Bytes that a GPU reads at least; what is less would be read twice at a row's end."""
SHORTEST_SPLIT = 64
"""Keys of a full cache that are worth a program. Its start takes about as long as these (an
estimate: 32 KiB at head dimension 128, a few microseconds of a program's share of bandwidth)."""


@dataclass(frozen=True)
class GPU:
    """What of a GPU decides how work is cut; by default an H100's.

    Attributes:
        multiprocessors: as many as it has.
        shared_bytes: shared memory that one program may take.
    """

    multiprocessors: int = 132
    shared_bytes: int = 227 * 1024


def gpu_at(device: torch.device) -> GPU:
    """The GPU of a device; for the interpreter an H100."""
    if device.type != "cuda":
        return GPU()
    found: Any = torch.cuda.get_device_properties(device)
    return GPU(found.multi_processor_count, found.shared_memory_per_block_optin)


@dataclass(frozen=True)
class Plan:
    """How the products of one call are cut and rounded.

    Attributes:
        chunk: tokens of a chunk.
        operand: type that states, scores and the products' operands are rounded to.
        product: Triton's name of the type that products take, see :func:`product_type`.
        precision: Triton's ``input_precision`` of float32 products.
        rows: rows of a state that one program holds; the more, the less often values are read.
        columns: columns of a state or an output that one program holds.
        inner: terms of a sum that are loaded at once.
        warps: warps of a program.
        stages: loads in flight, each of ``chunk x (rows + columns)`` operands for a state.
    """

    chunk: int
    operand: torch.dtype
    product: tl.dtype
    precision: str
    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


def product_type(dtype: torch.dtype) -> tl.dtype:
    """Triton's name of the type that products of operands of a type take.

    It is the same but for the interpreter, which multiplies bfloat16 by its bits and so gets it as
    float32.
    """
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return getattr(tl, str(dtype).removeprefix("torch."))


def plan_for(dtype: torch.dtype, device: torch.device) -> Plan:
    """The plan of inputs of a type there."""
    chunk = CHUNKS[dtype]
    if dtype == torch.bfloat16:
        product = product_type(dtype)
        if gpu_at(device).shared_bytes >= LARGE_BLOCKS:
            return Plan(chunk, dtype, product, "ieee", 128, 128, inner=64, warps=8, stages=3)
        return Plan(chunk, dtype, product, "ieee", 64, 128, inner=64, warps=8, stages=2)
    tf32 = dtype == torch.float16 or torch.backends.cuda.matmul.fp32_precision == "tf32"
    precision = "tf32" if tf32 else "ieee"
    return Plan(chunk, torch.float32, tl.float32, precision, 64, 64, inner=32, warps=4, stages=3)


def plan_of_states(plan: Plan, sequences: int, rows: int, columns: int, gpu: GPU) -> Plan:
    """The plan with tiles of a state such that the busiest multiprocessor moves least.

    A state's program takes one chunk after another, so only tiles and sequences run side by side:
    at batch 1 the heads of preset ``125m`` would be 12 tiles of 128 x 128, on 132 multiprocessors.
    For each chunk a program reads its rows of keys and columns of values and writes its tile, so
    smaller tiles move more in all. The larger side is halved, columns before rows, down to
    :data:`SMALLEST_TILE`; of equals the largest tile is taken.

    Args:
        plan: the plan of the call; its rows and columns are the largest that a tile may have.
        sequences: heads of all sequences, which have a state each.
        rows: rows of a state.
        columns: columns of a state.
        gpu: where it runs.
    """
    tall, wide = block(rows, plan.rows), block(columns, plan.columns)
    tiles = [(tall, wide)]
    while max(tall, wide) > SMALLEST_TILE:
        tall, wide = (tall, wide // 2) if wide >= tall else (tall // 2, wide)
        tiles.append((tall, wide))

    def moved(tile: tuple[int, int]) -> int:
        programs = sequences * _ceil(rows, tile[0]) * _ceil(columns, tile[1])
        numbers = plan.chunk * (tile[0] + tile[1]) + tile[0] * tile[1]
        return _ceil(programs, gpu.multiprocessors) * numbers

    tall, wide = min(tiles, key=moved)
    warps = plan.warps if tall * wide > 64 * 64 else 4
    return replace(plan, rows=tall, columns=wide, warps=warps)


def step_columns(matrices: int, d_v: int, gpu: GPU, itemsize: int) -> int:
    """Columns of a state that one program of a decode step holds.

    As many as leave the busiest multiprocessor least, and each two programs if that can be: one
    loads while the other stores. What a program reads besides, queries, keys and their rotation
    from a cache, counts as one column.

    Args:
        matrices: KV heads of all sequences, which have a state each.
        d_v: columns of a state.
        gpu: where it runs.
        itemsize: bytes of a number of the state; a row's end is no less than a memory sector, which
            would be read twice.
    """

    def load(columns: int) -> tuple[bool, int]:
        programs = _ceil(matrices * _ceil(d_v, columns), gpu.multiprocessors)
        return programs < 2, programs * (columns + 1)

    return min((n for n in STEP_COLUMNS if n * itemsize >= SECTOR), key=load)


@lru_cache
def split_count(caches: int, max_len: int, block_keys: int, slots: int) -> int:
    """Splits of each of so many KV heads' keys: as many as end first, of equals the fewest.

    Splits run in waves of ``slots``, each as long as a split and its start.

    Args:
        caches: KV heads of all sequences, at least one.
        max_len: length of the cache, in tokens.
        block_keys: keys that a program loads at once, of which a split is a multiple.
        slots: programs that the GPU runs at once.
    """

    def length(splits: int) -> int:
        share = _ceil(_ceil(max_len, splits), block_keys) * block_keys
        return _ceil(caches * splits, slots) * (share + SHORTEST_SPLIT)

    return min(range(1, _ceil(max_len, SHORTEST_SPLIT) + 1), key=length)


def block(dim: int, largest: int) -> int:
    """Width of the blocks that cover a dimension: a power of two from 16, the least of a dot."""
    return max(16, min(largest, 1 << (dim - 1).bit_length()))


def _ceil(of: int, by: int) -> int:
    return -(-of // by)
