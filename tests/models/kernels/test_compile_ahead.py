"""The kernels compile for an H100, and fit into its shared memory and registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_BYTES = 227 * 1024
"""What a block may have on an H100 (CUDA C++ Programming Guide, compute capability 9.0)."""

SPILLED_BYTES = 64
"""Of a thread's registers; some few that are seldom used, as decays that a loop does not need."""


@pytest.mark.parametrize(
    ("dtype", "d_k", "d_v"), [("bfloat16", 256, 512), ("float16", 64, 128), ("float32", 64, 128)]
)
def test_every_kernel_compiles_and_fits(dtype: str, d_k: int, d_v: int) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_ahead.py")
    run = subprocess.run(
        [sys.executable, script, dtype, str(d_k), str(d_v)],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    assert {k["kernel"] for k in kernels} == {"_states_kernel", "_scores_kernel", "_mix_kernel"}
    assert len(kernels) == 10
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        assert kernel["stack_bytes"] <= SPILLED_BYTES, kernel
