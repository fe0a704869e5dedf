"""Compiles kernels for GPUs without one, and says what each takes, a JSON line a launch.

    python compile_ahead.py CAPABILITY CASE... [CAPABILITY CASE...] [--uncompiled ...]

    python compile_ahead.py 90 forward,bfloat16,1,8,256,512 attend,bfloat16,1,4,4,128,8224

Of what stands behind ``--uncompiled`` it says how many programs of how many warps are launched, at
once. A case names what is launched, the type of numbers, the batch size, and then

    forward, backward     heads, d_k, d_v of chunkwise retention
    gate                  heads, d_v of the gated norm, forward and backward
    retain                KV heads, query heads of each, d_k, d_v of a decode step's retention
    attend                KV heads, query heads of each, head dimension, tokens of the cache

Run in a process of its own, without the interpreter, it finds what the interpreter cannot: a type
error, a block too large for shared memory, registers that spill, programs that do not fit side by
side. The ops run as they are, on tensors without numbers, but Triton believes in a GPU and stops
short of the launch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from models.kernels import attend, chunk, chunk_op, gated_norm_op, plan, step
from models.kernels.plan import GPU

TOKENS = 8192
"""Of a sequence that is compiled for: how many changes no kernel, but how many programs run."""

WARP, REGISTERS, RESERVED_BYTES, PROGRAMS = 32, 64 * 1024, 1024, 32
"""Threads of a warp; of a multiprocessor: registers, shared memory that each program takes besides
its own, and the most programs (CUDA C++ Programming Guide, compute capabilities 8.0 to 12.0)."""


@dataclass(frozen=True)
class Model(GPU):
    """A GPU's model, and what of it decides how many programs are resident.

    Attributes:
        name: the card.
        warps: that a multiprocessor holds at most.
        memory_bytes: shared memory of a multiprocessor.
    """

    name: str = ""
    warps: int = 64
    memory_bytes: int = 228 * 1024

    def resident(self, registers: int, shared_bytes: int, warps: int) -> int:
        """Programs of a kernel that a multiprocessor holds at once.

        Args:
            registers: of a thread; they are given out by 256 a warp, to each quarter by itself.
            shared_bytes: of a program.
            warps: of a program.
        """
        a_warp = triton.cdiv(registers * WARP, 256) * 256
        by_registers = REGISTERS // 4 // a_warp * 4 // warps
        by_memory = self.memory_bytes // (shared_bytes + RESERVED_BYTES)
        return min(by_registers, by_memory, self.warps // warps, PROGRAMS)


MODELS = {
    80: Model(108, 163 * 1024, "A100", memory_bytes=164 * 1024),
    90: Model(132, 227 * 1024, "H100"),
    100: Model(148, 227 * 1024, "B200"),
    120: Model(170, 99 * 1024, "RTX 5090", warps=48, memory_bytes=100 * 1024),
}
"""By compute capability, times ten."""


class AbsentGPU:
    """As much of Triton's driver as compiling takes."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, WARP)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it has compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0


def usage(compiled: Any) -> dict[str, int]:
    """Registers and bytes of stack of each thread, as the assembler left them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        printed = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(count) for name, count in re.findall(r"(REG|STACK):(\d+)", printed)}
    return {"registers": found["REG"], "stack_bytes": found["STACK"]}


def instructions(ptx: str) -> dict[str, Any]:
    """What a kernel is made of.

    Returns:
        Which tensor cores it uses, how many bits its accesses to global memory move, those inside
        loops apart, and whether it keeps anything in local memory, which is global.
    """
    lines = [line.strip() for line in ptx.splitlines()]
    names = [re.match(r"(\$\w+):", line) for line in lines]
    labels = {name[1]: number for number, name in enumerate(names) if name}
    inside: set[int] = set()
    for number, line in enumerate(lines):
        target = re.search(r"\bbra\S*\s+(\$\w+)", line)
        if target and labels[target[1]] < number:
            inside.update(range(labels[target[1]], number))
    bits = [_bits(line) for line in lines]
    widths = {bits[number] for number in inside} - {0}
    cores = re.findall(r"\b(wgmma|tcgen05|mma)\.(?:mma|sync|async)", ptx)
    return {
        "tensor_cores": sorted(set(cores)), "bits": sorted({*bits} - {0}),
        "bits_in_loops": sorted(widths),
        "local_memory": ".local" in ptx,
    }  # fmt: skip


def _bits(line: str) -> int:
    """Bits that a thread moves from or to global memory; 0 where a line of PTX does not."""
    if copied := re.search(r"\bcp\.async\S*\.global\S* .*, (0x\w+|\d+), ", line):
        return 8 * int(copied[1], 0)
    if moved := re.search(
        r"\b(?:ld|st)\.global(?:\.[a-z:0-9_]+)*?(?:\.v(\d))?\.[bfsu](\d+) ", line
    ):
        return int(moved[1] or 1) * int(moved[2])
    return 0


@dataclass
class Report:
    """Stands in for every launch."""

    capability: int = 0
    case: str = ""
    compiles: bool = True

    @property
    def gpu(self) -> Model:
        """The one that is compiled for."""
        return MODELS[self.capability]

    def __call__(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        """Compile, and print what the kernel takes and how many programs run at once."""
        line = {"capability": self.capability, "gpu": self.gpu.name}
        line |= {"case": self.case, "kernel": kernel.__name__}
        line |= {"programs": grid[0], "warps": options.get("num_warps", 4)}
        if not self.compiles:
            print(json.dumps(line))
            return
        compiled = RUN(kernel, *args, grid=grid, warmup=True, **options)
        shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
        line |= (
            {"warps": warps}
            | usage(compiled)
            | {"shared_bytes": shared, "fits": shared <= self.gpu.shared_bytes}
        )
        resident = self.gpu.resident(line["registers"], shared, warps)
        slots = resident * self.gpu.multiprocessors
        line |= {"resident": resident, "waves": round(grid[0] / slots, 3) if slots else None}
        print(json.dumps(line | instructions(compiled.asm["ptx"])), flush=True)


RUN = JITFunction.run


def _inputs(dtype: torch.dtype, batch: int, heads: int, d_k: int, d_v: int) -> tuple[Any, ...]:
    q, k = torch.empty(2, batch, TOKENS, heads, d_k, dtype=dtype, device="meta").transpose(2, 3)
    v = torch.empty(batch, TOKENS, heads, d_v, dtype=dtype, device="meta").transpose(1, 2)
    return q, k, v, torch.zeros(heads, dtype=torch.float64, device="meta")


def forward(dtype: torch.dtype, *sizes: int) -> None:
    """What a forward pass launches."""
    chunk_op._forward._init_fn(*_inputs(dtype, *sizes), None)


def backward(dtype: torch.dtype, batch: int, heads: int, d_k: int, d_v: int) -> None:
    """What a backward pass launches."""
    q, k, v, log_gamma = _inputs(dtype, batch, heads, d_k, d_v)
    state = torch.empty(batch, heads, d_k, d_v, device="meta")
    chunk_op._backward._init_fn(q, k, v, log_gamma, state, v, state)


def gate(dtype: torch.dtype, batch: int, heads: int, d_v: int) -> None:
    """What the gated norm launches in a step of training, behind retention of that type."""
    wide = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    x = torch.empty(batch, TOKENS, heads, d_v, dtype=wide, device="meta")
    projected = torch.empty(batch, TOKENS, 3 * heads * d_v, dtype=dtype, device="meta")
    gates = projected[..., -heads * d_v :].view(x.shape)
    gated_norm_op.fused_gated_norm._init_fn(x, gates, 1e-6)
    gated_norm_op._backward._init_fn(x, gates, gates, 1e-6)


def retain(dtype: torch.dtype, batch: int, kv_heads: int, group: int, d_k: int, d_v: int) -> None:
    """What retention launches in a decode step."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    projected = empty(batch, (group + 1) * kv_heads * (d_k + d_v), dtype=dtype)
    out, state = empty(batch, group * kv_heads * d_v, dtype=dtype), empty(batch, kv_heads, d_k, d_v)
    angles, gamma = empty(2, d_k), empty(kv_heads)
    step.launch(projected, angles, angles, gamma, None, state, 1e-6, out)


def attend_(
    dtype: torch.dtype, batch: int, kv_heads: int, group: int, dim: int, max_len: int
) -> None:
    """What attention launches in a decode step."""

    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    qkv, out = empty(batch, (group + 2) * kv_heads * dim), empty(batch, group * kv_heads * dim)
    angles = empty(1, dim, dtype=torch.float32)
    keys = empty(batch, kv_heads, max_len, dim)
    attend.launch(qkv, angles, angles, empty(1, dtype=torch.int64), keys, keys, out)


def main(words: list[str]) -> None:
    """Compile the cases, each for a GPU of the compute capability that stands before it."""
    report = Report()
    JITFunction.run = lambda kernel, *args, **options: report(kernel, *args, **options)
    chunk_op.unavailable = lambda device: None  # type: ignore[assignment]
    for module in (attend, chunk, plan, step):
        module.gpu_at = lambda device: report.gpu  # type: ignore[attr-defined]
    launches = {
        "forward": forward, "backward": backward, "gate": gate, "retain": retain,
        "attend": attend_,
    }  # fmt: skip
    for word in words:
        if word == "--uncompiled":
            report.compiles = False
        elif word.isdecimal():
            report.capability = int(word)
            driver.set_active(AbsentGPU(report.capability))
        else:
            report.case = word
            name, dtype, *sizes = word.split(",")
            launches[name](getattr(torch, dtype), *map(int, sizes))


if __name__ == "__main__":
    main(sys.argv[1:])
