"""Compiles the chunkwise kernels for an H100 without one, and prints what each takes.

    python compile_ahead.py DTYPE D_K D_V       one JSON line a kernel

Run in a process of its own, without the interpreter, it finds what the interpreter cannot: a type
error, a block too large for shared memory, registers that spill. The ops run as they are, on CPU
tensors, but Triton believes in a GPU and stops short of the launch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from models.kernels import chunk, chunk_op


class AbsentGPU:
    """As much of Triton's driver as compiling takes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(kernel: Any, programs: int, plan: chunk.Plan, *args: Any, **sizes: Any) -> None:
    """Stands in for the launch: compiles, and prints what the kernel takes."""
    compiled = kernel.warmup(
        *args, **sizes, CHUNK=plan.chunk, PRODUCT=plan.product, PRECISION=plan.precision,
        num_warps=plan.warps, num_stages=plan.stages, grid=(programs,),
    )  # fmt: skip
    report(kernel, compiled)


def report(kernel: Any, compiled: Any) -> None:
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
    print(json.dumps({**line, "shared_bytes": compiled.metadata.shared}))


def main(dtype: torch.dtype, d_k: int, d_v: int) -> None:
    """Compile what a forward and a backward pass launch."""
    driver.set_active(AbsentGPU())
    chunk._launch = compile_only
    chunk_op.unavailable = lambda device: None  # type: ignore[assignment]
    q, k = torch.empty(2, 1, 256, 2, d_k, dtype=dtype).transpose(2, 3)
    v = torch.empty(1, 256, 2, d_v, dtype=dtype).transpose(1, 2)
    log_gamma = torch.zeros(2, dtype=torch.float64)
    state = torch.empty(1, 2, d_k, d_v)
    chunk_op._forward(q, k, v, log_gamma, None)
    chunk_op._backward(q, k, v, log_gamma, state, v, state)


if __name__ == "__main__":
    name, *dims = sys.argv[1:]
    main(getattr(torch, name), *map(int, dims))
