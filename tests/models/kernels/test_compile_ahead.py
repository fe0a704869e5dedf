"""The kernels compile for GPUs of each kind, fit side by side, and use what the GPUs have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.kernels.attend import RESIDENT

SPILLED_BYTES = 64
"""Of a thread's registers; some few that are seldom used, as decays that a loop does not need."""

CHUNKWISE = {"_states_kernel", "_scores_kernel", "_mix_kernel"}
GATE = {"_gated_norm", "_gated_norm_backward"}
STEP = {"_recur", "_finish", "_attend", "_combine"}


@pytest.mark.parametrize(
    ("capability", "tensor_cores", "cases"),
    [
        (
            90,
            "wgmma",
            [
                # A state in tiles of every size that has rows enough for wgmma.
                *(f"forward,bfloat16,1,{heads},256,512" for heads in (16, 8, 4)),
                "forward,bfloat16,1,6,128,256",
                "backward,bfloat16,1,8,256,512",
                "gate,bfloat16,1,8,512",
                "retain,bfloat16,1,8,1,256,512",
                "retain,bfloat16,1,4,2,256,512",
                "attend,bfloat16,1,16,1,128,8224",
                "attend,bfloat16,1,4,4,128,8224",
            ],
        ),
        (
            80,
            "mma",
            [
                "forward,bfloat16,1,8,256,512",
                "backward,bfloat16,1,8,256,512",
                "retain,bfloat16,1,8,1,256,512",
                "attend,bfloat16,1,16,1,128,8224",
                "attend,bfloat16,1,4,4,128,8224",
            ],
        ),
        (100, "tcgen05", ["forward,bfloat16,1,8,256,512", "attend,bfloat16,1,4,4,128,8224"]),
    ],
)
def test_the_kernels_fit_and_read_by_128_bits_into_tensor_cores(
    capability: int, tensor_cores: str, cases: list[str]
) -> None:
    kernels = compiled(capability, *cases)
    for kernel in kernels:
        name = kernel["kernel"]
        if name in CHUNKWISE:
            assert kernel["tensor_cores"] == [tensor_cores], kernel
        if name in CHUNKWISE | {"_attend"}:
            assert set(kernel["bits_in_loops"]) <= {128}, kernel
        if name in GATE:
            assert kernel["bits"] == [128], kernel
        if name == "_attend":
            rows = max(RESIDENT) if kernel["tensor_cores"] else 1
            assert kernel["resident"] >= RESIDENT[rows], kernel


@pytest.mark.parametrize(
    "cases",
    [
        [
            "forward,float16,1,6,64,128",
            "gate,float16,1,6,128",
            "retain,float16,1,8,1,256,512",
            "attend,float16,1,4,4,128,96",
        ],
        [
            "forward,float32,1,8,256,512",
            "gate,float32,1,8,512",
            "retain,float32,1,4,2,256,512",
            "attend,float32,1,16,1,128,96",
            "attend,float32,1,4,4,128,96",
        ],
        # Tiny heads, those that must be masked, and the widest.
        [
            "forward,bfloat16,1,4,16,32",
            "retain,bfloat16,1,6,1,48,96",
            "attend,bfloat16,1,2,4,48,96",
            "attend,bfloat16,1,2,4,256,96",
            "gate,bfloat16,1,6,96",
        ],
    ],
)
def test_kernels_of_other_types_and_heads_fit_any_gpu(cases: list[str]) -> None:
    assert {kernel["kernel"] for kernel in compiled(120, *cases)} == CHUNKWISE | GATE | STEP


def compiled(capability: int, *cases: str) -> list[dict[str, Any]]:
    """What the script says of each kernel that it compiles, which fits and spills nothing."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_ahead.py"), str(capability), *cases],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    assert {kernel["case"] for kernel in kernels} == set(cases)
    for kernel in kernels:
        assert kernel["fits"] and kernel["stack_bytes"] <= SPILLED_BYTES, kernel
        assert kernel["resident"] >= 1 and not kernel["local_memory"], kernel
    return kernels
