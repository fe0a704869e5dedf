"""The kernels compile for an H100, and fit into its shared memory and registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHARED_BYTES = 227 * 1024
"""What a block may have on an H100 (CUDA C++ Programming Guide, compute capability 9.0)."""

SPILLED_BYTES = 64
"""Of a thread's registers; some few that are seldom used, as decays that a loop does not need."""


@pytest.mark.parametrize(
    ("dtype", "d_k", "d_v"), [("bfloat16", 256, 512), ("float16", 64, 128), ("float32", 64, 128)]
)
def test_every_kernel_compiles_and_fits(dtype: str, d_k: int, d_v: int) -> None:
    kernels = compiled("compile_ahead.py", dtype, d_k, d_v)
    assert {k["kernel"] for k in kernels} == {"_states_kernel", "_scores_kernel", "_mix_kernel"}
    assert len(kernels) == 10
    check(kernels)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_kernel_of_a_step_compiles_and_fits(dtype: str) -> None:
    kernels = compiled("compile_decode_ahead.py", dtype)
    assert {k["kernel"] for k in kernels} == {"_recur", "_finish", "_attend", "_combine"}
    assert len(kernels) == 12
    check(kernels)


def compiled(script: str, *arguments: object) -> list[dict[str, Any]]:
    """What a script prints of each kernel that it compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(kernels: list[dict[str, Any]]) -> None:
    """Nothing exceeds what an H100 has."""
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        assert kernel["stack_bytes"] <= SPILLED_BYTES, kernel
