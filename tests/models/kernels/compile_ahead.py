"""Compiles the chunkwise kernels for a GPU without one, and prints what each takes.

    python compile_ahead.py CAPABILITY DTYPE:D_KxD_V,... ...       one JSON line a kernel

    python compile_ahead.py 90 bfloat16:256x512,16x32 float32:256x512       for an H100

Run in a process of its own, without the interpreter, it finds what the interpreter cannot: a type
error, a block too large for shared memory, registers that spill. The ops run as they are, on CPU
tensors, but Triton believes in a GPU and stops short of the launch. The first dimensions of a
type are compiled forwards, backwards and in every tile of their states, the others forwards.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from models.kernels import chunk, chunk_op, plan

BATCHES = (2, 4, 8, 16)
"""Sizes at which the states of one head are cut less and less, beside batch 1."""


class AbsentGPU:
    """As much of Triton's driver as compiling takes, for a GPU of a compute capability."""

    def __init__(self, capability: int = 90) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(
    dtype: str, kernel: Any, programs: int, cut: plan.Plan, *args: Any, **sizes: Any
) -> None:
    """Stands in for the launch: compiles, and prints what the kernel takes."""
    compiled = kernel.warmup(
        *args, **sizes, CHUNK=cut.chunk, PRODUCT=cut.product, PRECISION=cut.precision,
        num_warps=cut.warps, num_stages=cut.stages, grid=(programs,),
    )  # fmt: skip
    report(kernel, compiled, dtype=dtype, tile=[cut.rows, cut.columns])


def report(kernel: Any, compiled: Any, **more: Any) -> None:
    """Print what a compiled kernel takes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(count) for name, count in re.findall(r"(REG|STACK):(\d+)", usage)}
    line = {"kernel": kernel.__name__, "registers": found["REG"], "stack_bytes": found["STACK"]}
    print(json.dumps({**line, **more, "shared_bytes": compiled.metadata.shared}))


def inputs(batch: int, dtype: torch.dtype, d_k: int, d_v: int) -> tuple[Tensor, ...]:
    """Queries, keys, values and decays, without numbers."""
    q, k = torch.empty(2, batch, 256, 1, d_k, dtype=dtype).transpose(2, 3)
    v = torch.empty(batch, 256, 1, d_v, dtype=dtype).transpose(1, 2)
    return q, k, v, torch.zeros(1, dtype=torch.float64)


def backward(dtype: torch.dtype, d_k: int, d_v: int) -> None:
    """Compile what a backward pass launches."""
    q, k, v, log_gamma = inputs(1, dtype, d_k, d_v)
    state = torch.empty(1, 1, d_k, d_v)
    chunk_op._backward(q, k, v, log_gamma, state, v, state)


def states(dtype: torch.dtype, d_k: int, d_v: int) -> None:
    """Compile the kernel of states as batches cut it."""
    whole = plan.plan_for(dtype, torch.device("cpu"))
    for batch in BATCHES:
        _, k, v, log_gamma = inputs(batch, dtype, d_k, d_v)
        chunk.states(k, v, log_gamma, None, whole)


def main(capability: int, dims: dict[str, list[tuple[int, int]]]) -> None:
    """Compile for a GPU; one of less than 9.0 has too little shared memory for large blocks."""
    driver.set_active(AbsentGPU(capability))
    chunk_op.unavailable = lambda device: None  # type: ignore[assignment]
    plan._has_large_blocks = lambda device: capability >= 90
    for name, own in dims.items():
        chunk._launch = partial(compile_only, name)
        dtype = getattr(torch, name)
        for d_k, d_v in own:
            chunk_op._forward(*inputs(1, dtype, d_k, d_v), None)
        backward(dtype, *own[0])
        states(dtype, *own[0])


if __name__ == "__main__":
    capability, *groups = sys.argv[1:]
    named = dict(group.split(":") for group in groups)
    main(int(capability), {
        name: [tuple(map(int, pair.split("x"))) for pair in pairs.split(",")]
        for name, pairs in named.items()
    })  # fmt: skip
