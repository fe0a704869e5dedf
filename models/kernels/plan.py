"""How the products of chunkwise retention are cut and rounded, by the dtype and the GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl

from models.kernels.support import CHUNKS

ENOUGH_PROGRAMS = 128
"""From so many programs on, a state is cut no finer: one a multiprocessor of an H100's 132."""
SMALLEST_TILE = 32
"""Rows and columns of a state that a program keeps at least: 16 x 16 for each of four warps."""


@dataclass(frozen=True)
class Plan:
    """How the products of one call are cut and rounded.

    Attributes:
        chunk: tokens of a chunk.
        operand: type that states, scores and the products' operands are rounded to.
        product: Triton's name of the type that products take; as ``operand`` but for the
            interpreter, which multiplies bfloat16 by its bits and so gets it as float32.
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


def plan_for(dtype: torch.dtype, device: torch.device) -> Plan:
    """The plan of inputs of a type there."""
    chunk = CHUNKS[dtype]
    if dtype == torch.bfloat16:
        product = tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16
        if _has_large_blocks(device):
            return Plan(chunk, dtype, product, "ieee", 128, 128, inner=64, warps=8, stages=3)
        return Plan(chunk, dtype, product, "ieee", 64, 128, inner=64, warps=8, stages=2)
    tf32 = dtype == torch.float16 or torch.backends.cuda.matmul.fp32_precision == "tf32"
    precision = "tf32" if tf32 else "ieee"
    return Plan(chunk, torch.float32, tl.float32, precision, 64, 64, inner=32, warps=4, stages=3)


def plan_of_states(plan: Plan, sequences: int, rows: int, columns: int) -> Plan:
    """The plan with tiles of a state so small that there are programs enough to fill a GPU.

    A state's program takes one chunk after another, so only tiles and sequences run side by side:
    at batch 1 the heads of preset ``125m`` would be 12 tiles of 128 x 128, on 132 multiprocessors.
    The larger side is halved, columns before rows, down to :data:`SMALLEST_TILE`. Smaller tiles
    read keys and values more often, but mostly from the cache, by programs that run at once.

    Args:
        plan: the plan of the call; its rows and columns are the largest that a tile may have.
        sequences: heads of all sequences, which have a state each.
        rows: rows of a state.
        columns: columns of a state.
    """
    tall, wide = block(rows, plan.rows), block(columns, plan.columns)
    while sequences * triton.cdiv(rows, tall) * triton.cdiv(columns, wide) < ENOUGH_PROGRAMS:
        if max(tall, wide) <= SMALLEST_TILE:
            break
        if wide >= tall:
            wide //= 2
        else:
            tall //= 2
    warps = plan.warps if tall * wide > 64 * 64 else 4
    return replace(plan, rows=tall, columns=wide, warps=warps)


def block(dim: int, largest: int) -> int:
    """Width of the blocks that cover a dimension: a power of two from 16, the least of a dot."""
    return max(16, min(largest, 1 << (dim - 1).bit_length()))


def _has_large_blocks(device: torch.device) -> bool:
    """Whether a program may take 192 KiB of shared memory, as on an H100; a GPU has 96 at least."""
    if device.type != "cuda":
        return True
    gpu: Any = torch.cuda.get_device_properties(device)
    return bool(gpu.shared_memory_per_block_optin >= 192 * 1024)
